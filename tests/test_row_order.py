"""Rows sorted by label, and back."""

from __future__ import annotations

import torch

from fusedml.engine.row_order import RowOrder

LABELS = torch.tensor([3, -1, 3, 0, -1, 3])
ORDER = RowOrder.by_label(LABELS)


def test_equal_labels_keep_their_order() -> None:
    assert ORDER.rows.tolist() == [1, 4, 3, 0, 2, 5]
    assert ORDER.apply(LABELS).tolist() == [-1, -1, 0, 3, 3, 3]


def test_restore_undoes_apply() -> None:
    x = torch.randn(6, 3)
    assert torch.equal(ORDER.restore(ORDER.apply(x)), x)
    assert torch.equal(ORDER.apply(ORDER.restore(x)), x)


def test_gradients() -> None:
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ORDER.apply, x)
    assert torch.autograd.gradcheck(ORDER.restore, x)
    assert ORDER.apply(LABELS).grad_fn is None
