"""Contrastive loss: what is its own, beside pytorch-metric-learning's."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning import distances as pml_distances
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import reducers as pml_reducers
from torch import Tensor

from fusedml import functional, losses, reducers

REDUCERS = {
    "non-zero": lambda kinds: kinds.AvgNonZeroReducer(),
    "mean": lambda kinds: kinds.MeanReducer(),
    "sum": lambda kinds: kinds.SumReducer(),
    "between": lambda kinds: kinds.ThresholdReducer(low=1, high=4),
    "below": lambda kinds: kinds.ThresholdReducer(high=3),
    "above a negative number": lambda kinds: kinds.ThresholdReducer(low=-1),
    "per anchor": lambda kinds: kinds.PerAnchorReducer(),
    "non-zero per anchor": lambda kinds: kinds.PerAnchorReducer(kinds.AvgNonZeroReducer()),
    "class weights": lambda kinds: kinds.ClassWeightedReducer(torch.arange(1.0, 31.0).double()),
    "one each": lambda kinds: kinds.MultipleReducers(
        {"pos_loss": kinds.MeanReducer(), "neg_loss": kinds.ThresholdReducer(low=2)}
    ),
}


def make_batch(n: int) -> tuple[Tensor, Tensor]:
    """Whole numbers: losses at the margin, and equal ones, everywhere."""
    return torch.randint(-2, 3, (n, 4)).double(), torch.arange(n) % (n // 4)


def make_tuple(labels: Tensor, repeats: bool) -> tuple[Tensor, ...]:
    n = len(labels)
    rows, columns = torch.where((torch.rand(n, n) < 0.3) & ~torch.eye(n, dtype=torch.bool))
    same = labels[rows] == labels[columns]
    lists = rows[same], columns[same], rows[~same], columns[~same]
    return tuple(torch.cat([x, x[:3]]) for x in lists) if repeats else lists


def value_and_gradient(loss, embeddings: Tensor, *arguments) -> tuple[Tensor, Tensor]:
    x = embeddings.clone().requires_grad_()
    value = loss(x, *arguments)
    return value.detach(), torch.autograd.grad(value, x)[0]


@pytest.mark.parametrize("reducer", REDUCERS)
@pytest.mark.parametrize("has_tuple", [False, True])
@pytest.mark.parametrize("n", [40, 120])
def test_reducers_on_whole_numbers(reducer, has_tuple, n, whole_or_tiles) -> None:
    (embeddings, labels), make = make_batch(n), REDUCERS[reducer]
    # theirs gives a listed pair's gradient to each of its repetitions where it counts once
    indices = make_tuple(labels, "per anchor" not in reducer) if has_tuple else None
    arguments = {"pos_margin": 3, "neg_margin": -2}
    ours = losses.ContrastiveLoss(reducer=make(reducers), distance=dot(), **arguments)
    theirs = pml_losses.ContrastiveLoss(reducer=make(pml_reducers), distance=dot(), **arguments)
    actual = value_and_gradient(ours, embeddings, labels, indices)
    expected = value_and_gradient(theirs, embeddings, labels, indices)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    assert expected[0] > 0


def dot() -> pml_distances.DotProductSimilarity:
    return pml_distances.DotProductSimilarity(normalize_embeddings=False)


pytestmark = pytest.mark.usefixtures("whole_or_tiles")


@pytest.mark.parametrize("n", [40, 900])
def test_single_losses(n: int) -> None:
    embeddings, labels = make_batch(n)
    x = torch.nn.functional.normalize(embeddings + 0.1)
    d = torch.cdist(x, x)
    same = labels[:, None] == labels
    positive = same & ~torch.eye(n, dtype=torch.bool)
    expected = torch.cat([torch.relu(d[positive]), torch.relu(1 - d[~same])])
    single = functional.contrastive_loss(embeddings + 0.1, labels, reduction="none")
    torch.testing.assert_close(single, expected, rtol=1e-6, atol=1e-6)


def test_no_list_is_made_for_common_reducers(monkeypatch) -> None:
    from fusedml.engine.routes import term_losses  # noqa: PLC0415

    def no_list(*_: object) -> None:
        raise AssertionError("listed")

    monkeypatch.setattr(term_losses, "ListedLosses", no_list)
    embeddings, labels = make_batch(40)
    for name in ("non-zero", "mean", "sum", "between", "below", "per anchor", "one each"):
        losses.ContrastiveLoss(reducer=REDUCERS[name](reducers))(embeddings, labels)
    with pytest.raises(AssertionError, match="listed"):
        weighted = REDUCERS["class weights"](reducers)
        losses.ContrastiveLoss(reducer=weighted)(embeddings, labels)


def test_margins_that_are_learnt() -> None:
    embeddings, labels = make_batch(40)
    margins = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.3, 0.9)]
    names = dict(zip(("pos_margin", "neg_margin"), margins, strict=True))
    results = [
        torch.autograd.grad(
            losses.ContrastiveLoss(**names, backend=backend)(embeddings + 0.1, labels), margins
        )
        for backend in ("auto", "dense")
    ]
    torch.testing.assert_close(*results)
    assert results[0][0] < 0 < results[0][1]


def test_one_pair_of_each_kind_is_too_few() -> None:
    pair = torch.tensor([0]), torch.tensor([1])
    embeddings = torch.randn(3, 4, requires_grad=True)
    for indices, is_zero in (
        ((*pair, *pair), True),
        ((*pair, *(p.repeat(2) for p in pair)), False),
    ):
        value = losses.ContrastiveLoss()(embeddings, None, indices)
        assert (value == 0) == is_zero
        assert torch.isfinite(torch.autograd.grad(value, embeddings)[0]).all()
