"""What is measured of listed pairs, and the losses of these."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from fusedml.engine.averaged import Interval, mean_between
from fusedml.engine.formulas_by_rows.blocks import sides_of, slices_of
from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.recorded import BlockFunction, Tensors, by_blocks
from fusedml.engine.reductions.entries import add_at, numbered
from fusedml.heads import softplus
from fusedml.terms import Term

# (indices, anchors, references, logit) -> the losses of the listed positives, or of the rows
ByList = Callable[[Tensors, Tensor, Tensor | None, Tensor], Tensor]


def pair_values(
    anchors: Tensor, references: Tensor | None, rows: Tensor, columns: Tensor, measure: str
) -> Tensor:
    """x of the listed pairs, [num_pairs]."""
    dtype = accumulation_dtype(anchors.dtype)
    a = anchors.to(dtype)
    r = a if references is None else references.to(dtype)

    def of_block(pairs: slice, _: Tensors, shared: Tensors) -> tuple[Tensors, Tensors]:
        own, other = shared[0][rows[pairs]], shared[1][columns[pairs]]
        if measure == "dot":
            return [torch.linalg.vecdot(own, other)], []
        square = (own - other).square().sum(1)
        if measure == "squared_euclidean":
            return [square], []
        is_apart = square > 0  # the root has an infinite slope at 0
        return [torch.where(is_apart, torch.where(is_apart, square, 1).sqrt(), 0)], []

    size = rows.shape[0]
    function = BlockFunction(of_block, slices_of(size, a.shape[1]), size)
    return by_blocks(function, (), [a, r])[0][0]


def listed_values(
    problem: PairProblem, logit: Tensor | None, _: None, rows: Tensor, columns: Tensor
) -> Tensor:
    """[num_pairs], of ``engine.whole_values``."""
    a, r = sides_of(problem)
    references = None if problem.references is None else r
    return pair_values(a, references, rows, columns, problem.measure)


def listed_sums(
    problem: PairProblem,
    logit: Tensor,
    shifts: Tensor | None,
    terms: tuple[Term, ...],
    *indices: Tensor,
) -> Tensor:
    """F, [K, n], of the listed pairs."""
    found, n = [], problem.anchors.shape[0]
    for term, rows, z in _listed_logits(problem, logit, shifts, terms, indices):
        values = term.values(z)
        found.append(add_at(values.new_zeros(n), rows, values))
    return torch.stack(found)


def _listed_logits(
    problem: PairProblem,
    logit: Tensor,
    shifts: Tensor | None,
    terms: tuple[Term, ...],
    indices: Sequence[Tensor],
) -> Iterator[tuple[Term, Tensor, Tensor]]:
    """Each term with the rows and the affine logits of its pairs."""
    for term in terms:
        kind = 0 if term.is_positive else 1
        rows, columns = indices[2 * kind : 2 * kind + 2]
        x = listed_values(problem, logit, None, rows, columns)
        scale, shift = logit.to(x)[2 * kind : 2 * kind + 2]
        z = scale * x + shift
        yield term, rows, z if shifts is None else z + shifts[kind].to(z)[rows]


def listed_triplets(
    problem: PairProblem,
    margin: Tensor | None,
    _: None,
    form: str,
    constant: float,
    positives: Tensor | None,
    negatives: Tensor | None,
    *indices: Tensor,
) -> Tensor:
    """f(u + margin), [num_triplets], of ``engine.whole_lists``."""
    x_p, x_n = (
        numbered(listed_values(problem, None, None, *pairs), of)
        for pairs, of in ((indices[:2], positives), (indices[2:], negatives))
    )
    u = x_n - x_p if problem.measure == "dot" else x_p - x_n
    u = u + constant if margin is None else u + margin.to(u)
    return torch.relu(u) if form == "hinge" else softplus(u)


def few_triplets(
    problem: PairProblem,
    _: None,
    __: None,
    margin: float,
    joins: bool,
    interval: Interval,
    *indices: Tensor,
) -> Tensor:
    """The mean in the interval, 0-d, of ``engine.few_triplets``."""
    positives, negatives = None, None
    if joins:
        positives, negatives = torch.where(indices[0].unsqueeze(1) == indices[2])
    given = None, "hinge", margin, positives, negatives
    losses = listed_triplets(problem, None, *given, *indices)
    return mean_between(losses, interval)


def losses_by_list(
    problem: PairProblem,
    logit: Tensor,
    _: None,
    by_list: ByList,
    *indices: Tensor,
) -> Tensor:
    """Of an index tuple: one for each listed positive, or row."""
    a, r = sides_of(problem)
    return by_list(indices, a, None if problem.references is None else r, logit)
