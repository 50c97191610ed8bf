"""Triplets, ranks, histograms, divergences and extremes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fusedml.engine.autograd.choices import as_tiled, is_held_whole, of_list, records
from fusedml.engine.averaged import EVERYTHING, Interval
from fusedml.engine.backends import has_kernels
from fusedml.engine.formulas_by_rows import held
from fusedml.engine.functions import SmallOperator, Underived, differentiable
from fusedml.engine.ops import operator
from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.whole import is_small
from fusedml.engine.whole_divergences import WholeDivergences
from fusedml.engine.whole_histograms import WholeHistograms
from fusedml.engine.whole_thresholds import (
    WholeMeanTriplet,
    WholeRanks,
    WholeThresholds,
    WholeTriplets,
)


def triplet_losses(
    problem: PairProblem, numbers: Tensor, form: str, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """The losses of each anchor's triplets, added, [n], and how many count, [n], int64.

    numbers: [4], those of a ``engine.reductions.thresholds.Window``.  form: "hinge" or "softplus".
    Differentiable in embeddings and in the margin, the first number.
    """
    if is_held_whole(backend, problem):
        outputs = _of_thresholds(WholeTriplets, problem, numbers, form)
        if outputs is not None:
            return outputs[0], outputs[1]
    problem = as_tiled(problem)
    view = problem.measure, problem.excluded
    arguments = *problem[:4], numbers, *view, form
    losses, counts, *_ = differentiable("triplet_losses", backend, *arguments)
    return losses, counts


def mean_triplet_loss(
    problem: PairProblem, numbers: Tensor, form: str, backend: str = "auto"
) -> Tensor | None:
    """The mean of the losses of the triplets of :func:`triplet_losses` that count, 0-d, 0 of none.

    None of a problem that is not held whole, and if not all is finite.
    """
    if not is_held_whole(backend, problem):
        return None
    mean = WholeMeanTriplet(problem, numbers, form, records(*problem[:2], numbers))
    formula = held(WholeMeanTriplet.__name__, problem)
    return of_list(mean, formula, problem, numbers, EVERYTHING)


def _of_thresholds(
    kind: type[WholeThresholds], problem: PairProblem, numbers: Tensor, form: str
) -> tuple[Tensor, ...] | None:
    operands = problem.anchors, problem.references, numbers, None
    whole = kind(problem, numbers, form, records(*operands))
    outputs: tuple[Tensor, ...] | None = SmallOperator.apply(
        whole, *held(kind.__name__, problem), *operands
    )
    return outputs


def matrix_triplet_losses(
    x: Tensor, positive: Tensor, negative: Tensor, numbers: Tensor, sign: float, form: str
) -> tuple[Tensor, Tensor]:
    """:func:`triplet_losses` of the rows of a matrix of measures; differentiable in it."""
    arguments = x, positive, negative, numbers, sign, form
    losses, counts, _ = differentiable("matrix_triplet_losses", "torch", *arguments)
    return losses, counts


def pair_histograms(
    problem: PairProblem,
    lowest: float,
    delta: float,
    num_edges: int,
    per_row: bool,
    backend: str = "auto",
) -> Tensor:
    """[2, n, num_edges], soft histograms of each row's positives and negatives; [2, 1, num_edges]
    of all rows together.

    problem: of the embeddings with themselves; pairs of two negative labels are left out.
    Differentiable in the embeddings.
    """
    if is_held_whole(backend, problem):
        whole = WholeHistograms(problem, lowest, delta, num_edges, per_row)
        formula = held("pair_histograms", problem)
        outputs = SmallOperator.apply(whole, *formula, problem.anchors, None, None, None)
        if outputs is not None:
            return outputs[0]
    problem = as_tiled(problem)
    arguments = problem.anchors, problem.anchor_labels, problem.measure
    grid = lowest, delta, num_edges, per_row
    histograms: Tensor = differentiable("pair_histograms", backend, *arguments, *grid)
    return histograms


def rank_losses(problem: PairProblem, numbers: Tensor, form: str, backend: str = "auto") -> Tensor:
    """L [n], made of the smooth ranks of each row's positives, the row itself among them.

    problem: of the embeddings with themselves; ``exclude_diagonal`` is False.  numbers: T and
    the form's parameters.  form: a name of ``fusedml.ranks.RANK_FORMS``.  Differentiable in
    embeddings and numbers.
    """
    if is_held_whole(backend, problem):
        outputs = _of_thresholds(WholeRanks, problem, numbers, form)
        if outputs is not None:
            return outputs[0]
    problem = as_tiled(problem)
    arguments = *problem[:4], numbers, problem.measure, problem.excluded, form
    losses: Tensor = differentiable("rank_losses", backend, *arguments)[0]
    return losses


def mean_rank_loss(
    problem: PairProblem, numbers: Tensor, form: str, interval: Interval, backend: str = "auto"
) -> Tensor | None:
    """The mean of the losses of :func:`rank_losses` that are in the interval, 0-d.

    None of a problem that is not held whole, and if not all is finite.
    """
    if not is_held_whole(backend, problem):
        return None
    ranks = WholeRanks(problem, numbers, form, records(problem.anchors, numbers))
    formula = held(WholeRanks.__name__, problem)
    return of_list(ranks, formula, problem, numbers, interval)


def matrix_rank_losses(
    x: Tensor, positive: Tensor, negative: Tensor, numbers: Tensor, sign: float, form: str
) -> Tensor:
    """:func:`rank_losses` of the rows of a matrix of measures; differentiable in it."""
    arguments = x, positive, negative, numbers, sign, form
    losses: Tensor = differentiable("matrix_rank_losses", "torch", *arguments)[0]
    return losses


def row_divergences(
    anchors: Tensor,
    teacher: Tensor,
    labels: Tensor | None,
    numbers: Tensor,
    backend: str = "auto",
) -> Tensor:
    """KL [n] of the softmax rows of the teacher's products and of the batch's.

    anchors: [n, d].  teacher: [n, e].  labels, numbers: as in ``engine.tiled.row_divergences``.
    Differentiable in anchors, teacher and numbers.
    """
    learns = teacher.requires_grad or numbers.requires_grad
    is_held = is_small(backend, anchors, None) and not learns
    if is_held and not torch._C._are_functorch_transforms_active():
        whole: Tensor | None = WholeDivergences.apply(anchors, teacher, labels, numbers)
        if whole is not None:
            return whole
    if anchors.dtype != teacher.dtype and has_kernels(backend, anchors, "row_divergences"):
        # which take rows of one type
        dtype = accumulation_dtype(anchors.dtype)
        anchors, teacher = anchors.to(dtype), teacher.to(dtype)
    arguments = anchors, teacher, labels, numbers
    losses: Tensor = differentiable("row_divergences", backend, *arguments)[0]
    return losses


def pair_extrema(problem: PairProblem, backend: str = "auto") -> Tensor:
    """[2, n]: the hardest positive and negative of each row; not differentiable.

    In hardness y (x for "dot", -x for the distances): min of y over P(i), +inf for an empty set,
    and max of y over N(i), -inf for an empty set.
    """
    with torch.no_grad():
        problem = as_tiled(problem)
        extrema: Tensor = _underived("pair_extrema", backend, *problem.arguments)
        return extrema


def extreme_pairs(
    problem: PairProblem,
    largest: Sequence[bool],
    intervals: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Measures and columns of each row's extreme pairs, see ``routes.row_strips.extreme_pairs``.

    Not differentiable.
    """
    with torch.no_grad():
        problem = as_tiled(problem)
        arguments = *problem.arguments, intervals, [*largest]
        measures, columns = _underived("extreme_pairs", backend, *arguments)
        return measures, columns


def _underived(name: str, backend: str, *args: Any) -> Any:
    """The outputs of an operator that has no derivative; transforms know it by ``Underived``."""
    function = operator(name, backend)
    if torch._C._are_functorch_transforms_active():
        return Underived.apply(name, function, *args)
    return function(*args)
