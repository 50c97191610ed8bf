"""The losses on curves: by hand, over the range of their logits, and their hyper-parameters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fusedml.distances import DotProductSimilarity, LpDistance
from fusedml.errors import DistanceError
from fusedml.losses import CircleLoss, TupletMarginLoss
from tests.losses.made import gradient, make_batch
from tests.problems import assert_close

pytestmark = pytest.mark.usefixtures("whole_or_tiles")


def by_hand(embeddings: Tensor, labels: Tensor, m: float, gamma: float) -> Tensor:
    x = torch.nn.functional.normalize(embeddings)
    s = x @ x.T
    same = labels[:, None] == labels
    positive = same & ~torch.eye(len(x), dtype=torch.bool)
    of_positives = -gamma * torch.relu(1 + m - s.detach()) * (s - 1 + m)
    of_negatives = gamma * torch.relu(s.detach() + m) * (s - m)
    infinity = torch.tensor(-torch.inf, dtype=s.dtype)
    lse = torch.where(positive, of_positives, infinity).logsumexp(1)
    return torch.nn.functional.softplus(
        lse + torch.where(same, infinity, of_negatives).logsumexp(1)
    ).mean()


# float32 sums without a maximum where |logit| <= 70: everywhere; of negatives only; nowhere.  In
# float64, up to 600, the last is the second.
@pytest.mark.also_emulated
@pytest.mark.parametrize(("m", "gamma"), [(0.4, 10), (0.4, 80), (0.25, 256), (-0.2, 40), (1.3, 30)])
@pytest.mark.parametrize("n", [24, 450])
def test_value_and_gradient(m: float, gamma: float, n: int) -> None:
    embeddings, labels = make_batch(n)
    value = by_hand(embeddings, labels, m, gamma)
    (grad,) = torch.autograd.grad(value, embeddings)
    actual, actual_grad = gradient(CircleLoss(m, gamma), embeddings, labels)
    torch.testing.assert_close(actual, value.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(actual_grad, grad, rtol=1e-8, atol=1e-8)
    single = embeddings.detach().float().requires_grad_()
    plain = by_hand(single, labels, m, gamma)
    (plain_grad,) = torch.autograd.grad(plain, single)
    ours, ours_grad = gradient(CircleLoss(m, gamma), single, labels)
    assert_close(ours, value.detach(), plain.detach(), 2e-6, "value")
    assert_close(ours_grad.double(), grad, plain_grad, 2e-6, "gradient")


@pytest.mark.also_emulated
@pytest.mark.parametrize(
    ("loss", "numbers"),
    [(CircleLoss, {"m": 0.3, "gamma": 20.0}), (TupletMarginLoss, {"margin": 9.0, "scale": 12.0})],
)
def test_hyperparameters_are_learnt(loss, numbers) -> None:
    embeddings, labels = make_batch(200)
    grads = []
    for backend in ("auto", "dense"):
        tensors = {
            name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
            for name, value in numbers.items()
        }
        value = loss(**tensors, backend=backend)(embeddings, labels)
        grads.append(torch.autograd.grad(value, [*tensors.values(), embeddings]))
    for actual, expected in zip(*grads, strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(actual, expected)


@pytest.mark.also_emulated
def test_equal_embeddings_have_a_finite_gradient() -> None:
    embeddings, labels = make_batch(24, torch.float32)
    repeated = embeddings.detach()[labels].requires_grad_()
    for loss in (CircleLoss(), TupletMarginLoss()):
        value, grad = gradient(loss, repeated, labels)
        assert torch.isfinite(value)
        assert torch.isfinite(grad).all()


@pytest.mark.parametrize("loss", [CircleLoss, TupletMarginLoss])
@pytest.mark.parametrize("distance", [LpDistance(), DotProductSimilarity()])
def test_another_distance(loss, distance) -> None:
    name = type(distance).__name__
    message = f"distance must be a CosineSimilarity for {loss.__name__}, got {name}"
    with pytest.raises(DistanceError, match=message):
        loss(distance=distance)
