"""Losses made of the smooth ranks of each row's positives, the row itself among them."""

from __future__ import annotations

import torch
from torch import Tensor

from fusedml.engine.pairs import PairProblem, accumulation_dtype, widest_dtype
from fusedml.engine.reductions.entries import MatrixSide
from fusedml.engine.reductions.ranks import RankLosses, Ranks
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

_ROWS = MatrixSide(slice(None), 1)
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
        losses = RankLosses(t, numbers, form).values(held_ranks[: t.shape[1]].T)
    else:
        rectangle = TiledProblem(rectangle_of(problem))
        parts = []
        for strip in strips_of(rectangle):
            t = _scaled(strip.thresholds(), scale)
            ranks = _ranks_of(rectangle, strip, t, scale)
            parts.append(RankLosses(t, numbers, form).values(ranks.sums.T.to(t.dtype)))
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
        lines = _Backward(t, held_ranks[: t.shape[1]].T, numbers, form, upstream, needs[2])
        for tile in with_negatives(tiled.tiles()):
            weigh_block(lines.ranks, lines.g, tile, tiled.sides(tile), gradients, scale)
        weights = lines.of_thresholds()[held.rows, held.places] * (scale * sign_of(tiled))
        gradients.add_list(held.rows, held.cols, weights, held.x)
        numbers_grad += lines.of_numbers()
        anchors_grad = gradients.results(problem, numbers)[0]
    else:
        rectangle = rectangle_of(problem)
        tiled = TiledProblem(rectangle)
        gradients = GradientAccumulator(tiled, [needs[0], needs[0], False])
        for strip in strips_of(tiled):
            t = _scaled(strip.thresholds(), scale)
            ranks = _ranks_of(tiled, strip, t, scale).sums.T.to(t.dtype)
            lines = _Backward(t, ranks, numbers, form, upstream[strip.rows], needs[2])
            for tile in with_negatives(strip.tiles):
                weigh_block(lines.ranks, lines.g, tile, _OWN, gradients, scale)
            strip.add_positives(gradients, lines.of_thresholds() * (scale * sign_of(tiled)))
            numbers_grad += lines.of_numbers()
        of_rows, of_columns, _ = gradients.results(rectangle, numbers)
        anchors_grad = of_rows + of_columns
    if not needs[2]:
        numbers_grad = numbers.new_zeros(0)
    return anchors_grad, problem.anchors.new_zeros(0), numbers_grad


class _Backward:
    """Some lines in the backward.

    t: [lines, k], divided by T.  ranks: R- of the forward.  g: dL/dR-, [k, lines].
    """

    def __init__(
        self,
        t: Tensor,
        ranks: Tensor,
        numbers: Tensor,
        form: str,
        upstream: Tensor,
        needs_numbers: bool,
    ) -> None:
        self.numbers = numbers
        losses = RankLosses(t, numbers, form)
        g, self.of_t, self.of_parameters, self.of_log = losses.gradient(ranks, upstream)
        self.g = g.T.contiguous()
        self.ranks = Ranks(t, t.dtype)
        if needs_numbers:
            self.ranks.moments = torch.zeros_like(self.ranks.t)

    def of_thresholds(self) -> Tensor:
        """dL/dt, [lines, k], once the negatives have been weighed."""
        return self.of_t - (self.g * self.ranks.slopes).T

    def of_numbers(self) -> Tensor:
        """dL/d(numbers)."""
        if self.ranks.moments is None:
            return torch.zeros_like(self.numbers)
        of_log = self.of_log - (self.g * self.ranks.moments).sum()
        of_temperature = of_log / self.numbers[0].to(of_log)
        return torch.cat([of_temperature[None], self.of_parameters]).to(self.numbers)


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


class _MatrixRows:
    """The rows of a matrix of measures, with masks of the positives and of the negatives."""

    def __init__(
        self, x: Tensor, positive: Tensor, negative: Tensor, numbers: Tensor, sign: float
    ) -> None:
        self.scale = sign / numbers[0].item()
        y = x.to(accumulation_dtype(x.dtype)) * self.scale
        t, order = y.masked_fill(~positive, ABSENT).sort(1)
        most = int(positive.sum(1).max()) if positive.numel() else 0
        self.t, self.order = t[:, :most], order[:, :most]
        self.y = y.masked_fill(~negative, -ABSENT)
        self.ranks = Ranks(self.t, widest_dtype(x.device))
        if self.ranks.meets(self.y, _ROWS):
            self.ranks.add(self.y, _ROWS, self.buffer)

    def buffer(self, index: int, shape: tuple[int, int]) -> Tensor:
        return self.y.new_empty(shape)


def matrix_rank_losses(
    x: Tensor, positive: Tensor, negative: Tensor, numbers: Tensor, sign: float, form: str
) -> tuple[Tensor, Tensor]:
    """L [r] of the rows of a matrix; and nothing, [0]."""
    rows = _MatrixRows(x, positive, negative, numbers, sign)
    losses = RankLosses(rows.t, numbers, form).values(rows.ranks.sums.T.to(rows.t.dtype))
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
    rows = _MatrixRows(x, positive, negative, numbers, sign)
    ranks, upstream = rows.ranks.sums.T.to(rows.t.dtype), losses_grad.to(rows.t.dtype)
    lines = _Backward(rows.t, ranks, numbers, form, upstream, needs[1])
    weight = torch.zeros_like(rows.y)
    if lines.ranks.meets(rows.y, _ROWS):
        lines.ranks.weigh(rows.y, _ROWS, lines.g, weight, rows.buffer)
    weight.scatter_add_(1, rows.order, lines.of_thresholds())
    x_grad = weight.mul_(rows.scale).to(x.dtype) if needs[0] else x.new_zeros(0)
    return x_grad, lines.of_numbers() if needs[1] else numbers.new_zeros(0)
