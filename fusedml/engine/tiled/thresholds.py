"""What sums against thresholds need of the tiles: the positives of the rows, held or in strips."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fusedml.engine.pairs import PairProblem
from fusedml.engine.reductions.entries import MatrixSide, Side
from fusedml.engine.reductions.thresholds import ABSENT, Buffer
from fusedml.engine.tiled.gradient import GradientAccumulator
from fusedml.engine.tiled.plan import TILE_ELEMENTS, TILE_ROWS, Tile, TiledProblem, TileKind

# comparing is faster than searching up to so many thresholds
MOST_DIRECT = 8
# numbers of the positives of a strip of rows: 16 MB in float32
STRIP_ELEMENTS = 1 << 22


class Adds(Protocol):
    """A reduction of negatives to sums against the positives of their lines."""

    def meets(self, y: Tensor, side: Side) -> bool: ...
    def add(self, y: Tensor, side: Side, buffer: Buffer) -> None: ...
    def weigh(self, y: Tensor, side: Side, g: Tensor, out: Tensor, buffer: Buffer) -> None: ...


def sign_of(problem: TiledProblem) -> float:
    """What makes hardness of a measure."""
    return 1.0 if problem.measure == "dot" else -1.0


def hardness(problem: TiledProblem, tile: Tile, x: Tensor, scale: float = 1.0) -> Tensor:
    """scale y of the tile's negatives, -ABSENT elsewhere, in scratch tile 6."""
    y = torch.mul(x, scale * sign_of(problem), out=problem.buffer(6, tile.shape))
    if tile.kind is TileKind.MIXED:
        y.masked_fill_(problem.positive_mask(tile) > 0, -ABSENT)
        problem.fill_excluded(tile, y, -ABSENT)
    return y


def with_negatives(tiles: Iterable[Tile]) -> Iterator[Tile]:
    """The tiles that may hold negatives."""
    return (tile for tile in tiles if tile.kind is not TileKind.POSITIVE)


Sides = tuple[tuple[slice, int], ...]


def add_block(sums: Adds, y: Tensor, sides: Sides, problem: TiledProblem) -> None:
    """Shows a tile's negatives, of hardness y, to the lines they feed."""
    for side in (MatrixSide(*each) for each in sides):
        if sums.meets(y, side):
            sums.add(y, side, problem.buffer)


def weigh_block(
    sums: Adds,
    g: Tensor,
    tile: Tile,
    sides: Sides,
    gradients: GradientAccumulator,
    scale: float = 1.0,
) -> None:
    """Adds the gradient of a tile's negatives; nothing if they meet no positive."""
    problem = gradients.problem
    x = problem.measures(tile)
    y = hardness(problem, tile, x, scale)
    met = [side for side in (MatrixSide(*each) for each in sides) if sums.meets(y, side)]
    if met:
        weight = problem.buffer(7, tile.shape).zero_()
        for side in met:
            sums.weigh(y, side, g, weight, problem.buffer)
        if problem.is_self and not tile.is_mirrored:
            # the diagonal block is its own transpose: a weight holds both directions, w_ij + w_ji
            weight = torch.add(weight, weight.T, out=problem.buffer(1, tile.shape))
        gradients.add(tile, weight.mul_(scale * sign_of(problem)), x)


class Held(NamedTuple):
    """The positives of all rows, listed, and the place of each among those of its row."""

    rows: Tensor
    cols: Tensor
    places: Tensor
    x: Tensor

    def thresholds(self, problem: TiledProblem) -> Tensor:
        """[num_rows, k], padded."""
        most = int(self.places.max()) + 1 if self.places.numel() else 0
        t = problem.a.new_full((problem.num_rows, most), ABSENT)
        t[self.rows, self.places] = sign_of(problem) * self.x
        return t


def held_positives(problem: TiledProblem) -> Held:
    """All positives of a sorted problem that has at most MOST_DIRECT of them a row."""
    # an excluded diagonal is among what is counted
    most = (MOST_DIRECT + 1) * problem.num_rows
    none = torch.zeros(0, dtype=torch.int64, device=problem.device)
    rows, cols = next(problem.listed_positives(most), (none, none))
    counts = torch.bincount(rows, minlength=problem.num_rows)
    begins = counts.cumsum(0) - counts
    places = torch.arange(rows.shape[0], device=rows.device) - begins[rows]
    return Held(rows, cols, places, problem.listed_measures(rows, cols))


def rectangle_of(problem: PairProblem) -> PairProblem:
    """The problem whose rows meet all columns, where those are the rows themselves as well."""
    if problem.references is not None:
        return problem
    return problem._replace(references=problem.anchors, reference_labels=problem.anchor_labels)


class Strip:
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
            y = problem.measures(tile).mul_(sign_of(problem))
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


def strips_of(problem: TiledProblem) -> Iterator[Strip]:
    """All rows, as many at a time as their positives allow."""
    begin = 0
    while begin < problem.num_rows:
        end = min(begin + TILE_ROWS, problem.num_rows)
        first, last, kind = problem.positive_run(begin, end)
        if (end - begin) * (last - first) > STRIP_ELEMENTS:
            end = begin + max(1, STRIP_ELEMENTS // (last - first))
            first, last, kind = problem.positive_run(begin, end)
        yield Strip(problem, slice(begin, end), first, last, kind)
        begin = end
