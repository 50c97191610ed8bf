"""Exponential ranking loss against the sum over all triplets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fusedml.distances import DotProductSimilarity, LpDistance
from fusedml.losses import ExponentialRankingLoss

pytestmark = pytest.mark.usefixtures("whole_or_tiles")


def over_triplets(x: Tensor, labels: Tensor) -> Tensor:
    same = labels[:, None] == labels
    positive = same & ~torch.eye(len(x), dtype=torch.bool)
    triplets = positive[:, :, None] & ~same[:, None, :]
    u = x[:, None, :] - x[:, :, None]
    return torch.where(triplets, u, -torch.inf).exp().sum((1, 2)).mean()


LABELS = {
    "four a class": lambda n: torch.arange(n) % max(1, n // 4),
    "rows without positives": lambda n: torch.arange(n) % max(1, (3 * n) // 4),
    "one class": torch.zeros,
    "all different": torch.arange,
}


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("distance", [None, LpDistance()])
@pytest.mark.parametrize("n", [1, 2, 23, 60])
def test_against_all_triplets(n: int, distance, labels: str) -> None:
    x = torch.randn(n, 5, dtype=torch.float64, requires_grad=True)
    y = LABELS[labels](n)
    loss = ExponentialRankingLoss(distance=distance)
    value = loss(x, y)
    sign = 1 if distance is None else -1
    expected = over_triplets(sign * loss.distance(x), y)
    torch.testing.assert_close(value, expected)
    grads = (torch.autograd.grad(of, x)[0] for of in (value, expected))
    torch.testing.assert_close(*grads)


def test_negative_similarities_do_not_cancel() -> None:
    """e^{lse+ + lse-} is exact where both sums are out of range."""
    x = torch.tensor([[30.0, 0], [30, 0.1], [29.9, 0]], requires_grad=True)
    distance = DotProductSimilarity(normalize_embeddings=False)
    value = ExponentialRankingLoss(distance=distance)(x, torch.tensor([0, 0, 1]))
    s = x.detach().double() @ x.detach().double().T
    expected = ((s[0, 2] - s[0, 1]).exp() + (s[1, 2] - s[1, 0]).exp()) / 3
    torch.testing.assert_close(value.double(), expected, rtol=1e-3, atol=0)
    assert torch.isfinite(torch.autograd.grad(value, x)[0]).all()
