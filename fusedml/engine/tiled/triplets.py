"""All triplets of a problem: each anchor's negatives against its positives, none of them listed.

Up to ``MOST_DIRECT`` positives a row they are held, and half of the tiles of a self problem serve
both their rows and their columns.  Where there are more, the rows come in strips, each against all
columns: what a strip holds of its positives is bounded, and nothing of it is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fusedml.engine.pairs import PairProblem, accumulation_dtype, widest_dtype
from fusedml.engine.reductions.entries import MatrixSide
from fusedml.engine.reductions.thresholds import (
    ABSENT,
    DirectSums,
    SearchedSums,
    Sums,
    Window,
)
from fusedml.engine.tiled.gradient import GradientAccumulator
from fusedml.engine.tiled.plan import TILE_ELEMENTS, TILE_ROWS, Tile, TiledProblem, TileKind

# comparing is faster than searching up to so many thresholds
MOST_DIRECT = 8
# numbers of the positives of a strip of rows: 16 MB in float32
STRIP_ELEMENTS = 1 << 22


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
        sums = triplets.sums_of(_held(tiled).thresholds(tiled), slice(None))
        for tile in _with_negatives(tiled.tiles()):
            y = _hardness(tiled, tile, tiled.measures(tile))
            _add(sums, y, tiled.sides(tile), tiled)
        met[: sums.met().shape[1]] = sums.met().T
        results = [sums.sums, sums.numbers, sums.of_margin()]
    else:
        parts = []
        rectangle = TiledProblem(_rectangle(problem))
        for strip in _strips(rectangle):
            sums = triplets.sums_of(strip.thresholds(), strip.rows)
            for tile in _with_negatives(strip.tiles):
                y = _hardness(rectangle, tile, rectangle.measures(tile))
                _add(sums, y, ((slice(None), 1),), rectangle)
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
    anchors_grad, references_grad, _ = gradients.results(_rectangle(problem), numbers)
    if problem.references is None:
        anchors_grad, references_grad = anchors_grad + references_grad, anchors_grad.new_zeros(0)
    return anchors_grad, references_grad, numbers_grad


def _held_gradient(
    triplets: _Triplets, g: Tensor, met: Tensor, needs: list[bool]
) -> GradientAccumulator:
    tiled, held = triplets.tiled, _held(triplets.tiled)
    gradients = GradientAccumulator(tiled, [*needs[:2], False])
    sums = triplets.sums_of(held.thresholds(tiled), slice(None))
    for tile in _with_negatives(tiled.tiles()):
        x = tiled.measures(tile)
        # in a self problem a weight holds both directions, w_ij + w_ji
        sides = ((tile.rows, 1), (tile.cols, 0)) if tiled.is_self else ((tile.rows, 1),)
        _weigh(sums, g, tile, x, sides, gradients)
    weights = -_sign(tiled) * g[held.rows] * met[held.places, held.rows]
    gradients.add_list(held.rows, held.cols, weights, held.x)
    return gradients


def _strips_gradient(triplets: _Triplets, g: Tensor, needs: list[bool]) -> GradientAccumulator:
    problem = triplets.problem
    tiled = TiledProblem(_rectangle(problem))
    both = needs[0], needs[0] if problem.references is None else needs[1]
    gradients = GradientAccumulator(tiled, [*both, False])
    for strip in _strips(tiled):
        sums = triplets.sums_of(strip.thresholds(), strip.rows, weighs_thresholds=True)
        of_rows = g[strip.rows]
        for tile in _with_negatives(strip.tiles):
            _weigh(sums, of_rows, tile, tiled.measures(tile), ((slice(None), 1),), gradients)
        strip.add_positives(gradients, -_sign(tiled) * of_rows[:, None] * sums.met())
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
        totals, wide = self.totals[rows], self.tiled.sum_dtype
        return _sums_of(t, self.window, self.is_hinge, totals, wide, weighs_thresholds)


def _sums_of(
    t: Tensor,
    window: Window,
    is_hinge: bool,
    totals: Tensor,
    wide: torch.dtype,
    weighs_thresholds: bool,
) -> Sums:
    if is_hinge and t.shape[1] > MOST_DIRECT:
        return SearchedSums(t, window, totals, wide)
    return DirectSums(t, window, is_hinge, totals, wide, weighs_thresholds)


def _sign(problem: TiledProblem) -> float:
    return 1.0 if problem.measure == "dot" else -1.0


def _hardness(problem: TiledProblem, tile: Tile, x: Tensor) -> Tensor:
    """y of the tile's negatives, -ABSENT elsewhere, in scratch tile 6."""
    y = torch.mul(x, _sign(problem), out=problem.buffer(6, tile.shape))
    if tile.kind is TileKind.MIXED:
        y.masked_fill_(problem.positive_mask(tile) > 0, -ABSENT)
        problem.fill_excluded(tile, y, -ABSENT)
    return y


def _with_negatives(tiles: Iterable[Tile]) -> Iterator[Tile]:
    return (tile for tile in tiles if tile.kind is not TileKind.POSITIVE)


Sides = tuple[tuple[slice, int], ...]


def _add(sums: Sums, y: Tensor, sides: Sides, problem: TiledProblem) -> None:
    for side in (MatrixSide(*each) for each in sides):
        if sums.meets(y, side):
            sums.add(y, side, problem.buffer)


def _weigh(
    sums: Sums, g: Tensor, tile: Tile, x: Tensor, sides: Sides, gradients: GradientAccumulator
) -> None:
    """Adds the gradient of a tile's negatives; nothing if they meet no positive."""
    problem = gradients.problem
    y = _hardness(problem, tile, x)
    met = [side for side in (MatrixSide(*each) for each in sides) if sums.meets(y, side)]
    if met:
        weight = problem.buffer(7, tile.shape).zero_()
        for side in met:
            sums.weigh(y, side, g, weight, problem.buffer)
        gradients.add(tile, weight.mul_(_sign(problem)), x)


class _Held(NamedTuple):
    """The positives of all rows, listed, and the place of each among those of its row."""

    rows: Tensor
    cols: Tensor
    places: Tensor
    x: Tensor

    def thresholds(self, problem: TiledProblem) -> Tensor:
        """[num_rows, k], padded."""
        most = int(self.places.max()) + 1 if self.places.numel() else 0
        t = problem.a.new_full((problem.num_rows, most), ABSENT)
        t[self.rows, self.places] = _sign(problem) * self.x
        return t


def _held(problem: TiledProblem) -> _Held:
    # an excluded diagonal is among what is counted
    most = (MOST_DIRECT + 1) * problem.num_rows
    none = torch.zeros(0, dtype=torch.int64, device=problem.device)
    rows, cols = next(problem.listed_positives(most), (none, none))
    counts = torch.bincount(rows, minlength=problem.num_rows)
    begins = counts.cumsum(0) - counts
    places = torch.arange(rows.shape[0], device=rows.device) - begins[rows]
    return _Held(rows, cols, places, problem.listed_measures(rows, cols))


def _rectangle(problem: PairProblem) -> PairProblem:
    """The problem whose rows meet all columns, where those are the rows themselves as well."""
    if problem.references is not None:
        return problem
    return problem._replace(references=problem.anchors, reference_labels=problem.anchor_labels)


class _Strip:
    """Some rows of a problem with two sides, and their tiles.

    first, last: the run of columns that may hold positives.
    """

    def __init__(
        self, problem: TiledProblem, rows: slice, first: int, last: int, kind: TileKind
    ) -> None:
        self.problem, self.rows = problem, rows
        self.first, self.last = first, last
        negative = TileKind.NEGATIVE
        self.positives = list(self._tiles(first, last, kind))
        others = [*self._tiles(0, first, negative), *self._tiles(last, problem.num_cols, negative)]
        self.tiles = [*self.positives, *others]
        self.order: Tensor | None = None

    def _tiles(self, begin: int, end: int, kind: TileKind) -> Iterator[Tile]:
        width = max(1, TILE_ELEMENTS // (self.rows.stop - self.rows.start))
        for col in range(begin, end, width):
            yield Tile(self.rows.start, self.rows.stop, col, min(col + width, end), kind, False)

    def thresholds(self) -> Tensor:
        """[rows, k], ascending, padded; the columns that they are of stay in ``order``."""
        problem = self.problem
        t = problem.a.new_full((self.rows.stop - self.rows.start, self.last - self.first), ABSENT)
        for tile in self.positives:
            y = problem.measures(tile).mul_(_sign(problem))
            if tile.kind is TileKind.MIXED:
                y.masked_fill_(problem.positive_mask(tile) == 0, ABSENT)
            problem.fill_excluded(tile, y, ABSENT)
            t[:, tile.col_begin - self.first : tile.col_end - self.first] = y
        t, order = t.sort(1)
        most = int((t < ABSENT).sum(1).max()) if t.numel() else 0
        self.order = order[:, :most]
        return t[:, :most]

    def add_positives(self, gradients: GradientAccumulator, weights: Tensor) -> None:
        """Adds the gradient of the positives from their weights, [rows, k], as ``thresholds``."""
        assert self.order is not None  # thresholds has been called
        whole = weights.new_zeros(weights.shape[0], self.last - self.first)
        # padding is of columns that are no positives: their weights are 0
        whole.scatter_(1, self.order, weights)
        for tile in self.positives:
            part = whole[:, tile.col_begin - self.first : tile.col_end - self.first]
            gradients.add(tile, part.contiguous(), self.problem.measures(tile))


def _strips(problem: TiledProblem) -> Iterator[_Strip]:
    """All rows, as many at a time as their positives allow."""
    begin = 0
    while begin < problem.num_rows:
        end = min(begin + TILE_ROWS, problem.num_rows)
        first, last, kind = problem.positive_run(begin, end)
        if (end - begin) * (last - first) > STRIP_ELEMENTS:
            end = begin + max(1, STRIP_ELEMENTS // (last - first))
            first, last, kind = problem.positive_run(begin, end)
        yield _Strip(problem, slice(begin, end), first, last, kind)
        begin = end


def matrix_triplet_losses(
    x: Tensor, positive: Tensor, negative: Tensor, numbers: Tensor, sign: float, form: str
) -> tuple[Tensor, Tensor, Tensor]:
    """V [r], the number of triplets that count [r] and dV/dmargin [r] of the rows of a matrix."""
    rows = _MatrixRows(x, positive, negative, numbers, sign, form)
    if rows.sums.meets(rows.y, _ROWS):
        rows.sums.add(rows.y, _ROWS, rows.buffer)
    return (
        rows.sums.sums.to(rows.y.dtype),
        rows.sums.numbers,
        rows.sums.of_margin().to(rows.y.dtype),
    )


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
    rows = _MatrixRows(x, positive, negative, numbers, sign, form)
    g = losses_grad.to(rows.y.dtype)
    weight = torch.zeros_like(rows.y)
    if rows.sums.meets(rows.y, _ROWS):
        rows.sums.weigh(rows.y, _ROWS, g, weight, rows.buffer)
        weight.scatter_add_(1, rows.order, -g[:, None] * rows.sums.met())
    return weight.mul_(sign).to(x.dtype), numbers_grad


_ROWS = MatrixSide(slice(None), 1)


class _MatrixRows:
    """The rows of a matrix of measures, with masks of the positives and of the negatives."""

    def __init__(
        self,
        x: Tensor,
        positive: Tensor,
        negative: Tensor,
        numbers: Tensor,
        sign: float,
        form: str,
    ) -> None:
        y = x.to(accumulation_dtype(x.dtype)) * sign
        t, order = y.masked_fill(~positive, ABSENT).sort(1)
        counts = positive.sum(1)
        most = int(counts.max()) if counts.numel() else 0
        # beyond a row's own positives: padding, whose weights are 0
        t, self.order = t[:, :most], order[:, :most]
        self.y = y.masked_fill(~negative, -ABSENT)
        totals = counts * negative.sum(1)
        window, is_hinge = Window.of(numbers), form == "hinge"
        self.sums = _sums_of(t, window, is_hinge, totals, widest_dtype(x.device), True)

    def buffer(self, index: int, shape: tuple[int, int]) -> Tensor:
        return self.y.new_empty(shape)
