"""Sums of terms over all pairs, over blocks and over lists: against the dense formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fusedml import dense
from fusedml.engine import autograd, whole
from fusedml.engine.pairs import PairProblem, measure_matrix
from fusedml.engine.reductions import sums as reduction
from fusedml.engine.reductions.given import Given
from fusedml.formulas import SumFormula, pack
from fusedml.heads import PairSums
from fusedml.terms import Term, hinge, identity, packed, softplus, square, squared_hinge, unpacked
from tests.problems import assert_close, in_dtype, inputs_of, make_problem

TERMS = {
    "hinges": (hinge(True), hinge(False)),
    "one kind": (hinge(False),),
    "linear": (identity(True), identity(False)),
    "several": (squared_hinge(True), identity(True), hinge(False), softplus(False)),
    "closed": (hinge(True, is_closed=True), square(False)),
    "exponential": (
        Term(True, exponent=1.5, linear=1.0, floor=0.0),
        Term(False, exponent=-0.7, constant=1.0, floor=0.1, ceiling=0.9),
        Term(False, exponent=-0.7, square=2.0, linear=-0.3, constant=0.4),
    ),
    "of one weight": (
        Term(False, 0.8, square=0.5, linear=1.0, constant=0.2, floor=-0.5, ceiling=1.2),
        softplus(True),
        Term(False, 0.8, constant=2.0, floor=-0.5, ceiling=1.2),
        softplus(True),
    ),
}
LOGIT = pack(-1.0, 0.7, 1.3, -0.4)


def matrix_of(problem: PairProblem) -> Tensor:
    references = problem.anchors if problem.references is None else problem.references
    return measure_matrix(problem.anchors, references, problem.measure)


def dense_sums(
    problem: PairProblem,
    logit: Tensor,
    terms: tuple[Term, ...],
    shifts: Tensor | None = None,
    both_sides: bool = False,
) -> PairSums:
    x, masks, n = matrix_of(problem), dense.pair_masks(problem), problem.shape[0]
    row_shifts = None if shifts is None else shifts[:, :n]
    of_rows = dense.pair_sums(x, *masks, SumFormula(lambda _: logit, terms, row_shifts), 1.0)
    if not both_sides:
        return of_rows
    turned = SumFormula(lambda _: logit, terms, None if shifts is None else shifts[:, n:])
    of_columns = dense.pair_sums(x.T, *(mask.T for mask in masks), turned, 1.0)
    return PairSums(*(torch.cat(two, -1) for two in zip(of_rows, of_columns, strict=True)))


def assert_equal_sums(ours: PairSums, exact: PairSums, ours_of, exact_of) -> None:
    """Sums, counts, numbers, and the gradients of two lists of leaves."""
    for a, e in zip(ours[1:], exact[1:], strict=True):
        assert torch.equal(a, e)
    torch.testing.assert_close(ours.sums, exact.sums, rtol=1e-11, atol=1e-11)
    weights = torch.randn_like(exact.sums)
    gradients = (
        torch.autograd.grad((result.sums * weights).sum(), leaves)
        for result, leaves in ((ours, ours_of), (exact, exact_of))
    )
    for a, e in zip(*gradients, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("has_shifts", [False, True])
@pytest.mark.parametrize("measure", ["dot", "euclidean"])
# on both sides of a strip of rows and of what is held whole; self, other columns, both directions
@pytest.mark.parametrize("size", [(70, None), (390, None), (129, 31), (129, -31), (1, 1), (0, 3)])
def test_all_pairs(name, has_shifts, measure, size, monkeypatch) -> None:
    n, m = size
    both_sides, m = m is not None and m < 0, m if m is None else abs(m)
    for most, num_classes in ((whole.MOST_PAIRS, 40), (-1, 1), (-1, 40), (-1, 100_000)):
        monkeypatch.setattr(whole, "MOST_PAIRS", most)
        problem = make_problem(n, m, num_classes, measure, requires_grad=True)
        logit, lines = LOGIT.clone().requires_grad_(), n + (m if both_sides else 0)
        shifts = (0.3 * torch.randn(2, lines).double()).requires_grad_() if has_shifts else None
        arguments = problem, logit, TERMS[name], shifts, both_sides
        leaves = [*inputs_of(problem), logit, *([shifts] if has_shifts else [])]
        assert_equal_sums(autograd.pair_sums(*arguments), dense_sums(*arguments), leaves, leaves)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("kinds", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("is_listed", [False, True])
def test_given_measures(name, kinds, is_listed) -> None:
    """A block of rows, and a list with pairs that are listed twice."""
    x = torch.randn(9, 13).double().requires_grad_()
    shifts = torch.randn(2, 9).double().requires_grad_()
    logit = LOGIT.clone().requires_grad_()
    which = torch.rand(9, 13)
    masks = tuple(mask & kind for mask, kind in zip((which < 0.4, which > 0.6), kinds, strict=True))
    formula = SumFormula(lambda _: logit, TERMS[name], shifts)
    exact = dense.pair_sums(x, *masks, formula, 1.0)
    given, lines = x, None
    if is_listed:
        lines, columns = torch.where(torch.ones_like(masks[0]))
        again = torch.arange(30)
        exact = add(exact, dense.pair_sums(x, *(m & first(30, m) for m in masks), formula, 1.0))
        lines, columns = torch.cat([lines, lines[again]]), torch.cat([columns, columns[again]])
        given, masks = x[lines, columns], tuple(mask[lines, columns] for mask in masks)
    entries = Given(given, list(kinds), *masks, lines, 9, logit)
    ours = autograd.entry_sums(entries, TERMS[name], shifts)
    leaves = [x, logit, shifts]
    assert_equal_sums(ours, exact, leaves, leaves)


def first(size: int, mask: Tensor) -> Tensor:
    return (torch.arange(mask.numel()) < size).view(mask.shape)


def add(one: PairSums, other: PairSums) -> PairSums:
    return PairSums(*(a + b for a, b in zip(one, other, strict=True)))


@pytest.mark.parametrize("n", [70, 900])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_accuracy(n: int, dtype: torch.dtype) -> None:
    exact_problem = in_dtype(make_problem(n, None, 30, requires_grad=True), dtype)
    ours, exact, plain = (
        in_dtype(exact_problem, kind) for kind in (dtype, torch.float64, torch.float32)
    )
    terms, weights = TERMS["several"], torch.randn(4, n)

    def run(sums, problem):
        values = sums(problem, LOGIT, terms).sums
        total = (values * weights.to(values)).sum()
        return values, torch.autograd.grad(total, problem.anchors)[0]

    results = run(autograd.pair_sums, ours), run(dense_sums, exact), run(dense_sums, plain)
    # a gradient is rounded to the embeddings' dtype
    floors = 1e-6, max(1e-6, torch.finfo(dtype).eps)
    for a, e, p, floor in zip(*results, floors, strict=True):
        assert_close(a, e, p, floor, "sums or gradient")


def test_pairs_at_the_margin() -> None:
    """Whole numbers: every comparison is exact, and ties are everywhere."""
    x = torch.randint(-2, 3, (300, 4)).double().requires_grad_()
    problem = PairProblem(x, None, torch.arange(300) % 40, None)
    for terms in ((hinge(True), hinge(False)), TERMS["closed"], (Term(False, ceiling=2.0),)):
        for m in (whole.MOST_PAIRS, -1):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(whole, "MOST_PAIRS", m)
                ours = autograd.pair_sums(problem, pack(-1, 1, 1, -1), terms)
            exact = dense_sums(problem, pack(-1, 1, 1, -1), terms)
            assert (matrix_of(problem) == 1).any()
            assert_equal_sums(ours, exact, [x], [x])


@pytest.mark.parametrize("term", [term for terms in TERMS.values() for term in terms])
def test_value_and_slope_of_a_term(term: Term) -> None:
    z = torch.linspace(-3, 3, 97, dtype=torch.float64).requires_grad_()
    out, other = torch.empty(97).double(), torch.empty(97).double()
    expected = term.values(z)
    with torch.no_grad():
        torch.testing.assert_close(reduction.values(term, z, out, other).clone(), expected)
        slope = reduction.slopes(term, z, out, other).clone()
        active = reduction.counted(term, z, out).bool()
    torch.testing.assert_close(slope, torch.autograd.grad(expected.sum(), z)[0])
    assert torch.equal(active, term.counts(z))
    assert unpacked(packed((term,))) == (term,)


def test_an_overflow_outside_of_the_interval() -> None:
    term = Term(True, exponent=1.0, constant=1.0, ceiling=1.0)
    z = torch.tensor([1e4, 0.0]).requires_grad_()
    value, out, other = term.values(z), torch.empty(2), torch.empty(2)
    assert value.tolist() == [0, 1]
    assert torch.autograd.grad(value.sum(), z)[0].tolist() == [0, 1]
    assert reduction.values(term, z.detach(), out, other).tolist() == [0, 1]
    assert reduction.slopes(term, z.detach(), out, other).tolist() == [0, 1]


@pytest.mark.parametrize("n", [20, 810])
def test_nan_reaches_the_sums(n: int) -> None:
    problem = make_problem(n, None, 5)
    problem.anchors[3, 2] = torch.nan
    assert autograd.pair_sums(problem, LOGIT, TERMS["hinges"]).sums.isnan().all()


def test_transforms() -> None:
    problem = make_problem(30, None, 5)

    def total(x: Tensor) -> Tensor:
        sums = autograd.pair_sums(problem._replace(anchors=x), LOGIT, TERMS["several"]).sums
        return sums.square().sum()

    x = torch.stack([problem.anchors, problem.anchors.flip(0)])
    expected = torch.stack([torch.func.grad(total)(one) for one in x])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(total))(x), expected)
    leaf = problem.anchors.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(total(leaf), leaf)[0], expected[0])
    torch.autograd.gradgradcheck(total, leaf, fast_mode=True)
