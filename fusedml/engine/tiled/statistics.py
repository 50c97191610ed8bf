"""Forward: row statistics, row extrema and row losses, tile by tile."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from fusedml.engine.pairs import PairProblem
from fusedml.engine.reductions.log_sums import LogSums
from fusedml.engine.reductions.logits import Logits
from fusedml.engine.tiled.plan import Tile, TiledProblem, TileKind
from fusedml.engine.tiled.reduced import TileEntries, reduce_tiles
from fusedml.heads import ROW_FORMS, RowStatistics

_EMPTY = -math.inf


class LogitScales(Logits):
    """The logits of a formula, spread over tiles."""

    def __init__(self, logit: Tensor, curve: str = "affine") -> None:
        super().__init__(logit, curve)
        self.positive_scale, self.positive_shift = self.of(True)
        self.negative_scale, self.negative_shift = self.of(False)
        self.is_bent = self.bends(True) or self.bends(False)

    def bent_tile(
        self, x: Tensor, tile: Tile, mask: Tensor | None, problem: TiledProblem
    ) -> Tensor:
        """y, each pair by its own kind, in scratch tile 5; x itself without a bend."""
        if not self.is_bent:
            return x
        out = problem.buffer(5, tile.shape)
        if mask is None:
            return self.bent(x, tile.kind is TileKind.POSITIVE, out)
        positive = self.bent(x, True, problem.buffer(2, tile.shape))
        return torch.lerp(self.bent(x, False, out), positive, mask, out=out)

    def slopes(
        self,
        x: Tensor,
        tile: Tile,
        mask: Tensor | None,
        problem: TiledProblem,
        wanted: dict[bool, bool],
    ) -> Tensor:
        """dz/dx, each pair by its own kind, in scratch tile 2; 1 for a kind that is not wanted."""

        def of_kind(kind: bool, out: Tensor) -> Tensor:
            slope = self.slope(x, kind, out) if wanted[kind] else 1.0
            return slope if isinstance(slope, Tensor) else out.fill_(slope)

        out = problem.buffer(2, tile.shape)
        if mask is None:
            return of_kind(tile.kind is TileKind.POSITIVE, out)
        positive = of_kind(True, problem.buffer(3, tile.shape))
        return torch.lerp(of_kind(False, out), positive, mask, out=out)

    def times(self, x: Tensor, tile: Tile, mask: Tensor | None, problem: TiledProblem) -> Tensor:
        """scale x, each pair by its own kind, in scratch tile 1.  mask: see ``mixed_mask``."""
        out = problem.buffer(1, tile.shape)
        if mask is None:
            return torch.mul(x, self.of(tile.kind is TileKind.POSITIVE)[0], out=out)
        positive = problem.buffer(2, tile.shape).fill_(self.positive_scale)
        # lerp by 0 or 1 selects exactly
        return out.fill_(self.negative_scale).lerp_(positive, mask).mul_(x)


def mixed_mask(problem: TiledProblem, tile: Tile) -> Tensor | None:
    """The mask of the tile's positives, or None where its kind says it all."""
    return problem.positive_mask(tile) if tile.kind is TileKind.MIXED else None


def largest_exponent(dtype: torch.dtype) -> float:
    """The x such that e^x and e^-x need no maximum taken off, float64 or float32.

    For float32 70 leaves room for sums of 1e7 terms (e^70 = 2.5e30) and keeps the smallest term,
    e^-70, a normal number.
    """
    return 600.0 if dtype == torch.float64 else 70.0


def bounded_kinds(problem: TiledProblem, scales: LogitScales) -> dict[bool, bool]:
    """Of which kind of pair exp(scale y) neither overflows nor underflows: no maximum is needed.

    NaN bounds are unbounded.
    """
    limit = largest_exponent(problem.dtype)
    x, curve = problem.largest_measure, scales.curve
    return {
        kind: curve.largest(x, *numbers, kind) <= limit for kind, numbers in scales.numbers.items()
    }


def kept_by(
    problem: TiledProblem,
    tile: Tile,
    x: Tensor,
    thresholds: Tensor,
    mask: Tensor | None,
    side: tuple[slice, int],
) -> Tensor:
    """Which pairs one side's rows keep: positives of lesser, negatives of greater hardness."""
    where, dim = side
    below, above = (bound[where].unsqueeze(dim) for bound in thresholds)
    hardness = x if problem.measure == "dot" else -x
    if mask is None:
        return hardness < below if tile.kind is TileKind.POSITIVE else hardness > above
    return torch.where(mask > 0, hardness < below, hardness > above)


def _online_statistics(
    problem: TiledProblem, scales: LogitScales, thresholds: Tensor | None, tiles: Iterable[Tile]
) -> tuple[Tensor, Tensor]:
    """Any logits: a running maximum for each row."""
    reduction = log_sums(problem, scales, thresholds)
    reduce_tiles(problem, reduction, tiles)
    return reduction.end(), problem.counts() if thresholds is None else reduction.counts


def log_sums(problem: TiledProblem, logits: Logits, thresholds: Tensor | None) -> LogSums:
    """The reduction of the problem's lines."""
    sign = 1.0 if problem.measure == "dot" else -1.0
    return LogSums(logits, problem.num_lines, problem.a, thresholds, sign)


def exponentials(
    problem: TiledProblem, tile: Tile, x: Tensor, scales: LogitScales, mask: Tensor | None
) -> Tensor:
    """exp(scale y) of the tile's pairs, each by its own kind, 0 on the excluded diagonal."""
    return problem.fill_excluded(tile, scales.times(x, tile, mask, problem).exp_(), 0)


def _negative_exponentials(problem: TiledProblem, tile: Tile, scales: LogitScales) -> Tensor:
    """The same of the common tile, of negatives alone: x itself is not needed."""
    if problem.holds_exponentials:
        return problem.negatives(tile, scales.negative_scale)
    x = problem.measures(tile, scales.negative_scale)
    return problem.fill_excluded(tile, scales.bent(x, False, out=x).exp_(), 0)


def split_kinds(
    problem: TiledProblem, tile: Tile, values: Tensor, mask: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """The values of the tile's positives and of its negatives, 0 elsewhere; None for neither."""
    if mask is not None:
        positive = torch.mul(values, mask, out=problem.buffer(3, tile.shape))
        return positive, torch.sub(values, positive, out=problem.buffer(2, tile.shape))
    return (values, None) if tile.kind is TileKind.POSITIVE else (None, values)


def _bounded_statistics(
    problem: TiledProblem, scales: LogitScales, thresholds: Tensor | None, tiles: Iterable[Tile]
) -> tuple[Tensor, Tensor]:
    """Bounded logits: plain sums of exp(scale y), each tile exponentiated once for both sides."""
    n = problem.num_lines
    # a row's sum grows over up to n / TILE_ROWS tiles
    sums = torch.zeros((3, n), dtype=problem.sum_dtype, device=problem.device)
    counts = None if thresholds is None else torch.zeros((2, n), device=problem.device).long()
    for tile in tiles:
        if tile.kind is TileKind.NEGATIVE and thresholds is None:
            exp = _negative_exponentials(problem, tile, scales)
            for where, dim in problem.sides(tile):
                sums[1, where].add_(exp.sum(dim))
            continue
        x, mask = problem.measures(tile), mixed_mask(problem, tile)
        y = scales.bent_tile(x, tile, mask, problem)
        exp = exponentials(problem, tile, y, scales, mask)
        for side in problem.sides(tile):
            where, dim = side
            kept = exp
            if thresholds is not None:
                rule = kept_by(problem, tile, x, thresholds, mask, side)
                kept = torch.mul(exp, rule, out=problem.buffer(2, tile.shape))
            positive, negative = split_kinds(problem, tile, kept, mask)
            for index, values in enumerate((positive, negative)):
                if values is not None:
                    sums[index, where].add_(values.sum(dim))
                    if counts is not None:
                        # bounded: exp is 0 only for the pairs that were left out
                        counts[index, where].add_(torch.count_nonzero(values, dim))
            if positive is not None:
                if thresholds is None and mask is not None:
                    measures = torch.mul(y, mask, out=problem.buffer(3, tile.shape))
                else:
                    measures = torch.where(positive > 0, y, 0)
                sums[2, where].add_(measures.sum(dim))
    if counts is None:
        counts = problem.counts()
    statistics = torch.stack(
        [
            sums[0].log().add_(scales.positive_shift),
            sums[1].log().add_(scales.negative_shift),
            sums[2] * scales.positive_scale + counts[0].to(sums) * scales.positive_shift,
        ]
    )
    return statistics.to(problem.dtype), counts


def _split_statistics(
    problem: TiledProblem, scales: LogitScales, thresholds: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Bounded logits of negatives, other positives: a running maximum in tiles with positives."""
    negatives = [tile for tile in problem.tiles() if tile.kind is TileKind.NEGATIVE]
    others = [tile for tile in problem.tiles() if tile.kind is not TileKind.NEGATIVE]
    statistics, counts = _online_statistics(problem, scales, thresholds, others)
    bounded, further = _bounded_statistics(problem, scales, thresholds, negatives)
    statistics[1] = torch.logaddexp(statistics[1], bounded[1])
    return statistics, counts if thresholds is None else counts + further


def sweep_statistics(
    problem: TiledProblem, scales: LogitScales, thresholds: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Statistics [3, num_lines] and counts [2, num_lines]; all in sorted order."""
    bounded = bounded_kinds(problem, scales)
    if bounded[True] == bounded[False] or not bounded[False]:
        sweep = _bounded_statistics if bounded[False] and bounded[True] else _online_statistics
        statistics, counts = sweep(problem, scales, thresholds, problem.tiles())
    else:
        statistics, counts = _split_statistics(problem, scales, thresholds)
    if not math.isfinite(problem.largest_measure):
        statistics = statistics + problem.poison()
    return statistics, counts


def pair_statistics(
    problem: PairProblem,
    logit: Tensor,
    thresholds: Tensor | None,
    measured: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Statistics [3, n] (lse+, lse-, sum+) and counts [2, n] (n+, n-) of every row.

    measured: None, or where to write the measures, in the order of the tiles, [n, m].
    """
    tiled = TiledProblem(problem, measured=measured, writes_measures=True)
    if thresholds is not None:
        thresholds = tiled.sorted_rows(thresholds)
    scales = LogitScales(logit, problem.curve)
    statistics, counts = sweep_statistics(tiled, scales, thresholds)
    statistics = tiled.to_rows(statistics, problem.anchors, _EMPTY)
    if problem.extent is not None:
        statistics[2, tiled.num_rows :] = 0
    return statistics, tiled.to_rows(counts, problem.anchors)


def two_sided_statistics(
    problem: PairProblem, logit: Tensor, measured: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Statistics [3, n + m] and counts [2, n + m] of every row, and then of every column."""
    tiled = TiledProblem(problem, True, measured, writes_measures=True)
    statistics, counts = sweep_statistics(tiled, LogitScales(logit, problem.curve))
    return tiled.to_lines(statistics, problem, _EMPTY), tiled.to_lines(counts, problem)


def row_losses(
    problem: PairProblem,
    logit: Tensor,
    thresholds: Tensor | None,
    head: str,
    head_parameters: Tensor,
    measured: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses [n], statistics [3, n] and the head's partial derivatives [3, n]."""
    statistics, counts = pair_statistics(problem, logit, thresholds, measured)
    row = ROW_FORMS[head](RowStatistics(*statistics, *counts), head_parameters)
    return row.value, statistics, row.partials()


def pair_extrema(problem: PairProblem) -> Tensor:
    """[2, n] in hardness y: min over P(i), +inf if empty; max over N(i), -inf if empty."""
    tiled = TiledProblem(problem)
    scale = 1.0 if problem.measure == "dot" else -1.0
    # the least hardness of the positives is minus the greatest of -y
    scales = Logits(torch.tensor([-scale, 0.0, scale, 0.0], device="cpu"))
    greatest = tiled.a.new_full((2, tiled.num_rows), _EMPTY)
    for tile in tiled.tiles():
        entries = TileEntries(tiled, tile, tiled.sides(tile))
        for is_positive in entries.kinds():
            logits = scales.logits(entries.x, is_positive, entries.scratch(1))
            entries.only_(logits, is_positive, _EMPTY)
            for side in entries.sides:
                to = greatest[0 if is_positive else 1, side.lines]
                torch.maximum(to, side.largest(logits), out=to)
    greatest[0].neg_()
    return tiled.to_rows(greatest + tiled.poison(), problem.anchors)
