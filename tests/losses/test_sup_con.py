"""SupCon: the rows that count."""

from __future__ import annotations

import pytest
import torch

from fusedml import reducers
from fusedml.losses import SupConLoss
from tests.losses.made import gradient, make_batch
from tests.losses.points import LABELS, POINTS


@pytest.mark.parametrize("labels", [torch.zeros(20), torch.arange(20)], ids=["one class", "no pos"])
@pytest.mark.parametrize("reducer", [None, reducers.MeanReducer()])
def test_only_one_kind_of_pair_is_zero(labels: torch.Tensor, reducer) -> None:
    embeddings, _ = make_batch()
    value, grad = gradient(SupConLoss(reducer=reducer), embeddings, labels)
    assert value == 0
    assert not grad.any()


def test_rows_without_positives_are_left_out_of_the_mean() -> None:
    rows = SupConLoss(reducer=reducers.DoNothingReducer())(POINTS, LABELS)["loss"]["losses"]
    assert rows[4] == 0
    torch.testing.assert_close(SupConLoss()(POINTS, LABELS), rows.sum() / 5)
    torch.testing.assert_close(
        SupConLoss(reducer=reducers.MeanReducer())(POINTS, LABELS), rows.mean()
    )


def test_one_class_of_references_and_another_of_anchors() -> None:
    """Negatives only: whether there is any is asked of both sides."""
    embeddings, _ = make_batch(4)
    references, _ = make_batch(3, seed=1)
    loss = SupConLoss()
    assert loss(embeddings, torch.zeros(4), None, references, torch.ones(3)) == 0
    mixed = torch.tensor([0.0, 0.0, 1.0])
    assert loss(embeddings, torch.zeros(4), None, references, mixed) > 0
