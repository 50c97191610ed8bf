"""Losses made of the smooth ranks of each row's positives, the row itself among them."""

from __future__ import annotations

import torch
from torch import Tensor

from fusedml.engine.pairs import PairProblem, accumulation_dtype, widest_dtype
from fusedml.engine.reductions.ranks import RankLosses, Ranks, rank_weights
from fusedml.engine.reductions.threshold_rows import ROWS, ThresholdRows
from fusedml.engine.reductions.thresholds import ABSENT
from fusedml.engine.tiled.gradient import GradientAccumulator
from fusedml.engine.tiled.plan import TiledProblem
from fusedml.engine.tiled.thresholds import (
    MOST_DIRECT,
    Strip,
    add_block,
    hardness,
    held_positives,
    rectangle_of,
    sign_of,
    strips_of,
    weigh_block,
    with_negatives,
)

_OWN = ((slice(None), 1),)


def rank_losses(problem: PairProblem, numbers: Tensor, form: str) -> tuple[Tensor, Tensor]:
    """L [n], and R- [MOST_DIRECT, n] of the positives that are held, in the order of the tiles.

    problem: of the embeddings with themselves, the diagonal being made of positives.
    numbers: T and the form's parameters.  form: a name of ``fusedml.ranks.RANK_FORMS``.
    """
    tiled, scale = TiledProblem(problem), 1 / numbers[0].item()
    held_ranks = tiled.a.new_zeros(MOST_DIRECT, tiled.num_rows)
    if _is_held(tiled):
        t = _scaled(held_positives(tiled).thresholds(tiled), scale)
        ranks = Ranks(t, tiled.sum_dtype)
        for tile in with_negatives(tiled.tiles()):
            y = hardness(tiled, tile, tiled.measures(tile), scale)
            add_block(ranks, y, tiled.sides(tile), tiled)
        held_ranks[: t.shape[1]] = ranks.sums.to(tiled.dtype)
        losses = RankLosses(t, held_ranks[: t.shape[1]].T, numbers, form).values()
    else:
        rectangle = TiledProblem(rectangle_of(problem))
        parts = []
        for strip in strips_of(rectangle):
            t = _scaled(strip.thresholds(), scale)
            ranks = _ranks_of(rectangle, strip, t, scale)
            found = ranks.sums.T.to(t.dtype)
            parts.append(RankLosses(t, found, numbers, form).values())
        losses = torch.cat(parts)
    losses = losses + tiled.poison()
    return tiled.to_rows(losses[None], problem.anchors)[0], held_ranks


def rank_gradient(
    problem: PairProblem,
    numbers: Tensor,
    form: str,
    held_ranks: Tensor,
    losses_grad: Tensor,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the anchors, of nothing, and of the numbers."""
    tiled, scale = TiledProblem(problem), 1 / numbers[0].item()
    upstream = tiled.sorted_rows(losses_grad.to(tiled.dtype))
    numbers_grad = numbers.new_zeros(numbers.shape)
    if _is_held(tiled):
        gradients = GradientAccumulator(tiled, [needs[0], False, False])
        held = held_positives(tiled)
        t = _scaled(held.thresholds(tiled), scale)
        lines = rank_weights(t, held_ranks[: t.shape[1]].T, numbers, form, upstream, needs[2])
        for tile in with_negatives(tiled.tiles()):
            weigh_block(lines.ranks, lines.g, tile, tiled.sides(tile), gradients, scale)
        weights = lines.of_thresholds()[held.rows, held.places] * (scale * sign_of(tiled))
        gradients.add_list(held.rows, held.cols, weights, held.x)
        if needs[2]:
            numbers_grad += lines.of_numbers(numbers).sum(1)
        anchors_grad = gradients.results(problem, numbers)[0]
    else:
        rectangle = rectangle_of(problem)
        tiled = TiledProblem(rectangle)
        gradients = GradientAccumulator(tiled, [needs[0], needs[0], False])
        for strip in strips_of(tiled):
            t = _scaled(strip.thresholds(), scale)
            ranks = _ranks_of(tiled, strip, t, scale).sums.T.to(t.dtype)
            lines = rank_weights(t, ranks, numbers, form, upstream[strip.rows], needs[2])
            for tile in with_negatives(strip.tiles):
                weigh_block(lines.ranks, lines.g, tile, _OWN, gradients, scale)
            strip.add_positives(gradients, lines.of_thresholds() * (scale * sign_of(tiled)))
            if needs[2]:
                numbers_grad += lines.of_numbers(numbers).sum(1)
        of_rows, of_columns, _ = gradients.results(rectangle, numbers)
        anchors_grad = of_rows + of_columns
    if not needs[2]:
        numbers_grad = numbers.new_zeros(0)
    return anchors_grad, problem.anchors.new_zeros(0), numbers_grad


def _is_held(tiled: TiledProblem) -> bool:
    counts = tiled.counts()[0]
    return tiled.is_sorted and (counts.numel() == 0 or int(counts.max()) <= MOST_DIRECT)


def _scaled(t: Tensor, scale: float) -> Tensor:
    """The thresholds divided by T; padding stays what it is."""
    return torch.where(t < ABSENT, t * scale, ABSENT)


def _ranks_of(problem: TiledProblem, strip: Strip, t: Tensor, scale: float) -> Ranks:
    ranks = Ranks(t, problem.sum_dtype)
    for tile in with_negatives(strip.tiles):
        y = hardness(problem, tile, problem.measures(tile), scale)
        add_block(ranks, y, _OWN, problem)
    return ranks


def _matrix_rows(
    x: Tensor, positive: Tensor, negative: Tensor, scale: float
) -> tuple[ThresholdRows, Ranks]:
    y = x.to(accumulation_dtype(x.dtype)) * scale
    rows = ThresholdRows.of_masks(y, positive, negative)
    ranks = Ranks(rows.t, widest_dtype(x.device))
    if ranks.meets(rows.y, ROWS):
        ranks.add(rows.y, ROWS, rows.buffer)
    return rows, ranks


def matrix_rank_losses(
    x: Tensor, positive: Tensor, negative: Tensor, numbers: Tensor, sign: float, form: str
) -> tuple[Tensor, Tensor]:
    """L [r] of the rows of a matrix; and nothing, [0]."""
    rows, ranks = _matrix_rows(x, positive, negative, sign / numbers[0].item())
    losses = RankLosses(rows.t, ranks.sums.T.to(rows.t.dtype), numbers, form).values()
    return losses, losses.new_zeros(0)


def matrix_rank_gradient(
    x: Tensor,
    positive: Tensor,
    negative: Tensor,
    numbers: Tensor,
    sign: float,
    form: str,
    losses_grad: Tensor,
    needs: list[bool],
) -> tuple[Tensor, Tensor]:
    """Gradients of the matrix and of the numbers."""
    scale = sign / numbers[0].item()
    rows, found = _matrix_rows(x, positive, negative, scale)
    ranks, upstream = found.sums.T.to(rows.t.dtype), losses_grad.to(rows.t.dtype)
    lines = rank_weights(rows.t, ranks, numbers, form, upstream, needs[1])
    weight = torch.zeros_like(rows.y)
    if lines.ranks.meets(rows.y, ROWS):
        lines.ranks.weigh(rows.y, ROWS, lines.g, weight, rows.buffer)
        rows.write_(weight, lines.of_thresholds())
    x_grad = weight.mul_(scale).to(x.dtype) if needs[0] else x.new_zeros(0)
    return x_grad, lines.of_numbers(numbers).sum(1) if needs[1] else numbers.new_zeros(0)
