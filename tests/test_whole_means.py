"""Weighted sums of means over the pairs of a small problem, by label or listed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fusedml.engine import autograd, list_sizes
from fusedml.engine.pairs import PairProblem
from fusedml.engine.routes.distinct_pairs import PairIndices
from fusedml.terms import Term, hinge, identity, softplus, square, squared_hinge

TERMS = {
    "hinges": (hinge(True), hinge(False)),
    "closed": (hinge(False, is_closed=True), hinge(True, is_closed=True)),
    "squares, of one kind": (squared_hinge(False), square(False), squared_hinge(False)),
    "all of a kind": (identity(True), softplus(False)),
    "intervals": (Term(True, 0.3, 0.5, 1.0, 0.2, -0.4, 0.9), hinge(False)._replace(ceiling=0.5)),
}
LOGIT = (-0.8, 0.4, 1.3, -0.2)
WEIGHTS = (0.7, 1.6, -0.5)


def problem_of(measure: str, has_references: bool) -> PairProblem:
    generator = torch.Generator().manual_seed(3)

    def rows(n: int) -> Tensor:
        x = torch.randn(n, 5, generator=generator, dtype=torch.float64)
        return x.requires_grad_()

    labels, others = torch.arange(14) % 4, torch.arange(9) % 5  # rows of label 3 are few
    sides = (rows(14), rows(9) if has_references else None)
    columns = others if has_references else None
    return PairProblem(
        *sides, labels, columns, measure, exclude_diagonal=not has_references, normalize=True
    )


def listed_pairs(num_columns: int) -> PairIndices:
    """Some are listed twice, row 3 has no negative, and rows 4 and 5 have no positive."""
    generator = torch.Generator().manual_seed(5)

    def drawn(rows: list[int]) -> tuple[Tensor, Tensor]:
        columns = torch.randint(num_columns, (len(rows),), generator=generator)
        return torch.tensor([*rows, rows[0]]), torch.cat([columns, columns[:1]])

    return PairIndices(*drawn([0, 0, 1, 2, 3, 3, 13]), *drawn([0, 0, 0, 1, 2, 4, 5, 5, 13, 13]))


def expected(
    problem: PairProblem, logit: Tensor, terms: Any, over: str, indices: PairIndices | None
) -> Tensor:
    """One term after the other, pair by pair."""
    a = torch.nn.functional.normalize(problem.anchors)
    r = a if problem.references is None else torch.nn.functional.normalize(problem.references)
    squares = (2 - 2 * a @ r.T).clamp(min=0)
    x = {"dot": a @ r.T, "squared_euclidean": squares}.get(problem.measure)
    if x is None:
        x = torch.where(squares > 1e-12, squares.clamp(min=1e-12).sqrt(), 0)
    others = problem.anchor_labels if problem.references is None else problem.reference_labels
    same = problem.anchor_labels[:, None] == others
    counted = torch.ones_like(same)
    if problem.exclude_diagonal:
        counted.fill_diagonal_(False)
    kinds = [(counted & (same == kind)).nonzero(as_tuple=True) for kind in (True, False)]
    if indices is not None:
        kinds = [indices[:2], indices[2:]]
    sums, numbers = [], []
    for term in terms:
        (rows, columns), (others, _) = kinds if term.is_positive else kinds[::-1]
        scale, shift = logit[:2] if term.is_positive else logit[2:]
        z = scale * x[rows, columns] + shift
        repeats = (rows[:, None] == others).sum(1) if over == "triplets" else torch.ones_like(rows)
        everything = over == "kind" or term.is_softplus
        sums.append((term.values(z) * repeats).sum())
        numbers.append(int((repeats * (1 if everything else term.counts(z))).sum()))
    if over in ("together", "triplets"):
        numbers = [sum(numbers)] * len(numbers)
    each = zip(WEIGHTS, sums, numbers, strict=False)
    return torch.stack([weight * part / max(number, 1) for weight, part, number in each]).sum()


@pytest.mark.parametrize("way", ["by label", "listed", "gathered"])
@pytest.mark.parametrize(
    ("terms", "measure", "has_references", "over"),
    [
        ("hinges", "dot", False, "interval"),
        ("hinges", "euclidean", True, "kind"),
        ("hinges", "euclidean", False, "triplets"),
        ("closed", "squared_euclidean", False, "interval"),
        ("closed", "dot", True, "kind"),
        ("squares, of one kind", "dot", True, "interval"),
        ("squares, of one kind", "euclidean", False, "kind"),
        ("squares, of one kind", "dot", True, "triplets"),
        ("all of a kind", "squared_euclidean", True, "interval"),
        ("all of a kind", "dot", True, "triplets"),
        ("hinges", "dot", True, "together"),
        ("squares, of one kind", "euclidean", False, "together"),
        ("intervals", "euclidean", False, "interval"),
        ("intervals", "dot", True, "kind"),
    ],
)
def test_means_and_their_derivatives(
    terms, measure, has_references, over, way, monkeypatch
) -> None:
    if way == "gathered":
        monkeypatch.setattr(list_sizes, "_FEW_MULTIPLIED", 0)
        monkeypatch.setattr(list_sizes, "_PAIRS_PER_GATHERED", 0)
    problem = problem_of(measure, has_references)
    logit = torch.tensor(LOGIT, dtype=torch.float64, requires_grad=True)
    leaves = [x for x in (*problem[:2], logit) if x is not None]
    indices = None if way == "by label" else listed_pairs(9)
    found = autograd.pair_means(
        problem, logit, TERMS[terms], WEIGHTS[: len(TERMS[terms])], over, indices
    )
    value = expected(problem, logit, TERMS[terms], over, indices)
    torch.testing.assert_close(found, value)
    both = [torch.autograd.grad(x, leaves, create_graph=True) for x in (found, value)]
    torch.testing.assert_close(*both)
    twice = [
        torch.autograd.grad(sum(g.square().sum() for g in grads), leaves, allow_unused=True)
        for grads in both
    ]
    torch.testing.assert_close(*twice)


@pytest.mark.parametrize("over", ["interval", "triplets"])
def test_no_pair_in_the_interval(over) -> None:
    problem = problem_of("dot", False)
    logit = torch.tensor((0.1, -9.0, 0.1, -9.0), dtype=torch.float64)
    found = autograd.pair_means(problem, logit, TERMS["hinges"], WEIGHTS[:2], over)
    assert found.item() == 0
    assert not torch.autograd.grad(found, problem.anchors)[0].any()
    with torch.no_grad():
        problem.anchors[3, 1] = math.inf
    assert autograd.pair_means(problem, logit, TERMS["hinges"], WEIGHTS[:2], over) is None


@pytest.mark.parametrize("is_closed", [False, True])
@pytest.mark.parametrize("n", [8, 60, 200])  # hinges' fewest pairs, few, and many
@pytest.mark.parametrize("shift", [0.5, -0.5, -math.inf])
def test_pairs_at_the_end_of_an_interval(n: int, shift: float, is_closed: bool) -> None:
    generator = torch.Generator().manual_seed(n)
    # rows of length 1 without rounding: 4 entries of +-1 / 2
    x = (torch.randint(0, 2, (n, 4), generator=generator).double() - 0.5).requires_grad_()
    labels = torch.arange(n) % 4
    problem = PairProblem(x, None, labels, None, exclude_diagonal=True, normalize=True)
    same = (labels[:, None] == labels).fill_diagonal_(False)
    different = labels[:, None] != labels
    indices = PairIndices(*same.nonzero(as_tuple=True), *different.nonzero(as_tuple=True))
    logit = torch.tensor((1.0, shift, -1.0, shift), dtype=torch.float64)
    terms = tuple(hinge(kind, is_closed=is_closed) for kind in (True, False))
    for listed in (None, indices, PairIndices(*(index[:1] for index in indices))):
        value = expected(problem, logit, terms, "interval", listed)
        found = autograd.pair_means(problem, logit, terms, WEIGHTS[:2], "interval", listed)
        torch.testing.assert_close(found, value)
        grads = [torch.autograd.grad(of, x, retain_graph=True)[0] for of in (found, value)]
        torch.testing.assert_close(*grads)
