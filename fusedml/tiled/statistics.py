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


def kept_logits(
    problem: TiledProblem,
    tile: Tile,
    x: Tensor,
    scales: LogitScales,
    is_positive: bool,
    thresholds: Tensor | None,
) -> Tensor | None:
    """z of one kind of pair, -inf for all other pairs; None if the tile has none of the kind.

    thresholds: what the pairs' hardness must stay below (positives) or exceed (negatives), shaped
    to broadcast over the tile, or None.
    """
    if tile.kind is (TileKind.NEGATIVE if is_positive else TileKind.POSITIVE):
        return None
    scale, shift = scales.of(is_positive)
    logits = x * scale + shift
    mask = problem.positive_mask(tile)
    if mask is not None:
        logits.masked_fill_(~mask if is_positive else mask, _EMPTY)
    if thresholds is not None:
        hardness = x if problem.measure == "dot" else -x
        dropped = hardness >= thresholds if is_positive else hardness <= thresholds
        logits.masked_fill_(dropped, _EMPTY)
    return problem.fill_excluded(tile, logits, _EMPTY)


def _online_statistics(
    problem: TiledProblem, scales: LogitScales, thresholds: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Any logits, with or without thresholds: a running maximum for each row."""
    n = problem.num_rows
    lse = {True: OnlineLse(n, problem.a), False: OnlineLse(n, problem.a)}
    sum_positive = problem.a.new_zeros(n)
    counts = torch.zeros((2, n), dtype=torch.int64, device=problem.device)
    for tile in problem.tiles():
        x = problem.measures(tile)
        for is_positive in (True, False):
            for where, dim in ((tile.rows, 1), (tile.cols, 0))[: 1 + tile.is_mirrored]:
                rule = None
                if thresholds is not None:
                    rule = thresholds[0 if is_positive else 1, where].unsqueeze(dim)
                logits = kept_logits(problem, tile, x, scales, is_positive, rule)
                if logits is None:
                    continue
                lse[is_positive].push(where, logits, dim)
                kept = logits != _EMPTY
                counts[0 if is_positive else 1, where] += kept.sum(dim)
                if is_positive:
                    sum_positive[where] += logits.masked_fill_(~kept, 0).sum(dim)
    if thresholds is None:
        counts = problem.counts()  # exact also where a logit is -inf
    return torch.stack([lse[True].value(), lse[False].value(), sum_positive]), counts


def _bounded_statistics(problem: TiledProblem, scales: LogitScales) -> tuple[Tensor, Tensor]:
    """Bounded logits: plain sums of exp(scale x), each tile exponentiated once for both sides."""
    n = problem.num_rows
    # float64: a row's sum grows over up to n / TILE_ROWS tiles
    sums = torch.zeros((3, n), dtype=torch.float64, device=problem.device)
    for tile in problem.tiles():
        mask = problem.positive_mask(tile)
        if tile.kind is not TileKind.NEGATIVE:
            x = problem.measures(tile)
            exp = torch.mul(x, scales.positive_scale, out=problem.buffer(1, tile.shape)).exp_()
            if mask is not None:
                exp.mul_(mask)
            problem.fill_excluded(tile, exp, 0)
            _add_sums(sums[0], tile, exp)
            kept = x if mask is None else torch.mul(x, mask, out=problem.buffer(1, tile.shape))
            if tile.kind is TileKind.POSITIVE:
                _add_sums(sums[2], tile, problem.fill_excluded(tile, kept, 0))
                continue
            _add_sums(sums[2], tile, problem.fill_excluded(tile, kept, 0))
            exp = x.mul_(scales.negative_scale).exp_().masked_fill_(mask, 0)  # type: ignore[arg-type]
        else:
            exp = _scaled_measures(problem, tile, scales.negative_scale).exp_()
        problem.fill_excluded(tile, exp, 0)
        _add_sums(sums[1], tile, exp)
    counts = problem.counts()
    statistics = torch.stack(
        [
            sums[0].log() + scales.positive_shift,
            sums[1].log() + scales.negative_shift,
            sums[2] * scales.positive_scale + counts[0].to(sums) * scales.positive_shift,
        ]
    )
    return statistics.to(problem.dtype), counts


def _scaled_measures(problem: TiledProblem, tile: Tile, scale: float) -> Tensor:
    """scale x of the tile's pairs, in scratch tile 0."""
    if problem.measure == "dot":
        # scaling the strip of anchors instead saves a pass over the tile
        a = problem.a[tile.rows] * scale
        return torch.mm(a, problem.r[tile.cols].T, out=problem.buffer(0, tile.shape))
    return problem.measures(tile).mul_(scale)


def _add_sums(to: Tensor, tile: Tile, values: Tensor) -> None:
    to[tile.rows] += values.sum(1)
    if tile.is_mirrored:
        to[tile.cols] += values.sum(0)


def _statistics(
    problem: TiledProblem, logit: Tensor, thresholds: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Statistics [3, num_rows] and counts [2, num_rows] in sorted order."""
    scales = LogitScales(*logit.tolist())
    if thresholds is None and is_bounded(problem, scales):
        statistics, counts = _bounded_statistics(problem, scales)
    else:
        if thresholds is not None:
            thresholds = problem.sorted_rows(thresholds)
        statistics, counts = _online_statistics(problem, scales, thresholds)
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
        for is_positive in (True, False):
            logits = kept_logits(problem, tile, x, scales, is_positive, None)
            if logits is None:
                continue
            to = greatest[0 if is_positive else 1]
            to[tile.rows] = torch.maximum(to[tile.rows], logits.amax(1))
            if tile.is_mirrored:
                to[tile.cols] = torch.maximum(to[tile.cols], logits.amax(0))
    greatest[0].neg_()
    return problem.to_rows(greatest + problem.poison(), anchors)
