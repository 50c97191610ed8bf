"""Sums of measures over pairs by label that need no pair: dot products with the sums of classes.

    sum_{p in P(i)} <a_i, r_p> = <a_i, sum_{y_p = y_i} r_p>,

and likewise over the negatives, what is no positive: O(n d) in place of O(n m d).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fusedml.curves import AFFINE
from fusedml.engine.label_sets import are_sets
from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.positives import num_positives
from fusedml.engine.precision import is_free_to_read
from fusedml.heads import PairSums
from fusedml.terms import Term, identity

_IDENTITIES = (identity(True), identity(False))


def are_linear(problem: PairProblem, terms: tuple[Term, ...], shifts: Tensor | None) -> bool:
    """Whether these sums of a problem in PyTorch on a CPU are this module's."""
    return (
        all(term in _IDENTITIES for term in terms)
        and shifts is None
        and problem.measure == "dot"
        and problem.curve == AFFINE.name
        and problem.extent is None
        and problem.exclude_diagonal == (problem.references is None)
        and 0 not in problem.shape
        and not are_sets(problem.anchor_labels)
        and is_free_to_read(problem.anchors)
    )


def linear_sums(problem: PairProblem, logit: Tensor, terms: tuple[Term, ...]) -> PairSums:
    """As ``engine.autograd.pair_sums``, in ordinary PyTorch.  problem: normalised."""
    dtype = accumulation_dtype(problem.anchors.dtype)
    a = problem.anchors.to(dtype)
    r = a if problem.references is None else problem.references.to(dtype)
    own = _own_class(problem, r)
    others = r.sum(0) - own
    if problem.references is None:
        own = own - a
    x = torch.stack([torch.linalg.vecdot(a, own), torch.linalg.vecdot(a, others)])
    positive = num_positives(problem)
    counts = torch.stack([positive, r.shape[0] - int(problem.exclude_diagonal) - positive])
    scales, shifts = logit.to(dtype).view(2, 2, 1).unbind(1)
    sums = torch.addcmul(shifts * counts, scales, x)
    kinds = [0 if term.is_positive else 1 for term in terms]
    if kinds == [0, 1]:
        return PairSums(sums, counts, *counts)
    return PairSums(sums[kinds], counts[kinds], *counts)


def _own_class(problem: PairProblem, r: Tensor) -> Tensor:
    """The sum of the references of each anchor's label, [n, d]."""
    rows, columns = problem.anchor_labels, problem.reference_labels
    labels, places = torch.unique(rows if columns is None else columns, return_inverse=True)
    sums = r.new_zeros(len(labels), r.shape[1]).index_add(0, places, r)
    if columns is None:
        return sums.index_select(0, places)
    places = torch.searchsorted(labels, rows.contiguous()).clamp_(max=len(labels) - 1)
    is_there = labels.index_select(0, places) == rows
    return sums.index_select(0, places) * is_there.unsqueeze(1)
