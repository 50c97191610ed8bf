"""Signal-to-noise ratios: the distance, its operands, and the loss beside theirs."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from pytorch_metric_learning import distances as pml_distances
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import reducers as pml_reducers
from torch import Tensor

from fusedml import reducers
from fusedml.distances import SNRDistance
from fusedml.losses import SignalToNoiseRatioContrastiveLoss

REDUCERS = ["AvgNonZeroReducer", "MeanReducer", "SumReducer", "PerAnchorReducer"]


def make_rows(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(n + seed)
    return torch.randn(n, 6, generator=generator, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("arguments", [{}, {"normalize_embeddings": False}, {"p": 1}])
def test_the_distance_is_theirs(arguments: dict) -> None:
    x, y = make_rows(9), make_rows(7, seed=1)
    ours, theirs = (kind.SNRDistance(**arguments) for kind in (_Ours, pml_distances))
    torch.testing.assert_close(ours(x, y), theirs(x, y))
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.pairwise_distance(x[:7], y), theirs.pairwise_distance(x[:7], y))
    a, r = SNRDistance.twin_of(theirs).operands(x, y)
    torch.testing.assert_close(a @ r.T, theirs(x, y))


class _Ours:
    SNRDistance = SNRDistance


def test_rows_without_variance_are_at_1() -> None:
    x, y = torch.ones(2, 4, requires_grad=True), torch.eye(4)[:2]
    distance = SNRDistance(normalize_embeddings=False)
    a, r = distance.operands(x, y)
    for values in (distance(x, y).flatten(), (a @ r.T).flatten(), distance.pairwise_distance(x, y)):
        torch.testing.assert_close(values, torch.ones_like(values))
        assert not torch.autograd.grad(values.sum(), x, retain_graph=True)[0].any()


@pytest.mark.parametrize("reducer", REDUCERS)
@pytest.mark.parametrize("n", [2, 40, 820])
def test_theirs_by_labels_and_by_tuples(n: int, reducer: str) -> None:
    if n > 100 and reducer != "MeanReducer":
        pytest.skip("theirs takes n x n x d numbers")
    x, labels = make_rows(n), torch.arange(n) % max(1, n // 4)
    rows, columns = torch.where(torch.rand(n, n) < 0.3)
    same = labels[rows] == labels[columns]
    listed = rows[same], columns[same], rows[~same], columns[~same]
    apart = tuple(
        index[pairs[0] != pairs[1]] for pairs in (listed[:2], listed[2:]) for index in pairs
    )
    for indices in (None, listed, apart):
        results = []
        for kind, package in (
            (SignalToNoiseRatioContrastiveLoss, reducers),
            (pml_losses.SignalToNoiseRatioContrastiveLoss, pml_reducers),
        ):
            given = {"pos_margin": 0.1, "neg_margin": 1.9}
            value = kind(reducer=getattr(package, reducer)(), **given)(x, labels, indices)
            results.append((value, torch.autograd.grad(value, x)[0]))
        torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)


def test_references_and_their_distance() -> None:
    x, y = make_rows(30), make_rows(50, seed=1)
    labels, ref_labels = torch.arange(30) % 7, torch.arange(50) % 7
    results = []
    for distance, backend in (
        (None, "auto"),
        (pml_distances.SNRDistance(), "auto"),
        (None, "dense"),
    ):
        loss = SignalToNoiseRatioContrastiveLoss(distance=distance, backend=backend)
        value = loss(x, labels, None, y, ref_labels)
        results.append((value, *torch.autograd.grad(value, [x, y])))
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])


@pytest.mark.parametrize("n", [12, 450])
def test_listed_equal_rows_are_at_0(n: int) -> None:
    """Without rounding: no loss above 0 that would count in the mean."""
    x = make_rows(n).detach().repeat(2, 1)
    i = torch.arange(n)
    number = n * n // 8  # of pairs of different rows, which make up a matrix
    far = torch.zeros(number).long(), torch.ones(number).long()
    loss = SignalToNoiseRatioContrastiveLoss(neg_margin=0)
    assert loss(x, None, (i, i + n, *far)) == 0


def test_long_lists_are_read_from_a_matrix() -> None:
    """Where it is no larger than the list: in a fraction of the time of differences."""
    x, labels = make_rows(900), torch.arange(900) % 200
    rows, columns = torch.where(torch.rand(900, 900).fill_diagonal_(1) < 0.1)
    same = labels[rows] == labels[columns]
    indices = rows[same], columns[same], rows[~same], columns[~same]
    loss = SignalToNoiseRatioContrastiveLoss()
    with mock.patch.object(SNRDistance, "of_pairs", side_effect=AssertionError):
        value = loss(x, None, indices)
    assert value > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_measured_in_float32(dtype: torch.dtype) -> None:
    x, labels = make_rows(40).detach().to(dtype), torch.arange(40) % 10
    loss = SignalToNoiseRatioContrastiveLoss(pos_margin=0.1, neg_margin=1.9)
    exact = loss(x.double(), labels)
    value = loss.evaluate(x, labels)
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=0)
