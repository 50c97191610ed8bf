"""All triplets of a problem: each anchor's negatives against its positives, none of them listed.

Up to ``MOST_DIRECT`` positives a row they are held, and half of the tiles of a self problem serve
both their rows and their columns.  Where there are more, the rows come in strips, each against all
columns: what a strip holds of its positives is bounded, and nothing of it is kept.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fusedml.engine.pairs import PairProblem, accumulation_dtype, widest_dtype
from fusedml.engine.reductions.threshold_rows import ROWS, ThresholdRows
from fusedml.engine.reductions.thresholds import (
    DirectSums,
    SearchedSums,
    Sums,
    Window,
)
from fusedml.engine.tiled.gradient import GradientAccumulator
from fusedml.engine.tiled.plan import TiledProblem
from fusedml.engine.tiled.thresholds import (
    MOST_DIRECT,
    add_block,
    hardness,
    held_positives,
    rectangle_of,
    sign_of,
    strips_of,
    weigh_block,
    with_negatives,
)


def triplet_losses(
    problem: PairProblem, numbers: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """V [n], the number of triplets that count [n], dV/dmargin [n] and -dV/dt [MOST_DIRECT, n].

    numbers: those of a ``Window``.  form: "hinge" or "softplus".  The last are of the positives
    that are held, in the order of the sorted rows and columns.
    """
    triplets = _Triplets(problem, numbers, form)
    tiled, totals = triplets.tiled, triplets.totals
    met = tiled.a.new_zeros(MOST_DIRECT, tiled.num_rows)
    if triplets.is_held:
        sums = triplets.sums_of(held_positives(tiled).thresholds(tiled), slice(None))
        for tile in with_negatives(tiled.tiles()):
            y = hardness(tiled, tile, tiled.measures(tile))
            add_block(sums, y, tiled.sides(tile), tiled)
        met[: sums.met().shape[1]] = sums.met().T
        results = [sums.sums, sums.numbers, sums.of_margin()]
    else:
        parts = []
        rectangle = TiledProblem(rectangle_of(problem))
        for strip in strips_of(rectangle):
            sums = triplets.sums_of(strip.thresholds(), strip.rows)
            for tile in with_negatives(strip.tiles):
                y = hardness(rectangle, tile, rectangle.measures(tile))
                add_block(sums, y, ((slice(None), 1),), rectangle)
            parts.append((sums.sums, sums.numbers, sums.of_margin()))
        results = [torch.cat(part) for part in zip(*parts, strict=True)] if parts else [totals] * 3
    results[0] = results[0].to(tiled.dtype) + tiled.poison()
    results[2] = results[2].to(tiled.dtype)
    rows = (tiled.to_rows(values[None], problem.anchors)[0] for values in results)
    losses, numbers_of_rows, of_margin = rows
    return losses, numbers_of_rows, of_margin, met


def triplet_gradient(
    problem: PairProblem,
    numbers: Tensor,
    form: str,
    of_margin: Tensor,
    met: Tensor,
    losses_grad: Tensor,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of anchors, references and the window's numbers, of which the margin has one."""
    triplets = _Triplets(problem, numbers, form)
    g = triplets.tiled.sorted_rows(losses_grad.to(triplets.tiled.dtype))
    numbers_grad = numbers.new_zeros(numbers.shape if needs[2] else 0)
    if needs[2]:
        numbers_grad[0] = (of_margin * losses_grad).sum()
    if triplets.is_held:
        gradients = _held_gradient(triplets, g, met, needs)
        return *gradients.results(problem, numbers)[:2], numbers_grad
    gradients = _strips_gradient(triplets, g, needs)
    anchors_grad, references_grad, _ = gradients.results(rectangle_of(problem), numbers)
    if problem.references is None:
        anchors_grad, references_grad = anchors_grad + references_grad, anchors_grad.new_zeros(0)
    return anchors_grad, references_grad, numbers_grad


def _held_gradient(
    triplets: _Triplets, g: Tensor, met: Tensor, needs: list[bool]
) -> GradientAccumulator:
    tiled, held = triplets.tiled, held_positives(triplets.tiled)
    gradients = GradientAccumulator(tiled, [*needs[:2], False])
    sums = triplets.sums_of(held.thresholds(tiled), slice(None))
    for tile in with_negatives(tiled.tiles()):
        weigh_block(sums, g, tile, tiled.sides(tile), gradients)
    weights = -sign_of(tiled) * g[held.rows] * met[held.places, held.rows]
    gradients.add_list(held.rows, held.cols, weights, held.x)
    return gradients


def _strips_gradient(triplets: _Triplets, g: Tensor, needs: list[bool]) -> GradientAccumulator:
    problem = triplets.problem
    tiled = TiledProblem(rectangle_of(problem))
    both = needs[0], needs[0] if problem.references is None else needs[1]
    gradients = GradientAccumulator(tiled, [*both, False])
    for strip in strips_of(tiled):
        sums = triplets.sums_of(strip.thresholds(), strip.rows, weighs_thresholds=True)
        of_rows = g[strip.rows]
        for tile in with_negatives(strip.tiles):
            weigh_block(sums, of_rows, tile, ((slice(None), 1),), gradients)
        strip.add_positives(gradients, -sign_of(tiled) * of_rows[:, None] * sums.met())
    return gradients


class _Triplets:
    """A problem in tiles, its window and what is summed."""

    def __init__(self, problem: PairProblem, numbers: Tensor, form: str) -> None:
        self.problem, self.tiled = problem, TiledProblem(problem)
        self.window, self.is_hinge = Window.of(numbers), form == "hinge"
        counts = self.tiled.counts()
        self.totals = counts[0] * counts[1]
        most = int(counts[0].max()) if counts.numel() else 0
        self.is_held = self.tiled.is_sorted and most <= MOST_DIRECT

    def sums_of(self, t: Tensor, rows: slice, weighs_thresholds: bool = False) -> Sums:
        """The sums of some rows, which have the thresholds t, [rows, k], ascending if there are
        many.
        """

        def totals() -> Tensor:
            return self.totals[rows]

        wide = self.tiled.sum_dtype
        return _sums_of(t, self.window, self.is_hinge, totals, wide, weighs_thresholds)


def _sums_of(
    t: Tensor,
    window: Window,
    is_hinge: bool,
    totals: Callable[[], Tensor],
    wide: torch.dtype,
    weighs_thresholds: bool,
) -> Sums:
    if is_hinge and t.shape[1] > MOST_DIRECT:
        return SearchedSums(t, window, totals, wide)
    return DirectSums(t, window, is_hinge, totals, wide, weighs_thresholds)


def sums_of_rows(
    rows: ThresholdRows, numbers: Tensor, form: str, weighs_thresholds: bool = False
) -> Sums:
    """The sums of whole rows, before any pair is added.  numbers, form: of ``triplet_losses``."""
    is_hinge = form == "hinge"
    if is_hinge and rows.t.shape[1] > MOST_DIRECT:
        rows.sort()
    window, wide = Window.of(numbers), widest_dtype(rows.y.device)
    return _sums_of(rows.t, window, is_hinge, rows.totals, wide, weighs_thresholds)


def _matrix_rows(x: Tensor, positive: Tensor, negative: Tensor, sign: float) -> ThresholdRows:
    y = x.to(accumulation_dtype(x.dtype)) * sign
    return ThresholdRows.of_masks(y, positive, negative)


def matrix_triplet_losses(
    x: Tensor, positive: Tensor, negative: Tensor, numbers: Tensor, sign: float, form: str
) -> tuple[Tensor, Tensor, Tensor]:
    """V [r], the number of triplets that count [r] and dV/dmargin [r] of the rows of a matrix."""
    rows = _matrix_rows(x, positive, negative, sign)
    sums = sums_of_rows(rows, numbers, form)
    if sums.meets(rows.y, ROWS):
        sums.add(rows.y, ROWS, rows.buffer)
    dtype = rows.y.dtype
    return sums.sums.to(dtype), sums.numbers, sums.of_margin().to(dtype)


def matrix_triplet_gradient(
    x: Tensor,
    positive: Tensor,
    negative: Tensor,
    numbers: Tensor,
    sign: float,
    form: str,
    of_margin: Tensor,
    losses_grad: Tensor,
    needs: list[bool],
) -> tuple[Tensor, Tensor]:
    """Gradients of the matrix and of the window's numbers."""
    numbers_grad = numbers.new_zeros(numbers.shape if needs[1] else 0)
    if needs[1]:
        numbers_grad[0] = (of_margin * losses_grad).sum()
    if not needs[0]:
        return x.new_empty(0), numbers_grad
    rows = _matrix_rows(x, positive, negative, sign)
    sums = sums_of_rows(rows, numbers, form, weighs_thresholds=True)
    g = losses_grad.to(rows.y.dtype)
    weight = torch.zeros_like(rows.y)
    if sums.meets(rows.y, ROWS):
        sums.weigh(rows.y, ROWS, g, weight, rows.buffer)
        rows.write_(weight, -g[:, None] * sums.met())
    return weight.mul_(sign).to(x.dtype), numbers_grad
