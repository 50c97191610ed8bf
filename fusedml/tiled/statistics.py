"""Forward: row statistics, row extrema and row losses, tile by tile."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fusedml.heads import ROW_HEADS, RowStatistics
from fusedml.tiled.plan import Tile, TiledProblem, TileKind

_EMPTY = -math.inf


class LogitScales(NamedTuple):
    """z = scale x + shift for each kind of pair, as Python numbers."""

    positive_scale: float
    positive_shift: float
    negative_scale: float
    negative_shift: float

    def of(self, is_positive: bool) -> tuple[float, float]:
        return self[:2] if is_positive else self[2:]  # type: ignore[return-value]


def is_bounded(problem: TiledProblem, scales: LogitScales) -> bool:
    """Whether exp(scale x) can neither overflow nor underflow, so that no running maximum is needed.

    For float32 |scale x| <= 70 leaves room for sums of 1e7 terms (e^70 = 2.5e30) and keeps the
    smallest term, e^-70, a normal number.  NaN bounds are unbounded.
    """
    limit = 600.0 if problem.dtype == torch.float64 else 70.0
    bound = problem.largest_measure * max(abs(scales.positive_scale), abs(scales.negative_scale))
    return bound <= limit


class OnlineLse:
    """Log-sum-exp of a stream of logits per row, kept as (max, sum) with lse = max + log(sum).

    Milakov & Gimelshein 2018, "Online normalizer calculation for softmax".
    """

    def __init__(self, size: int, like: Tensor) -> None:
        self.max = like.new_full((size,), _EMPTY)
        self.sum = like.new_zeros(size)

    def push(self, where: slice, logits: Tensor, dim: int) -> None:
        largest = torch.maximum(self.max[where], logits.amax(dim))
        # a set that is still empty keeps -inf: (-inf) - (-inf) would be NaN
        shift = largest.masked_fill(largest == _EMPTY, 0)
        self.sum[where] *= torch.exp(self.max[where] - shift)
        self.sum[where] += torch.exp(logits - shift.unsqueeze(dim)).sum(dim)
        self.max[where] = largest

    def value(self) -> Tensor:
        return torch.where(self.sum > 0, self.max + self.sum.log(), self.max)


def kinds_of(tile: Tile) -> tuple[bool, ...]:
    """The kinds of pair the tile can hold: positive (True), negative (False)."""
    if tile.kind is TileKind.MIXED:
        return True, False
    return (tile.kind is TileKind.POSITIVE,)


def kept_by(
    problem: TiledProblem, x: Tensor, thresholds: Tensor, is_positive: bool, side: tuple[slice, int]
) -> Tensor:
    """Mask of the pairs that one side's rows keep: hardness below (positives) or above a bound."""
    where, dim = side
    bound = thresholds[0 if is_positive else 1, where].unsqueeze(dim)
    if problem.measure != "dot":  # hardness is -x
        return x > -bound if is_positive else x < -bound
    return x < bound if is_positive else x > bound


def kept_logits(
    problem: TiledProblem,
    tile: Tile,
    x: Tensor,
    scales: LogitScales,
    is_positive: bool,
    thresholds: Tensor | None,
    side: tuple[slice, int],
) -> Tensor:
    """z of one kind of pair as one side of the tile sees it, -inf for all other pairs."""
    scale, shift = scales.of(is_positive)
    logits = x * scale + shift
    mask = problem.positive_mask(tile)
    if mask is not None:
        logits.masked_fill_(~mask if is_positive else mask, _EMPTY)
    if thresholds is not None:
        logits.masked_fill_(~kept_by(problem, x, thresholds, is_positive, side), _EMPTY)
    return problem.fill_excluded(tile, logits, _EMPTY)


def _online_statistics(
    problem: TiledProblem, scales: LogitScales, thresholds: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Any logits: a running maximum for each row."""
    n = problem.num_rows
    lse = {True: OnlineLse(n, problem.a), False: OnlineLse(n, problem.a)}
    sum_positive = problem.a.new_zeros(n)
    counts = torch.zeros((2, n), dtype=torch.int64, device=problem.device)
    for tile in problem.tiles():
        x = problem.measures(tile)
        for is_positive in kinds_of(tile):
            for side in tile.sides:
                where, dim = side
                logits = kept_logits(problem, tile, x, scales, is_positive, thresholds, side)
                lse[is_positive].push(where, logits, dim)
                kept = logits != _EMPTY
                if thresholds is not None:
                    counts[0 if is_positive else 1, where] += kept.sum(dim)
                if is_positive:
                    sum_positive[where] += logits.masked_fill_(~kept, 0).sum(dim)
    if thresholds is None:
        counts = problem.counts()
    return torch.stack([lse[True].value(), lse[False].value(), sum_positive]), counts


def _bounded_statistics(
    problem: TiledProblem, scales: LogitScales, thresholds: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Bounded logits: plain sums of exp(scale x), each tile exponentiated once for both sides."""
    n = problem.num_rows
    # float64: a row's sum grows over up to n / TILE_ROWS tiles
    sums = torch.zeros((3, n), dtype=torch.float64, device=problem.device)
    counts = torch.zeros((2, n), dtype=torch.int64, device=problem.device)
    for tile in problem.tiles():
        if tile.kind is TileKind.NEGATIVE and thresholds is None:
            exp = problem.measures(tile, scales.negative_scale).exp_()
            problem.fill_excluded(tile, exp, 0)
            for where, dim in tile.sides:
                sums[1, where] += exp.sum(dim)
            continue
        x = problem.measures(tile)
        mask = problem.positive_mask(tile)
        for is_positive in kinds_of(tile):
            index = 0 if is_positive else 1
            exp = torch.mul(x, scales.of(is_positive)[0], out=problem.buffer(1, tile.shape)).exp_()
            if mask is not None:
                exp.masked_fill_(~mask if is_positive else mask, 0)
            problem.fill_excluded(tile, exp, 0)
            for side in tile.sides:
                where, dim = side
                kept = exp
                if thresholds is not None:
                    rule = kept_by(problem, x, thresholds, is_positive, side)
                    kept = torch.mul(exp, rule, out=problem.buffer(2, tile.shape))
                    # no kept pair has exp = 0: the bound is there for that
                    counts[index, where] += torch.count_nonzero(kept, dim)
                sums[index, where] += kept.sum(dim)
                if is_positive:
                    sums[2, where] += torch.where(kept > 0, x, 0).sum(dim)
    if thresholds is None:
        counts = problem.counts()
    statistics = torch.stack(
        [
            sums[0].log() + scales.positive_shift,
            sums[1].log() + scales.negative_shift,
            sums[2] * scales.positive_scale + counts[0].to(sums) * scales.positive_shift,
        ]
    )
    return statistics.to(problem.dtype), counts


def _statistics(
    problem: TiledProblem, logit: Tensor, thresholds: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Statistics [3, num_rows] and counts [2, num_rows] in sorted order."""
    scales = LogitScales(*logit.tolist())
    if thresholds is not None:
        thresholds = problem.sorted_rows(thresholds)
    sweep = _bounded_statistics if is_bounded(problem, scales) else _online_statistics
    statistics, counts = sweep(problem, scales, thresholds)
    return statistics + problem.poison(), counts


def pair_statistics(
    anchors: Tensor,
    references: Tensor | None,
    anchor_labels: Tensor,
    reference_labels: Tensor | None,
    logit: Tensor,
    measure: str,
    exclude_diagonal: bool,
    thresholds: Tensor | None,
    extent: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Statistics [3, n] (lse+, lse-, sum+) and counts [2, n] (n+, n-) of every row."""
    problem = TiledProblem(
        anchors,
        references,
        anchor_labels,
        reference_labels,
        measure,
        exclude_diagonal,
        extent,
    )
    statistics, counts = _statistics(problem, logit, thresholds)
    statistics = problem.to_rows(statistics, anchors, _EMPTY)
    statistics[2, problem.num_rows :] = 0
    return statistics, problem.to_rows(counts, anchors, 0)


def row_losses(
    anchors: Tensor,
    references: Tensor | None,
    anchor_labels: Tensor,
    reference_labels: Tensor | None,
    logit: Tensor,
    measure: str,
    exclude_diagonal: bool,
    thresholds: Tensor | None,
    extent: Tensor | None,
    head: str,
    head_parameters: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses [n], statistics [3, n] and the head's partial derivatives [3, n]."""
    statistics, counts = pair_statistics(
        anchors,
        references,
        anchor_labels,
        reference_labels,
        logit,
        measure,
        exclude_diagonal,
        thresholds,
        extent,
    )
    row = ROW_HEADS[head](RowStatistics(*statistics, *counts), head_parameters)
    return row.value, statistics, torch.stack(row[1:])


def pair_extrema(
    anchors: Tensor,
    references: Tensor | None,
    anchor_labels: Tensor,
    reference_labels: Tensor | None,
    measure: str,
    exclude_diagonal: bool,
) -> Tensor:
    """[2, n] in hardness y: min over P(i), +inf if empty; max over N(i), -inf if empty."""
    problem = TiledProblem(
        anchors, references, anchor_labels, reference_labels, measure, exclude_diagonal
    )
    scale = 1.0 if measure == "dot" else -1.0
    # the least hardness of the positives is minus the greatest of -y
    scales = LogitScales(-scale, 0.0, scale, 0.0)
    greatest = problem.a.new_full((2, problem.num_rows), _EMPTY)
    for tile in problem.tiles():
        x = problem.measures(tile)
        for is_positive in kinds_of(tile):
            # without thresholds both sides see the same logits
            logits = kept_logits(problem, tile, x, scales, is_positive, None, tile.sides[0])
            for where, dim in tile.sides:
                to = greatest[0 if is_positive else 1, where]
                torch.maximum(to, logits.amax(dim), out=to)
    greatest[0].neg_()
    return problem.to_rows(greatest + problem.poison(), anchors)
