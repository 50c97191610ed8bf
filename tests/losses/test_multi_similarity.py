"""Multi-Similarity: known values, mining, edge cases."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning import miners

from fusedml import distances
from fusedml.losses import MultiSimilarityLoss
from tests.losses.made import gradient, make_batch
from tests.losses.points import LABELS, POINTS, on_circle


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({}, 0.627785),
        ({"mining_epsilon": 0.1}, 0.458494),
        ({"mining_epsilon": 0.1, "beta": 40}, 0.458959),  # the official repository
        ({"base": 1, "mining_epsilon": 0.1}, 0.319976),  # the paper
    ],
)
def test_known_values(arguments: dict, value: float) -> None:
    assert MultiSimilarityLoss(**arguments)(POINTS, LABELS).item() == pytest.approx(value, abs=1e-6)


def test_duplicates_are_positives() -> None:
    """Exact duplicates count; the official repository drops them as if they were the anchor."""
    points, labels = on_circle(0, 0, 30, 5), torch.tensor([0, 0, 0, 1])
    value = MultiSimilarityLoss(mining_epsilon=0.1)(points, labels)
    assert value.item() == pytest.approx(0.587544, abs=1e-6)


def test_whose_labels_decide_about_the_diagonal() -> None:
    points = POINTS.clone()
    loss = MultiSimilarityLoss()
    without = loss(points, LABELS, ref_emb=points.clone(), ref_labels=LABELS)
    with_diagonal = loss(points, LABELS, ref_emb=points.clone(), ref_labels=LABELS.clone())
    assert without == loss(points, LABELS)
    assert with_diagonal.item() == pytest.approx(0.7384, abs=1e-4)


def test_only_one_kind_of_pair() -> None:
    embeddings, _ = make_batch()
    similarity = distances.CosineSimilarity()(embeddings).detach()
    others = similarity.masked_fill(torch.eye(20, dtype=torch.bool), -torch.inf)
    negative = torch.nn.functional.softplus(torch.logsumexp(50 * (others - 0.5), 1)) / 50
    all_different = MultiSimilarityLoss()(embeddings, torch.arange(20))
    torch.testing.assert_close(all_different.detach(), negative.mean())
    others = similarity.masked_fill(torch.eye(20, dtype=torch.bool), torch.inf)
    positive = torch.nn.functional.softplus(torch.logsumexp(-2 * (others - 0.5), 1)) / 2
    one_class = MultiSimilarityLoss()(embeddings, torch.zeros(20))
    torch.testing.assert_close(one_class.detach(), positive.mean())


def test_nothing_mined_is_a_zero_that_backpropagates() -> None:
    points = on_circle(0, 1, 90, 91).requires_grad_()
    value, grad = gradient(MultiSimilarityLoss(mining_epsilon=0.1), points, torch.arange(4) // 2)
    assert value == 0
    assert not grad.any()


def test_mining_within_a_list_is_mining_of_the_listed_pairs() -> None:
    embeddings, labels = make_batch()
    mined = miners.MultiSimilarityMiner(0.1)(embeddings.detach(), labels)
    i, j = torch.where(~torch.eye(20, dtype=torch.bool))
    same = labels[i] == labels[j]
    everything = (i[same], j[same], i[~same], j[~same])
    expected = gradient(MultiSimilarityLoss(), embeddings, labels, mined)
    for actual in (
        gradient(MultiSimilarityLoss(mining_epsilon=0.1), embeddings, labels, everything),
        gradient(MultiSimilarityLoss(mining_epsilon=0.1), embeddings, labels),
    ):
        torch.testing.assert_close(actual, expected)


@pytest.mark.filterwarnings("ignore:.*not a distance that fusedml")
@pytest.mark.parametrize("distance", [distances.LpDistance(power=3), distances.LpDistance(p=1)])
def test_mining_by_blocks(distance: distances.BaseDistance) -> None:
    embeddings, labels = make_batch()
    mined = miners.MultiSimilarityMiner(0.2, distance=distance)(embeddings.detach(), labels)
    expected = gradient(MultiSimilarityLoss(distance=distance), embeddings, labels, mined)
    loss = MultiSimilarityLoss(distance=distance, mining_epsilon=0.2)
    torch.testing.assert_close(gradient(loss, embeddings, labels), expected)


def test_large_logits_do_not_overflow() -> None:
    points = (1e3 * POINTS).float().requires_grad_()
    loss = MultiSimilarityLoss(
        distance=distances.DotProductSimilarity(normalize_embeddings=False), beta=500
    )
    value, grad = gradient(loss, points, LABELS)
    assert torch.isfinite(value)
    assert torch.isfinite(grad).all()
