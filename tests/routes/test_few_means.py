"""Means over a few listed pairs, in Python: against PyTorch's, and the dense formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fusedml.distances import CosineSimilarity
from fusedml.engine import few_means
from fusedml.engine.autograd import pair_means
from fusedml.engine.pairs import PairProblem
from fusedml.engine.routes.distinct_pairs import PairIndices
from fusedml.formulas import pack
from fusedml.losses import (
    LOSSES,
    BaseLoss,
    ContrastiveLoss,
    ThresholdConsistentMarginLoss,
)
from fusedml.terms import Term, hinge, identity

# a pair twice, and a row with itself
REPEATED = PairIndices(
    torch.tensor([0, 0, 3, 5, 5, 9, 0]),
    torch.tensor([4, 1, 3, 6, 7, 2, 4]),
    torch.tensor([0, 1, 2, 8, 5]),
    torch.tensor([2, 7, 6, 8, 1]),
)
TERMS = {
    "hinges": (hinge(True), hinge(False)),
    "closed hinges": (hinge(True, is_closed=True), hinge(False, is_closed=True)),
    "measures": (identity(True), identity(False)),
    "bounds": (Term(True, linear=1.0, floor=-0.1, ceiling=0.4), hinge(False)),
    "closed bounds": (
        Term(True, linear=1.0, floor=-0.1, ceiling=0.4, is_closed=True),
        hinge(False),
    ),
    "two of a kind": (hinge(True), identity(True), hinge(False)),
    "one kind": (hinge(False),),
}
LOGIT = (-1.0, 0.3, 1.5, -0.1)
# no row with itself: a distance of 0 has no derivative
LISTED = REPEATED._replace(positive_columns=torch.tensor([4, 1, 2, 6, 7, 2, 4]))


@pytest.fixture
def made(monkeypatch):
    """Grows when a mean is taken in Python."""
    found: list[str] = []
    mean = few_means.FewMeans.mean
    monkeypatch.setattr(few_means.FewMeans, "mean", lambda self: found.append("few") or mean(self))
    return found


def _sides(has_references: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    x, q = (
        torch.nn.functional.normalize(torch.randn(n, 5, generator=generator, dtype=torch.float64))
        for n in (10, 12)
    )
    x, q = (side.to(dtype).requires_grad_() for side in (x, q))
    return x, q if has_references else None


def _means(
    sides: tuple[Tensor, Tensor | None],
    measure: str,
    terms: tuple[Term, ...],
    over: str,
    logit: Tensor | None = None,
) -> list[Tensor]:
    nothing = torch.empty(0)
    problem = PairProblem(*sides, nothing, None, measure, normalize=measure == "dot")
    shares = [0.5 + k for k in range(len(terms))]
    logit, listed = (
        pack(*LOGIT) if logit is None else logit,
        REPEATED if measure == "dot" else LISTED,
    )
    value = pair_means(problem, logit, terms, shares, over, listed)
    assert value is not None
    leaves = [x for x in (*sides, logit) if x is not None and x.requires_grad]
    return [value, *torch.autograd.grad(value, leaves)]


@pytest.mark.usefixtures("gathered_or_read")
@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
@pytest.mark.parametrize("over", ["interval", "kind", "together"])
@pytest.mark.parametrize("measure", ["dot", "euclidean", "squared_euclidean"])
@pytest.mark.parametrize("has_references", [False, True])
def test_values_and_gradients(terms, over, measure, has_references, made, monkeypatch) -> None:
    sides = _sides(has_references, torch.float64)
    found = _means(sides, measure, terms, over)
    assert made == ["few"]
    monkeypatch.setattr(few_means, "MOST_PAIRS", -1)
    expected = _means(sides, measure, terms, over)
    assert made == ["few"]
    torch.testing.assert_close(found, expected)
    assert expected[0] != 0 and expected[1].any()


@pytest.mark.usefixtures("gathered_or_read")
@pytest.mark.parametrize("over", ["interval", "triplets"])
def test_what_is_left_to_pytorch(over: str, made) -> None:
    """Learnt numbers, and pairs that count as often as there are triplets."""
    logit = pack(*LOGIT).requires_grad_(over == "interval")
    _means(_sides(False, torch.float64), "dot", TERMS["hinges"], over, logit)
    curved = Term(True, square=1.0, floor=0.0), hinge(False)
    _means(_sides(False, torch.float64), "dot", curved, "interval")
    constant = Term(True, linear=1.0, constant=0.5), hinge(False)
    _means(_sides(False, torch.float64), "dot", constant, "interval")
    assert not made


@pytest.mark.usefixtures("gathered_or_read")
@pytest.mark.parametrize("numbers", [(math.inf, 0.5), (1e300, 0.5), (0.9, -math.inf)])
def test_numbers_that_are_infinite_in_float32(numbers, monkeypatch) -> None:
    x = _sides(False, torch.float32)[0]
    loss = LOSSES["ThresholdConsistentMarginLoss"](margin_plus=numbers[0], margin_minus=numbers[1])
    few = loss(x, None, tuple(REPEATED))
    monkeypatch.setattr(few_means, "MOST_PAIRS", -1)
    torch.testing.assert_close(few, loss(x, None, tuple(REPEATED)), equal_nan=True)
    assert not few.isfinite()


@pytest.mark.parametrize("margin", [0.3, 0.7, 0.1, -0.6])
@pytest.mark.parametrize("is_closed", [False, True])
def test_a_measure_that_is_the_margin_in_float32(margin, is_closed, made) -> None:
    """It is at the margin, on neither side, though no float32 number is 0.3."""
    x = torch.tensor([[margin], [1.0]], requires_grad=True)
    pair = torch.tensor([0]), torch.tensor([1]), torch.tensor([0]), torch.tensor([1])
    problem = PairProblem(x, None, torch.empty(0), None, "dot", normalize=False)
    terms = hinge(True, is_closed=is_closed), hinge(False, is_closed=is_closed)
    logit = pack(-1.0, margin, 1.0, -margin)
    value = pair_means(problem, logit, terms, (1.0, 2.0), "interval", PairIndices(*pair))
    assert made == ["few"] and value == 0
    # of a pair that counts the slope is 1
    slope = 2.0 - 1.0 if is_closed else 0.0
    torch.testing.assert_close(torch.autograd.grad(value, x)[0], slope * x.detach().flip(0))


@pytest.mark.parametrize("at", [0.3, 0.7])
@pytest.mark.parametrize("is_floor", [False, True])
def test_a_measure_that_is_a_bound_in_float32(at: float, is_floor: bool, made) -> None:
    """It is not in the interval, on whichever side of the bound its number in float32 is."""
    x = torch.tensor([[at], [1.0]], requires_grad=True)
    pair = torch.tensor([0]), torch.tensor([1]), torch.tensor([0])[:0], torch.tensor([1])[:0]
    problem = PairProblem(x, None, torch.empty(0), None, "dot", normalize=False)
    bounds = {"floor": at} if is_floor else {"ceiling": at}
    terms = (Term(True, linear=1.0, **bounds),)
    logit, indices = pack(1.0, 0.0, 1.0, 0.0), PairIndices(*pair)
    value = pair_means(problem, logit, terms, (1.0,), "interval", indices)
    assert made == ["few"] and value == 0 and not torch.autograd.grad(value, x)[0].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["ContrastiveLoss", "ThresholdConsistentMarginLoss"])
@pytest.mark.parametrize("has_references", [False, True])
def test_losses(name: str, dtype: torch.dtype, has_references: bool, made) -> None:
    """By the dense formula in float64."""
    sides = _sides(has_references, dtype)
    found = []
    for backend in ("auto", "dense"):
        of_backend = [x if x is None or backend == "auto" else x.double() for x in sides]
        value = LOSSES[name](backend=backend)(of_backend[0], None, tuple(LISTED), of_backend[1])
        found.append((value, *torch.autograd.grad(value, [x for x in sides if x is not None])))
    assert made == ["few"] and found[1][0] > 0
    value, *grads = found[1]
    # of numbers of the size of 1; the rows are normalised in the dtype
    eps = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(found[0], (value.to(dtype), *grads), atol=eps, rtol=eps)


@pytest.mark.parametrize(
    "loss",
    [
        ThresholdConsistentMarginLoss(margin_plus=0.5),
        ContrastiveLoss(pos_margin=0.5, neg_margin=0.2, distance=CosineSimilarity()),
    ],
)
def test_pairs_of_which_none_counts(loss: BaseLoss, made) -> None:
    x = torch.eye(10, 5)[torch.arange(10) // 2 % 5].requires_grad_()
    given = torch.tensor([0, 2]), torch.tensor([1, 3]), torch.tensor([0, 1]), torch.tensor([2, 9])
    value = loss(x, None, given)
    assert made == ["few"] and value == 0
    assert not torch.autograd.grad(value, x)[0].any()
