"""NT-Xent: exact where pytorch-metric-learning saturates, and no list of pairs for the mean."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning.losses import NTXentLoss as PmlNTXentLoss

from fusedml import reducers
from fusedml.distances import DotProductSimilarity
from fusedml.losses import NTXentLoss
from tests.losses.made import gradient, make_batch
from tests.losses.points import on_circle


@pytest.mark.parametrize("labels", [torch.zeros(20), torch.arange(20)], ids=["one class", "no pos"])
def test_only_one_kind_of_pair_is_zero(labels: torch.Tensor) -> None:
    embeddings, _ = make_batch()
    value, grad = gradient(NTXentLoss(), embeddings, labels)
    assert value == 0
    assert not grad.any()


def test_no_cap() -> None:
    """Theirs stops at -log(finfo.tiny) = 87.3 with zero gradient; the loss is s_in/T - s_ip/T."""
    points = on_circle(0, 180, 1, 181).float().requires_grad_()
    labels = torch.tensor([0, 0, 1, 1])
    theirs = PmlNTXentLoss(temperature=0.01)(points, labels)
    assert theirs.item() == pytest.approx(87.3, abs=0.1)
    value, grad = gradient(NTXentLoss(temperature=0.01), points, labels)
    assert value.item() == pytest.approx(200, abs=0.1)
    assert grad.any()


def test_half_precision_of_opposite_positives() -> None:
    points = on_circle(0, 180, 0, 180).half()
    labels = torch.tensor([0, 0, 1, 1])
    exact = NTXentLoss()(points.double(), labels)
    assert NTXentLoss()(points, labels).item() == pytest.approx(exact.item(), rel=2e-3)
    assert exact.item() == pytest.approx(28.57, abs=0.01)


def test_temperature_scales_similarities() -> None:
    embeddings, labels = make_batch()
    as_given = DotProductSimilarity(normalize_embeddings=False)
    cold = NTXentLoss(temperature=0.25, distance=as_given)(embeddings, labels)
    warm = NTXentLoss(temperature=1, distance=as_given)(2 * embeddings, labels)
    torch.testing.assert_close(cold, warm)


def test_mean_and_listed_pairs_agree() -> None:
    embeddings, labels = make_batch(23)
    labels[1] = 42
    listed = NTXentLoss(reducer=reducers.DoNothingReducer())(embeddings, labels)["loss"]
    i, j = torch.where((labels[:, None] == labels) & ~torch.eye(23, dtype=torch.bool))
    assert torch.equal(torch.stack(listed["indices"]), torch.stack([i, j]))
    torch.testing.assert_close(NTXentLoss()(embeddings, labels), listed["losses"].mean())
