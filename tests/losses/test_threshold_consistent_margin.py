"""Threshold-consistent margin: what is its own, beside pytorch-metric-learning's."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from torch import Tensor

from fusedml.losses import ThresholdConsistentMarginLoss

pytestmark = pytest.mark.usefixtures("whole_or_tiles")


def formula(s: Tensor, labels: Tensor, margins: tuple[float, float]) -> Tensor:
    same = labels[:, None] == labels
    positive = s[same & ~torch.eye(len(s), dtype=torch.bool)]
    negative = s[~same]
    positive, negative = positive[positive <= margins[0]], negative[negative >= margins[1]]
    return sum(
        (x.sum() / max(1, len(x)) for x in (margins[0] - positive, negative - margins[1])),
        s.sum() * 0,
    )


@pytest.mark.parametrize("margins", [(0.5, 0.5), (0.25, -0.25), (-2.0, 2.0), (1.5, -1.5)])
@pytest.mark.parametrize("n", [1, 2, 40, 900])
def test_pairs_at_the_margin_count(n: int, margins: tuple[float, float]) -> None:
    # rows of length 1 without rounding: 4 entries of +-1 / 2
    generator = torch.Generator().manual_seed(n)
    x = torch.randint(0, 2, (n, 4), generator=generator).double() - 0.5
    x.requires_grad_()
    labels = torch.arange(n) % max(1, n // 4)
    loss = ThresholdConsistentMarginLoss(margin_plus=margins[0], margin_minus=margins[1])
    value = loss(x, labels)
    unit = torch.nn.functional.normalize(x)
    expected = formula(unit @ unit.T, labels, margins)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    grads = (torch.autograd.grad(of, x)[0] for of in (value, expected))
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


def test_one_pair_is_not_too_few() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    pair = torch.tensor([0]), torch.tensor([1])
    for indices in ((*pair, *(x[:0].long()[:, 0],) * 2), (*pair, *pair)):
        value = ThresholdConsistentMarginLoss(2, 3)(x, None, indices)
        theirs = pml_losses.ThresholdConsistentMarginLoss(2, 3)(x, None, indices)
        assert value == theirs == 2 * 0.9


def test_references_are_used() -> None:
    x, labels = torch.eye(4, dtype=torch.float64), torch.arange(4)
    loss = ThresholdConsistentMarginLoss()
    same = loss(x, labels, ref_emb=x, ref_labels=labels.clone())
    other = loss(x, labels, ref_emb=x.roll(1, 0), ref_labels=labels.clone())
    assert same == 0
    torch.testing.assert_close(other, torch.tensor(0.9 + 0.5, dtype=torch.float64))


def test_weights_are_learnt() -> None:
    x, labels = torch.randn(40, 4, dtype=torch.float64), torch.arange(40) % 10
    names = "lambda_plus", "lambda_minus", "margin_plus", "margin_minus"
    values = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (2, 3, 0.7, 0.2)]
    given = dict(zip(names, values, strict=True))
    grads = [
        torch.autograd.grad(ThresholdConsistentMarginLoss(**given, backend=kind)(x, labels), values)
        for kind in ("auto", "dense")
    ]
    torch.testing.assert_close(*grads)
    assert all(grad != 0 for grad in grads[0])
