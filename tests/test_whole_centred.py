"""Means of terms whose logits are measured from the mean of their kind of pairs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fusedml.engine import autograd
from fusedml.engine.pairs import PairProblem, measure_matrix
from fusedml.engine.routes.distinct_pairs import PairIndices
from fusedml.terms import Term, hinge, identity, softplus, square, squared_hinge

TERMS = {
    "squared hinges": (squared_hinge(True), squared_hinge(False)),
    "hinges": (hinge(False), hinge(True)),
    "all": (softplus(True), square(False), identity(True)),
    "of one kind, in an interval": (Term(False, 0.3, 0.5, 1.0, 0.2, -0.4, 0.5),),
}
SCALES = (-1.0, 1.5)
SHARES = (0.8, 1.1)


def problem_of(
    measure: str, has_references: bool, dtype: torch.dtype = torch.float64
) -> PairProblem:
    generator = torch.Generator().manual_seed(6)
    sides = [torch.randn(n, 5, generator=generator, dtype=dtype).requires_grad_() for n in (12, 9)]
    labels, others = torch.arange(12) % 4, torch.arange(9) % 5
    if not has_references:
        return PairProblem(sides[0], None, labels, None, measure, normalize=True)
    return PairProblem(*sides, labels, others, measure, False, normalize=True)


def listed(problem: PairProblem) -> PairIndices:
    """Pairs of any labels, some of them twice."""
    n, m = problem.shape
    generator = torch.Generator().manual_seed(7)
    drawn = [torch.randint(size, (k,), generator=generator) for k in (7, 11) for size in (n, m)]
    return PairIndices(*(torch.cat([index, index[:2]]) for index in drawn))


def expected(
    problem: PairProblem, terms: tuple[Term, ...], indices: PairIndices | None = None
) -> Tensor:
    a = torch.nn.functional.normalize(problem.anchors)
    r = a if problem.references is None else torch.nn.functional.normalize(problem.references)
    x = measure_matrix(a, r, problem.measure)
    columns = problem.anchor_labels if problem.references is None else problem.reference_labels
    same = problem.anchor_labels[:, None] == columns
    own = torch.eye(*same.shape, dtype=torch.bool) & problem.exclude_diagonal
    total = x.new_zeros(())
    for term in terms:
        of_kind = x[(same == term.is_positive) & ~own]
        kind = 0 if term.is_positive else 1
        if indices is not None:
            of_kind = x[indices[2 * kind], indices[2 * kind + 1]]
        z = SCALES[kind] * (of_kind - SHARES[kind] * of_kind.mean())
        total = total + term.values(z).mean()
    return total


@pytest.mark.parametrize("is_listed", [False, True])
@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize(
    ("measure", "has_references"),
    [("dot", False), ("euclidean", False), ("squared_euclidean", True)],
)
def test_value_and_derivatives(terms, measure, has_references, is_listed) -> None:
    problem, terms = problem_of(measure, has_references), TERMS[terms]
    scales = torch.tensor(SCALES, dtype=torch.float64)
    indices = listed(problem) if is_listed else None
    found = autograd.centred_means(problem, scales, terms, SHARES, indices)
    right = expected(problem, terms, indices)
    torch.testing.assert_close(found, right)
    leaves = [x for x in problem[:2] if x is not None]
    derivatives = []
    for loss in (3 * found, 3 * right):
        grads = torch.autograd.grad(loss, leaves, create_graph=True)
        derivatives.append(
            [*grads, *torch.autograd.grad(sum(g.square().sum() for g in grads), leaves)]
        )
    for one, other in zip(*derivatives, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("labels", [torch.arange(12), torch.zeros(12, dtype=torch.int64)])
def test_a_kind_without_pairs_has_the_mean_0(labels) -> None:
    problem = problem_of("dot", False)._replace(anchor_labels=labels)
    scales, terms = torch.tensor(SCALES, dtype=torch.float64), TERMS["squared hinges"]
    found = autograd.centred_means(problem, scales, terms, SHARES)
    (only,) = (term for term in terms if term.is_positive == bool(labels[0] == labels[1]))
    torch.testing.assert_close(found, expected(problem, (only,)))


def test_what_is_not_finite_is_left_to_others() -> None:
    problem = problem_of("dot", False, torch.float32)
    scales = torch.tensor(SCALES, dtype=torch.float64)
    broken = problem._replace(anchors=problem.anchors.detach().fill_(math.inf))
    assert autograd.centred_means(broken, scales, TERMS["hinges"], SHARES) is None
