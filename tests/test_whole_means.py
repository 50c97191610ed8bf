"""Weighted sums of means over the pairs of a small problem by label."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fusedml.engine import autograd
from fusedml.engine.pairs import PairProblem
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


def expected(problem: PairProblem, logit: Tensor, terms: Any, of_all: bool) -> Tensor:
    """By masks, one term after the other."""
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
    total = logit.new_zeros(())
    for term, weight in zip(terms, WEIGHTS, strict=False):
        scale, shift = logit[:2] if term.is_positive else logit[2:]
        z = (scale * x + shift)[(same == term.is_positive) & counted]
        kept = z if of_all or term.is_softplus else z[term.counts(z)]
        total = total + weight * term.values(z).sum() / max(len(kept), 1)
    return total


@pytest.mark.parametrize(
    ("terms", "measure", "has_references", "of_all"),
    [
        ("hinges", "dot", False, False),
        ("hinges", "euclidean", True, True),
        ("closed", "squared_euclidean", False, False),
        ("closed", "dot", True, True),
        ("squares, of one kind", "dot", True, False),
        ("squares, of one kind", "euclidean", False, True),
        ("all of a kind", "squared_euclidean", True, False),
        ("intervals", "euclidean", False, False),
        ("intervals", "dot", True, True),
    ],
)
def test_means_and_their_derivatives(terms, measure, has_references, of_all) -> None:
    problem = problem_of(measure, has_references)
    logit = torch.tensor(LOGIT, dtype=torch.float64, requires_grad=True)
    leaves = [x for x in (*problem[:2], logit) if x is not None]
    given = problem, logit, TERMS[terms], of_all
    found = autograd.pair_means(*given[:3], WEIGHTS[: len(TERMS[terms])], of_all)
    value = expected(*given)
    torch.testing.assert_close(found, value)
    both = [torch.autograd.grad(x, leaves, create_graph=True) for x in (found, value)]
    torch.testing.assert_close(*both)
    twice = [
        torch.autograd.grad(sum(g.square().sum() for g in grads), leaves, allow_unused=True)
        for grads in both
    ]
    torch.testing.assert_close(*twice)


def test_no_pair_in_the_interval() -> None:
    problem = problem_of("dot", False)
    logit = torch.tensor((0.1, -9.0, 0.1, -9.0), dtype=torch.float64)
    found = autograd.pair_means(problem, logit, TERMS["hinges"], WEIGHTS[:2], False)
    assert found.item() == 0
    assert not torch.autograd.grad(found, problem.anchors)[0].any()
    with torch.no_grad():
        problem.anchors[3, 1] = math.inf
    assert autograd.pair_means(problem, logit, TERMS["hinges"], WEIGHTS[:2], False) is None
