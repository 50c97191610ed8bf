"""Marked and listed pairs of a problem that is held whole."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fusedml.engine import marked
from fusedml.engine.autograd.choices import of_list, records
from fusedml.engine.averaged import EVERYTHING, Interval
from fusedml.engine.few_triplets import FewTriplets
from fusedml.engine.formulas_by_rows import held
from fusedml.engine.formulas_by_rows.listed import ByList
from fusedml.engine.functions import SmallOperator, differentiable
from fusedml.engine.pairs import PairProblem
from fusedml.engine.routes.distinct_pairs import PairIndices
from fusedml.engine.whole import MOST_PAIRS
from fusedml.engine.whole_joint import WholeJoint, WholeProducts
from fusedml.engine.whole_lists import ListedSums, ListedTriplets
from fusedml.engine.whole_pairs import ListedPairLosses, ListedRowLosses
from fusedml.engine.whole_values import WholeValues
from fusedml.formulas import Hyperparameter, PairFormula
from fusedml.heads import PairSums, RowForm, RowStatistics
from fusedml.terms import Term


def marked_row_losses(
    problem: PairProblem,
    logit: Tensor,
    head: str | RowForm,
    head_parameters: Tensor,
    marks: Tensor,
    epsilon: Hyperparameter | None = None,
    interval: Interval | None = None,
) -> Tensor | None:
    """L_i, [n], of the marked pairs, [2, n, m], 0 or 1; differentiable in embeddings and logit.

    interval: None, or for the mean of the losses in it, 0-d, which one block has.
    None where :func:`engine.whole.may_hold_matrices` does not hold the problem, under a transform
    of ``torch.func``, and if not all is finite.
    """
    if torch._C._are_functorch_transforms_active():
        return None
    losses = marked.marked_row_losses(problem, logit, head, head_parameters, marks, epsilon)
    if interval is not None and not isinstance(losses, marked.MarkedBlock):
        return None
    rest, tensors = (head, epsilon), (head_parameters, marks)
    formula = held("marked_row_losses", problem, rest, tensors, has_labels=False)
    return of_list(losses, formula, problem, logit, interval)


def marked_statistics(
    problem: PairProblem, logit: Tensor, marks: Tensor, epsilon: Hyperparameter | None = None
) -> RowStatistics | None:
    """:func:`pair_statistics` of the marked pairs of one block; None as of the losses."""
    if math.prod(problem.shape) > MOST_PAIRS or torch._C._are_functorch_transforms_active():
        return None
    block = marked.MarkedStatistics(problem, logit, marks=marks, epsilon=epsilon)
    formula = held("marked_statistics", problem, (epsilon,), (marks,), has_labels=False)
    outputs = SmallOperator.apply(block, *formula, problem.anchors, problem.references, logit, None)
    if outputs is None:
        return None
    return RowStatistics(*outputs[0].unbind(0), *outputs[1].unbind(0))


def listed_values(problem: PairProblem, rows: Tensor, columns: Tensor) -> Tensor | None:
    """:func:`pair_values` of a problem that is held whole; None as of :func:`marked_row_losses`.

    problem: its labels are ignored.
    """
    if torch._C._are_functorch_transforms_active():
        return None
    formula = held("listed_values", problem, (), (rows, columns), has_labels=False)
    operands = problem.anchors, problem.references, None, None
    whole = WholeValues(problem, columns, rows, columns)  # nothing else is learnt
    outputs = SmallOperator.apply(whole, *formula, *operands)
    return None if outputs is None else outputs[0]


def listed_sums(
    problem: PairProblem,
    logit: Tensor,
    terms: tuple[Term, ...],
    shifts: Tensor | None,
    indices: PairIndices,
) -> PairSums | None:
    """:func:`pair_sums` of listed pairs; None as of :func:`marked_row_losses`."""
    if torch._C._are_functorch_transforms_active():
        return None
    sums = ListedSums(problem, logit, terms, shifts, indices)
    formula = held("listed_sums", problem, (terms,), indices, has_labels=False)
    operands = problem.anchors, problem.references, logit, shifts
    outputs = SmallOperator.apply(sums, *formula, *operands)
    return None if outputs is None else PairSums(*outputs[:2], *outputs[2].unbind(0))


def mean_listed_triplet(
    problem: PairProblem,
    margin: Hyperparameter,
    form: str,
    indices: PairIndices,
    triplets: tuple[Tensor | None, Tensor | None],
    interval: Interval,
) -> Tensor | None:
    """The mean of the losses in the interval, 0-d, of triplets of listed pairs.

    triplets: the numbers of their positive and of their negative pairs; None: one after the other.
    Differentiable in embeddings and in the margin.  None as of :func:`marked_row_losses`.
    """
    if torch._C._are_functorch_transforms_active():
        return None
    learnt, constant = None, 0.0
    if isinstance(margin, Tensor) and margin.requires_grad:
        learnt = margin.clone()  # the caller may overwrite it
    else:
        constant = float(margin)
    losses = ListedTriplets(problem, learnt, constant, form, indices, *triplets)
    tensors = *triplets, *indices
    formula = held("listed_triplets", problem, (form, constant), tensors, has_labels=False)
    return of_list(losses, formula, problem, learnt, interval)


def mean_few_triplets(
    problem: PairProblem, margin: float, indices: PairIndices, joins: bool, interval: Interval
) -> Tensor | None:
    """:func:`mean_listed_triplet` of hinges of few triplets, see ``engine.few_triplets``."""
    if torch._C._are_functorch_transforms_active():
        return None
    keeps = records(*problem[:2])
    few = FewTriplets(problem, margin, interval, indices, joins, keeps)
    rest = margin, joins, interval
    formula = held("few_triplets", problem, rest, indices, has_labels=False)
    return of_list(few, formula, problem, None, EVERYTHING)


def mean_joint_loss(
    problem: PairProblem,
    logit: Tensor,
    form: str,
    pairs: tuple[Tensor, Tensor],
    interval: Interval,
) -> Tensor | None:
    """The mean of the losses of joint rows in the interval, 0-d, see ``engine.whole_joint``.

    Differentiable in embeddings; the logit is a constant.  None as of :func:`marked_row_losses`.
    """
    if torch._C._are_functorch_transforms_active():
        return None
    num_rows = problem.anchors.shape[0] + (0 if problem.references is None else problem.shape[1])
    kind = WholeJoint if pairs[0].shape[0] <= num_rows else WholeProducts
    losses = kind(problem, logit, form, *pairs)
    formula = held("listed_joint_losses", problem, (form,), pairs)
    return of_list(losses, formula, problem, logit, interval)


def counted_pair_losses(
    problem: PairProblem,
    logit: Tensor,
    formula: PairFormula,
    indices: PairIndices,
    by_list: ByList,
    interval: Interval | None = None,
) -> Tensor | None:
    """The losses of the listed positive pairs, one for each time that one is listed.

    by_list: for second derivatives, the same of the list.  interval: None, or for the mean of the
    losses in it, 0-d.
    Differentiable in embeddings and logit.  None as of :func:`marked_row_losses`, and of a list
    that is less work than the matrix.
    """
    if torch._C._are_functorch_transforms_active():
        return None
    by_rows = held("losses_by_list", problem, (by_list,), indices, has_labels=False)
    size = indices.size(*problem[:2])
    if interval is not None and size.is_sparse:
        few = ListedPairLosses(problem, logit, formula, indices)
        mean = of_list(few, by_rows, problem, logit, interval)
        if mean is not None:
            return mean
    if not size.is_dense:
        return None
    counted = marked.CountedPairLosses(problem, logit, formula, indices)
    return of_list(counted, by_rows, problem, logit, interval)


def listed_row_losses(
    problem: PairProblem,
    logit: Tensor,
    head: str | RowForm,
    head_parameters: Tensor,
    indices: PairIndices,
    by_list: ByList,
    interval: Interval,
) -> Tensor | None:
    """The mean of the L_i in the interval, 0-d, of pairs that are listed once.

    by_list: for second derivatives, the L_i of the list.
    Differentiable in embeddings and logit.  None as of :func:`marked_row_losses`.
    """
    if torch._C._are_functorch_transforms_active():
        return None
    losses = ListedRowLosses(problem, logit, head, head_parameters, indices)
    by_rows = held("losses_by_list", problem, (by_list,), indices, has_labels=False)
    return of_list(losses, by_rows, problem, logit, interval)


def pair_values(
    anchors: Tensor,
    references: Tensor | None,
    rows: Tensor,
    columns: Tensor,
    measure: str,
    backend: str = "auto",
) -> Tensor:
    """x of each listed pair (rows[k], columns[k]), [num_pairs]; differentiable in embeddings."""
    return differentiable("pair_values", backend, anchors, references, rows, columns, measure)
