"""Miners that draw: what they draw from, how often, and that strips do not matter."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning import miners as pml
from torch import Tensor

from fusedml import distances, miners
from fusedml.engine.routes import row_strips
from fusedml.losses import MultiSimilarityLoss
from tests.miners.made import LABELS, REFERENCES, gaussian, references

RANDOM = ("DistanceWeightedMiner", "UniformHistogramMiner")


def check_frequencies(drawn: Tensor, expected: Tensor, draws: Tensor) -> None:
    """Each within three standard errors; drawn and expected [n, m], draws of each row, [n, 1]."""
    deviation = drawn / draws - expected
    error = (expected * (1 - expected) / draws).sqrt()
    assert bool((deviation.abs() <= 3 * error).all())
    assert bool((drawn[expected == 0] == 0).all())


def distance_weights(x: Tensor, labels: Tensor, cutoff: float, farthest: float) -> Tensor:
    """Wu et al. 2017, the dense formula."""
    d, dim = torch.cdist(*[torch.nn.functional.normalize(x)] * 2).clamp(min=cutoff), x.shape[1]
    weights = d ** (2 - dim) * (1 - d**2 / 4) ** ((3 - dim) / 2)
    weights[(labels[:, None] == labels) | (d >= farthest)] = 0
    return weights / weights.sum(1, keepdim=True)


@pytest.mark.parametrize("cutoffs", [(0.5, 1.4), (0.9, 1.2)])
def test_frequencies_of_distance_weighted(cutoffs: tuple[float, float]) -> None:
    x = gaussian(9, 3)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 0])
    expected = distance_weights(x, labels, *cutoffs)
    assert len(expected[0].unique()) > 3
    miner = miners.DistanceWeightedMiner(*cutoffs)
    torch.manual_seed(1)
    negatives, positives = torch.zeros(9, 9), torch.zeros(9, 9)
    for _ in range(1500):
        a, p, n = miner(x, labels)
        ones = torch.ones(len(a))
        negatives.index_put_((a, n), ones, accumulate=True)
        positives.index_put_((a, p), ones, accumulate=True)
    draws = negatives.sum(1, keepdim=True)
    assert draws[:, 0].tolist() == [1500 * int((labels == label).sum()) for label in labels]
    check_frequencies(negatives, expected, draws)
    same = (labels[:, None] == labels).float().fill_diagonal_(0)
    check_frequencies(positives, same / same.sum(1, keepdim=True), draws)


@pytest.mark.parametrize("pattern", LABELS)
@pytest.mark.parametrize("kind", REFERENCES)
def test_distance_weighted_has_as_many_triplets_of_each_anchor(pattern: str, kind: str) -> None:
    labels = LABELS[pattern]
    batch = references(kind, gaussian(len(labels)), labels)
    a, p, n = miners.DistanceWeightedMiner()(*batch)
    expected, *_ = pml.DistanceWeightedMiner()(*batch) if len(labels) > 1 else (a,)
    assert torch.equal(a, expected)  # by label, then by anchor
    others = labels if batch.ref_labels is None else batch.ref_labels
    assert bool((labels[a] == others[p]).all())
    assert bool((labels[a] != others[n]).all())
    if kind in ("none", "same labels"):
        assert bool((a != p).all())


def test_a_row_of_small_weights_is_not_dropped() -> None:
    """Beside one of large ones, in float32: weights go with d to the power of 2 - dim."""
    dim = 512
    x = torch.zeros(4, dim)
    x[0, 0], x[1, 0], x[2, 1], x[3, 1] = 1, 1, 1, 1
    x[3, 2] = 1.5  # far from 2, of the same class; near 4
    x = torch.cat([x, torch.nn.functional.normalize(x[3:], dim=1)])
    labels = torch.tensor([0, 0, 1, 1, 2])
    miner = miners.DistanceWeightedMiner(nonzero_loss_cutoff=1.5)
    a, _, n = miner(x, labels)
    assert set(a.tolist()) == {0, 1, 2, 3}
    assert bool((labels[a] != labels[n]).all())


@pytest.mark.parametrize("distance", [None, distances.CosineSimilarity()])
@pytest.mark.parametrize("kind", REFERENCES)
@pytest.mark.parametrize("pattern", LABELS)
def test_uniform_histogram_draws_as_many_of_each_bin(pattern, kind, distance) -> None:
    labels = LABELS[pattern]
    batch = references(kind, gaussian(len(labels)), labels)
    ours = miners.UniformHistogramMiner(7, 4, 3, distance=distance)
    theirs = pml.UniformHistogramMiner(7, 4, 3, distance=ours.distance)
    torch.manual_seed(0)
    mined, expected = ours(*batch), theirs(*batch)
    assert [len(index) for index in mined] == [len(index) for index in expected]
    matrix = ours.distance(batch.embeddings, batch.ref_emb)
    others = labels if batch.ref_labels is None else batch.ref_labels
    for k, per_bin in ((0, 4), (2, 3)):
        same = labels[mined[k]] == others[mined[k + 1]]
        assert bool((same == (k == 0)).all())
        if kind in ("none", "same labels"):
            assert bool((mined[k] != mined[k + 1]).all())
        measures, of_theirs = (
            matrix[index[k], index[k + 1]].view(-1, per_bin) for index in (mined, expected)
        )
        # bin by bin in ascending order, and the same bins
        low, high = measures.amin(1), measures.amax(1)
        assert bool((high[:-1] <= low[1:]).all())
        assert bool((of_theirs.amax(1)[:-1] < low[1:]).all())
        assert bool((high[:-1] < of_theirs.amin(1)[1:]).all())


@pytest.mark.usefixtures("strips")
def test_frequencies_of_uniform_histogram() -> None:
    x, labels = gaussian(9, 3), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 0])
    bins, draws = 4, 20000
    torch.manual_seed(4)
    mined = miners.UniformHistogramMiner(bins, draws, draws)(x, labels)
    matrix = distances.LpDistance()(x)
    same = labels[:, None] == labels
    off = ~torch.eye(9, dtype=torch.bool)
    for k, mask in ((0, same & off), (2, ~same)):
        i, j = torch.where(mask)
        low, high = matrix[i, j].aminmax()
        width = (high - low) / bins
        bin_of = ((matrix[i, j] - low) / width).long().clamp(max=bins - 1)
        members = torch.bincount(bin_of, minlength=bins)
        drawn = torch.zeros(9, 9).index_put_(
            (mined[k], mined[k + 1]), torch.ones(len(mined[k])), accumulate=True
        )
        assert int(drawn.sum()) == int((members > 0).sum()) * draws
        expected = 1 / members[bin_of]
        check_frequencies(drawn[i, j], expected, torch.tensor(draws))


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("kind", REFERENCES)
def test_strips_and_dtype_of_the_sums_do_not_matter(name: str, kind: str, monkeypatch) -> None:
    labels = LABELS["some alone"]
    batch = references(kind, gaussian(len(labels)), labels)
    mined = []
    for elements in (1, 70, 300, 1 << 20):
        monkeypatch.setattr(row_strips, "STRIP_ELEMENTS", elements)
        torch.manual_seed(7)
        mined.append(torch.cat(getattr(miners, name)()(*batch)))
    assert all(torch.equal(mined[0], other) for other in mined[1:])


@pytest.mark.parametrize("name", RANDOM)
def test_the_seed_is_torchs(name: str) -> None:
    labels, miner = LABELS["two large classes"], getattr(miners, name)()
    batch = gaussian(len(labels)), labels
    torch.manual_seed(3)
    first, other = torch.cat(miner(*batch)), torch.cat(miner(*batch))
    torch.manual_seed(3)
    assert torch.equal(first, torch.cat(miner(*batch)))
    assert not torch.equal(first, other)


def test_maximum_loss_takes_the_subset_with_the_largest_loss() -> None:
    x, labels = gaussian(20), torch.arange(20) % 5
    loss, inner = MultiSimilarityLoss(), miners.MultiSimilarityMiner(0.3)
    miner = miners.MaximumLossMiner(loss, inner, output_batch_size=8, num_trials=6)
    torch.manual_seed(2)
    subsets = [torch.randperm(20)[:8] for _ in range(6)]
    losses = [loss(x[k], labels[k], inner(x[k], labels[k])).item() for k in subsets]
    torch.manual_seed(2)
    assert torch.equal(miner(x, labels), subsets[losses.index(max(losses))])
    assert len(set(losses)) > 1
    # the loss is that of what the inner miner finds
    mined = [inner(x[k], labels[k])[2].sum().item() for k in subsets]
    miner = miners.MaximumLossMiner(lambda *args: args[2][2].sum(), inner, 8, 6)
    torch.manual_seed(2)
    assert torch.equal(miner(x, labels), subsets[mined.index(max(mined))])
    miner = miners.MaximumLossMiner(loss, output_batch_size=8, num_trials=6, collect_stats=True)
    torch.manual_seed(2)
    miner(x, labels)
    losses = [loss(x[k], labels[k]).item() for k in subsets]
    assert miner.max_loss == pytest.approx(max(losses))
    assert miner.avg_loss == pytest.approx(sum(losses) / 6)
    assert len(miners.MaximumLossMiner(loss)(x[:11], labels[:11])) == 6  # half, rounded up
