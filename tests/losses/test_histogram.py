"""HistogramLoss: by pulses, and pytorch-metric-learning's, whose bins are found in float32."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import miners
from torch import Tensor
from torch.nn.functional import normalize

from fusedml import distances
from fusedml.losses import HistogramLoss
from tests.losses.made import gradient, make_batch
from tests.losses.test_fast_ap import tiles

__all__ = ["tiles"]


class Cosine(distances.CosineSimilarity):
    """A type that is not recognised."""


def by_hand(embeddings: Tensor, labels: Tensor, n_bins: int) -> Tensor:
    x, delta = normalize(embeddings), 2 / n_bins
    i, j = torch.triu_indices(len(x), len(x), 1)
    same = labels[i] == labels[j]
    alone = torch.tensor([int((labels == y).sum()) == 1 for y in labels])
    kinds = same, ~same & ~(alone[i] & alone[j])
    edges = -1 + delta * torch.arange(n_bins + 1, dtype=torch.float64)
    histograms = []
    for kind in kinds:
        s = (x[i[kind]] * x[j[kind]]).sum(1)
        histograms.append(torch.relu(1 - (s[:, None] - edges).abs() / delta).mean(0))
    return (histograms[1] * histograms[0].cumsum(0)).sum()


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("num_classes", [3, 10, 33])
@pytest.mark.parametrize("n_bins", [8, 100])
@pytest.mark.filterwarnings("ignore:.*not a distance that fusedml")
def test_the_formula(num_classes, n_bins) -> None:
    embeddings, labels = make_batch(40)[0], torch.arange(40) % num_classes
    labels[:2] = torch.tensor([-99, -98])  # a pair of two without positives
    exact = by_hand(embeddings, labels, n_bins)
    expected = exact.detach(), torch.autograd.grad(exact, embeddings)[0]
    for options in ({}, {"backend": "dense"}, {"distance": Cosine()}):
        actual = gradient(HistogramLoss(n_bins, **options), embeddings, labels)
        torch.testing.assert_close(actual, expected)
    theirs = gradient(pml_losses.HistogramLoss(n_bins), embeddings, labels)
    torch.testing.assert_close(actual, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("labels", [torch.zeros(12).long(), torch.arange(12)])
@pytest.mark.filterwarnings("ignore:.*no pair is positive")
def test_without_triplets(labels) -> None:
    value, grad = gradient(HistogramLoss(), make_batch(12)[0], labels)
    assert value == 0
    assert not grad.any()


def test_tuples() -> None:
    embeddings, labels = make_batch(20)
    triplets = miners.TripletMarginMiner(margin=0.5)(embeddings, labels)
    a, p, n = triplets
    pairs = a, p, a, n
    theirs = pml_losses.HistogramLoss(25)
    for listed in (triplets, pairs, (a[:0],) * 3):
        actual = gradient(HistogramLoss(25), embeddings, labels, listed)
        expected = gradient(theirs, embeddings, labels, listed)
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


def test_pairs_in_both_directions_of_anchors_with_one_kind_and_with_both() -> None:
    embeddings, labels = make_batch(20)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        positive, negative = torch.randint(12, (2, 2, 9), generator=generator)
        indices = (*positive, *(negative + 6))  # rows 6 to 11 have both, none is its own pair
        apart = [indices[k] != indices[k + 1] for k in (0, 2)]
        listed = tuple(x[apart[k // 2]] for k, x in enumerate(indices))
        actual = gradient(HistogramLoss(25), embeddings, labels, listed)
        expected = gradient(pml_losses.HistogramLoss(25), embeddings, labels, listed)
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


def test_a_long_list_takes_memory_by_its_length() -> None:
    n = 400
    embeddings, labels = make_batch(n)[0], torch.arange(n) % 4
    pairs = miners.PairMarginMiner(pos_margin=-9, neg_margin=9)(embeddings, labels)
    num_triplets = n * 99 * 300
    with torch.profiler.profile(profile_memory=True) as profile:
        HistogramLoss()(embeddings, labels, pairs)
    most = max(event.cpu_memory_usage for event in profile.events())
    assert most < num_triplets  # a byte for each of what they would make


def test_equal_embeddings_are_in_the_last_bin() -> None:
    embeddings = torch.tensor([[1.0, 0], [1, 0], [0, 1]], dtype=torch.float64).requires_grad_()
    value, grad = gradient(HistogramLoss(4), embeddings, torch.tensor([0, 0, 1]))
    assert value == 0  # the negatives are at 0, the positives at 1
    assert grad.isfinite().all()


def test_widths() -> None:
    assert HistogramLoss(50).grid() == HistogramLoss(delta=0.04).grid()
    assert HistogramLoss().grid()[2] == 101
    with pytest.raises(ValueError, match=r"delta must be 2 / n_bins = 0\.2, got 0\.3"):
        HistogramLoss(10, 0.3)
    with pytest.raises(ValueError, match=r"n_bins must be > 0 .* got n_bins=None and delta=3"):
        HistogramLoss(delta=3)


@pytest.mark.also_emulated
@pytest.mark.usefixtures("whole_or_tiles")
@pytest.mark.filterwarnings("ignore:.*not a distance that fusedml")
@pytest.mark.parametrize("kind", ["auto", "dense", "not fused"])
def test_the_gradient_at_an_edge_is_that_of_one_side(kind: str) -> None:
    """Orthogonal rows are measured at an edge: both pulses there are of the cell above it."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.zeros(14, 8, dtype=torch.float64)
    rows[torch.arange(6), torch.arange(6) % 4] = 1
    rows[6:] = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    labels = torch.arange(14) % 3
    distance = Cosine() if kind == "not fused" else None
    loss = HistogramLoss(distance=distance, backend="dense" if kind == "dense" else "auto")
    x = rows.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(x, labels), x)
    nearer = torch.zeros_like(rows)
    nearer[:6, :4] = 1
    step = 1e-7
    slope = (loss(rows + step * nearer, labels) - loss(rows, labels)) / step
    torch.testing.assert_close((grad * nearer).sum(), slope, rtol=1e-4, atol=1e-6)
