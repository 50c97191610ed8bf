"""Multi-Similarity: known values, mining, edge cases."""

from __future__ import annotations

import warnings

import pytest
import torch
from pytorch_metric_learning import miners
from pytorch_metric_learning.utils import loss_and_miner_utils

from fusedml import distances
from fusedml.losses import MultiSimilarityLoss, multi_similarity
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
    torch.testing.assert_close(without, loss(points, LABELS))
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


@pytest.fixture
def hints(monkeypatch):
    """The number of hints given while an index tuple of a batch of 300 is used."""
    monkeypatch.setattr(multi_similarity, "_HINTED", set())
    embeddings, labels = torch.randn(300, 8), torch.arange(300) % 10

    def count(indices_of, **arguments) -> int:
        indices = indices_of(embeddings, labels)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            MultiSimilarityLoss(**arguments)(embeddings, labels, indices)
        return sum("mining_epsilon" in str(warning.message) for warning in caught)

    return count


def test_one_hint_from_the_miner_to_mining_epsilon(hints) -> None:
    miner = miners.MultiSimilarityMiner(0.1)
    assert [hints(miner) for _ in range(3)] == [1, 0, 0]


def test_no_hint_where_it_would_be_wrong(hints) -> None:
    def all_pairs(_, labels):
        return loss_and_miner_utils.get_all_pairs_indices(labels)

    def few_pairs(_, labels):
        return tuple(index[:1000] for index in all_pairs(_, labels))

    miner = miners.MultiSimilarityMiner(0.1)
    assert hints(all_pairs) == hints(few_pairs) == hints(lambda *_: None) == 0
    assert hints(miner, mining_epsilon=0.1) == 0
    assert hints(miners.TripletMarginMiner(0.3)) == 0
    assert hints(miner) == 1


def test_a_hint_that_is_made_an_error_is_one_once(monkeypatch) -> None:
    monkeypatch.setattr(multi_similarity, "_HINTED", set())
    embeddings, labels = torch.randn(300, 8), torch.arange(300) % 10
    indices = miners.MultiSimilarityMiner(0.1)(embeddings, labels)
    loss = MultiSimilarityLoss()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="mining_epsilon"):
            loss(embeddings, labels, indices)
        assert loss(embeddings, labels, indices) > 0
