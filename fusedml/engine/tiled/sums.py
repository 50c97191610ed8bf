"""Sums of terms over all pairs, tile by tile: forward, and backward."""

from __future__ import annotations

import math

from torch import Tensor

from fusedml.engine.pairs import PairProblem
from fusedml.engine.reductions.logits import Logits
from fusedml.engine.reductions.sums import Sums
from fusedml.engine.tiled.gradient import GradientAccumulator
from fusedml.engine.tiled.plan import TiledProblem
from fusedml.engine.tiled.reduced import add_weights, reduce_tiles
from fusedml.terms import unpacked


def _sums(
    tiled: TiledProblem, problem: PairProblem, logit: Tensor, shifts: Tensor | None, terms: Tensor
) -> Sums:
    """The reduction, its lines in sorted order."""
    if shifts is not None:
        shifts = tiled.sorted_lines(shifts.to(tiled.dtype))
    logits = Logits(logit, problem.curve)
    return Sums(unpacked(terms), logits, tiled.num_lines, tiled.a, shifts)


def pair_sums(
    problem: PairProblem, logit: Tensor, shifts: Tensor | None, terms: Tensor, both_sides: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """F, D (empty without shifts) and C, [K, lines], and the numbers of pairs, [2, lines].

    The lines are the rows; with both_sides the rows and then the columns.
    shifts: None or [2, lines].  terms: see ``fusedml.terms.packed``.
    """
    tiled = TiledProblem(problem, both_sides)
    reduction = _sums(tiled, problem, logit, shifts, terms)
    reduce_tiles(tiled, reduction)
    numbers = tiled.counts()
    sums, slopes, counts = reduction.end(numbers)
    if not math.isfinite(tiled.largest_measure):
        sums = sums + tiled.poison()
    if shifts is not None:
        slopes = tiled.to_lines(slopes, problem)
    return (
        tiled.to_lines(sums, problem),
        slopes,
        tiled.to_lines(counts, problem),
        tiled.to_lines(numbers, problem),
    )


def pair_sums_gradient(
    problem: PairProblem,
    logit: Tensor,
    shifts: Tensor | None,
    terms: Tensor,
    both_sides: bool,
    slopes: Tensor,
    counts: Tensor,
    sums_grad: Tensor,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of anchors, references, logit and shifts from dL/dF."""
    tiled = TiledProblem(problem, both_sides)
    reduction = _sums(tiled, problem, logit, shifts, terms)
    grad = sums_grad.to(tiled.dtype)
    reduction.begin_backward(tiled.sorted_lines(grad), tiled.sorted_lines(counts))
    gradients = GradientAccumulator(tiled, needs)
    for tile in tiled.tiles():
        add_weights(gradients, reduction, tile)
    shifts_grad = sums_grad.new_empty(0)
    if shifts is not None:
        # of all lines, those beyond the extent have no pairs and D = 0
        shifts_grad = reduction.shifts_gradient(grad, slopes).to(shifts.dtype)
    return *gradients.results(problem, logit), shifts_grad
