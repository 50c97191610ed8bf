"""The tiles of a pair problem: embeddings sorted by label, strips of rows, runs of columns.

Several labels a row have no order: rows and columns stay as they are, and every tile is mixed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from enum import Enum
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from fusedml.engine.label_sets import are_sets, meet
from fusedml.engine.pairs import PairProblem, accumulation_dtype, crossed, widest_dtype
from fusedml.engine.precision import row_norms

# Rows of a tile.
TILE_ROWS = 256
# A tile holds at least this many elements, if there are as many: below, calls cost more than work.
LEAST_ELEMENTS = 384 * 384
# Elements of a tile: three float32 buffers of this size stay below 6 MB, in a core's L2 cache or
# close to it.
TILE_ELEMENTS = TILE_ROWS * 2048


class TileKind(Enum):
    """What the labels of a tile's rows and columns allow."""

    POSITIVE = "all pairs positive"
    NEGATIVE = "all pairs negative"
    MIXED = "labels must be compared"


class Tile(NamedTuple):
    """Rows [row_begin, row_end) against columns [col_begin, col_end), in sorted order."""

    row_begin: int
    row_end: int
    col_begin: int
    col_end: int
    kind: TileKind
    is_mirrored: bool  # self problem above the diagonal: its transpose is visited with it

    @property
    def rows(self) -> slice:
        return slice(self.row_begin, self.row_end)

    @property
    def cols(self) -> slice:
        return slice(self.col_begin, self.col_end)

    @property
    def shape(self) -> tuple[int, int]:
        return self.row_end - self.row_begin, self.col_end - self.col_begin


def kinds_of(tile: Tile) -> tuple[bool, ...]:
    """The kinds of pair the tile can hold: positive (True), negative (False)."""
    if tile.kind is TileKind.MIXED:
        return True, False
    return (tile.kind is TileKind.POSITIVE,)


class TiledProblem:
    """A pair problem with its rows and columns sorted by label and cut into tiles.

    After sorting, the positives of a strip of rows are one run of columns, so most tiles hold one
    kind of pair and need no label compare.  In a self problem only the tiles on and above the
    diagonal are visited: x_ij = x_ji, and one tile feeds both its rows and its columns.

    What is reduced are *lines*: the rows; with ``both_sides`` the rows and then the columns, so
    that one sweep over the tiles of two operands serves both directions.

    measured: None, or a matrix [num_rows, num_cols] that holds the measures: those that a first
    sweep writes (``writes_measures``), or that it has written and that need no product any more.
    """

    def __init__(
        self,
        problem: PairProblem,
        both_sides: bool = False,
        measured: Tensor | None = None,
        writes_measures: bool = False,
    ) -> None:
        self.measured, self.writes_measures = measured, writes_measures
        anchors, references, row_labels, col_labels, measure, _, extent = problem[:7]
        self.is_self = references is None
        self.measure = measure
        self.dtype = accumulation_dtype(anchors.dtype)
        self.device = anchors.device
        self.sum_dtype = widest_dtype(self.device)
        num_rows, num_cols = problem.shape
        self.first_column = num_rows  # among the caller's lines
        if extent is not None:
            rows, cols = extent.tolist()
            num_rows, num_cols = min(num_rows, rows), min(num_cols, cols)
        self.num_rows, self.num_cols = num_rows, num_cols
        self.swept_rows = slice(0, num_rows)
        self.holds_exponentials = False
        self.tile_elements = TILE_ELEMENTS
        self.both_sides = both_sides
        self.num_lines = num_rows + num_cols if both_sides else num_rows

        row_labels = row_labels[:num_rows].contiguous()
        col_labels = row_labels if col_labels is None else col_labels[:num_cols].contiguous()
        self.has_sets = are_sets(row_labels)
        self.first_sorted, self.is_sorted = 0, False
        #: numbers k of which the pairs (i, i + k) of the tiles' rows and columns are ignored
        self.diagonals = problem.diagonals
        own_first = None
        if not self.has_sets:
            if problem.self_offset and num_rows <= num_cols:
                own_first = problem.columns_from_own()
            self._find_order(row_labels, _select(col_labels, own_first))
        if own_first is not None and self.first_sorted < num_cols:
            self.diagonals, col_labels = (0,), col_labels[own_first]
        else:
            own_first = None  # in no order the columns stay where they are
        self.row_order = self._order(row_labels) if self.first_sorted < num_cols else None
        self.row_labels = _select(row_labels, self.row_order)
        self.a, self.row_norms = self._operand(anchors[:num_rows], self.row_order)
        if references is None:
            self.col_order, self.col_labels = self.row_order, self.row_labels
            self.r, self.col_norms = self.a, self.row_norms
        else:
            order = self._column_order(col_labels)
            self.col_labels = _select(col_labels, order)
            self.col_order = order if own_first is None else _select(own_first, order)
            self.r, self.col_norms = self._operand(references[:num_cols], self.col_order)
        self._memory: dict[int, Tensor] = {}
        self._mask_tile: Tile | None = None  # whose mask scratch tile 4 holds
        self._views: dict[tuple[int, tuple[int, ...]], Tensor] = {}

    def _find_order(self, row_labels: Tensor, col_labels: Tensor) -> None:
        """Which of the columns are sorted by label."""
        # an excluded diagonal stays a diagonal only if both sides are sorted alike
        keeps_diagonal = self.is_self or not self.diagonals
        self.is_sorted = keeps_diagonal or torch.equal(row_labels, col_labels)
        # the columns from here on are sorted; before them the rows' own may stand, in their order
        self.first_sorted = 0 if self.is_sorted else len(col_labels)
        if not self.is_sorted and torch.equal(row_labels, col_labels[: self.num_rows]):
            self.first_sorted = self.num_rows

    def _operand(self, embeddings: Tensor, order: Tensor | None) -> tuple[Tensor, Tensor]:
        """Sorted embeddings as the tiles' matrix products use them, and their norms."""
        sorted_rows = _select(embeddings, order).to(self.dtype)
        norms = row_norms(sorted_rows)
        return operand(sorted_rows, norms, self.measure), norms

    def _order(self, labels: Tensor) -> Tensor | None:
        if self.has_sets or bool((labels[1:] >= labels[:-1]).all()):
            return None
        return torch.argsort(labels, stable=True)

    def _column_order(self, labels: Tensor) -> Tensor | None:
        own = self.first_sorted
        if own == labels.shape[0]:
            return None
        others = self._order(labels[own:])
        if own == 0 or (others is None and self.row_order is None):
            return others
        numbers = torch.arange(labels.shape[0], device=self.device)
        of_rows = numbers[:own] if self.row_order is None else self.row_order
        return torch.cat([of_rows, numbers[own:] if others is None else others + own])

    @cached_property
    def largest_measure(self) -> float:
        """An upper bound of |x_ij|: Cauchy-Schwarz, or the triangle inequality.  NaN if any is."""
        if self.num_rows == 0 or self.num_cols == 0:
            return 0.0
        row, col = self.row_norms.max().item(), self.col_norms.max().item()
        if self.measure == "dot":
            return row * col
        return row + col if self.measure == "euclidean" else (row + col) ** 2

    def sides(self, tile: Tile) -> tuple[tuple[slice, int], ...]:
        """The lines that the tile feeds, each with the dimension to reduce over."""
        sides = (tile.rows, 1), (tile.cols, 0)
        if self.both_sides:
            begin, end = tile.col_begin, tile.col_end
            return sides[0], (slice(self.num_rows + begin, self.num_rows + end), 0)
        return sides[: 1 + tile.is_mirrored]

    def poison(self) -> Tensor:
        """[num_lines]: NaN for lines that meet a non-finite embedding, 0 for all others."""
        poison = self.row_norms * 0
        others = self.col_norms * 0
        if self.num_cols:
            poison = poison + self.col_norms.max() * 0
        if not self.both_sides:
            return poison
        if self.num_rows:
            others = others + self.row_norms.max() * 0
        return torch.cat([poison, others])

    def counts(self) -> Tensor:
        """[2, num_lines], int64: positives and negatives of each line."""
        if self.has_sets:
            return self._counts_of_sets()
        first, last = self._classes
        counts = self._counts(last - first)
        if not self.both_sides:
            return counts
        first, last = self._places(self.row_labels, self.col_labels)
        return torch.cat([counts, self._counts(last - first, of_columns=True)], 1)

    def _counts(self, positive: Tensor, of_columns: bool = False) -> Tensor:
        """Positives and negatives of the rows or columns; ``positive`` is destroyed."""
        for both in crossed(self.diagonals, self.num_rows, self.num_cols):
            same = self.row_labels[both[0]] == self.col_labels[both[1]]
            positive[both[of_columns]] -= same.long()
        return self._with_negatives(positive, of_columns)

    def _with_negatives(self, positive: Tensor, of_columns: bool = False) -> Tensor:
        others = self.num_rows if of_columns else self.num_cols
        counted = torch.full_like(positive, others)
        for both in crossed(self.diagonals, self.num_rows, self.num_cols):
            counted[both[of_columns]] -= 1
        return torch.stack([positive, counted - positive])

    def _counts_of_sets(self) -> Tensor:
        positive = torch.zeros(self.num_lines, dtype=torch.int64, device=self.device)
        for tile in self.tiles():
            mask = self.positive_mask(tile)
            for where, dim in self.sides(tile):
                positive[where] += mask.sum(dim).long()  # whole numbers below 2^24
        of_rows, of_cols = positive[: self.num_rows], positive[self.num_rows :]
        counts = [self._with_negatives(of_rows)]
        if self.both_sides:
            counts.append(self._with_negatives(of_cols, of_columns=True))
        return torch.cat(counts, 1)

    @cached_property
    def _classes(self) -> tuple[Tensor, Tensor]:
        """[num_rows] each: where each row's class begins and ends among the sorted columns."""
        return self._places(self.col_labels, self.row_labels)

    def _places(self, among: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        among = among if self.is_sorted else among.sort().values
        return torch.searchsorted(among, labels), torch.searchsorted(among, labels, right=True)

    @cached_property
    def _ranks(self) -> tuple[Tensor, Tensor]:
        """[num_rows], [num_cols]: small numbers that are equal exactly where the labels are."""
        if not self.is_sorted:
            both = torch.cat([self.row_labels, self.col_labels])
            both = torch.unique(both, return_inverse=True)[1]
            return both[: self.num_rows], both[self.num_rows :]
        first, last = self._classes
        if self.is_self:
            return first, first
        # a class without columns would share its place with the next one
        return torch.where(last > first, first, -1), torch.searchsorted(
            self.col_labels, self.col_labels
        )

    def tiles(self, only_positive: bool = False) -> Iterator[Tile]:
        """The tiles in a fixed order; with ``only_positive`` those that can hold a positive.

        The latter are narrower, because their pairs may be listed at a dozen times the memory.
        """
        elements = self.tile_elements // 8 if only_positive else self.tile_elements
        row_begin, last = self.swept_rows.start, self.swept_rows.stop
        while row_begin < last:
            row_end = min(self._strip_end(row_begin), last)
            for col_begin, col_end, kind, is_mirrored in self._runs(row_begin, row_end):
                if only_positive and kind is TileKind.NEGATIVE:
                    continue
                # a self problem's diagonal block stays whole: its transpose is itself
                is_block = self.is_self and not is_mirrored
                width = col_end if is_block else max(1, elements // (row_end - row_begin))
                for begin in range(col_begin, col_end, width):
                    end = min(begin + width, col_end)
                    yield Tile(row_begin, row_end, begin, end, kind, is_mirrored)
            row_begin = row_end

    def strips(self, measured: Tensor, holds_exponentials: bool) -> Iterator[TiledProblem]:
        """The same problem, of which only some rows are swept, as many as ``measured`` has.

        It holds their measures, [rows, num_cols]; or with ``holds_exponentials`` in the tiles of
        negatives e^z, which the backward needs and the second exponential would be.
        """
        assert not self.is_self  # whose tiles feed other rows, too
        # all have these, which are found once
        self.largest_measure, None if self.has_sets else self._ranks  # noqa: B018
        for begin in range(0, self.num_rows, measured.shape[0]):
            strip = copy.copy(self)
            strip.swept_rows = slice(begin, min(begin + measured.shape[0], self.num_rows))
            strip.measured, strip.writes_measures = measured, True
            strip.holds_exponentials = holds_exponentials
            # scratch tiles stay small beside the strip, and wide enough for its few rows
            strip.tile_elements = TILE_ELEMENTS // 8
            yield strip

    def _strip_end(self, begin: int) -> int:
        end = begin + max(TILE_ROWS, LEAST_ELEMENTS // max(1, self.num_cols))
        if end >= self.num_rows:
            return self.num_rows
        if self.is_self and self.is_sorted:
            # between two classes, if one ends here, so that no class crosses into the next strip
            first = int(torch.searchsorted(self.row_labels, self.row_labels[end]))
            if first > begin:
                return first
        return end

    def positive_run(self, row_begin: int, row_end: int) -> tuple[int, int, TileKind]:
        """The run of columns outside of which some rows have no positive; what it holds."""
        if self.first_sorted:
            return 0, self.num_cols, TileKind.MIXED
        return self._run_of_labels(row_begin, row_end)

    def _run_of_labels(self, row_begin: int, row_end: int) -> tuple[int, int, TileKind]:
        """The same, of the sorted columns."""
        if self.has_sets:
            return 0, self.num_cols, TileKind.MIXED
        own, labels = self.first_sorted, self.row_labels[[row_begin, row_end - 1]]
        among = self.col_labels[own:]
        lowest = own + int(torch.searchsorted(among, labels[0]))
        highest = own + int(torch.searchsorted(among, labels[1], right=True))
        kind = TileKind.POSITIVE if labels[0] == labels[1] else TileKind.MIXED
        return lowest, highest, kind

    def _runs(self, row_begin: int, row_end: int) -> Iterator[tuple[int, int, TileKind, bool]]:
        """(col_begin, col_end, kind, is_mirrored) of the runs of columns of one strip."""
        first_col = self.first_sorted
        if first_col:
            yield 0, first_col, TileKind.MIXED, False
        if first_col == self.num_cols:
            return
        lowest, highest, kind = self._run_of_labels(row_begin, row_end)
        if self.is_self:
            yield row_begin, row_end, kind, False  # the diagonal block: symmetric in itself
            first_col = row_end
        runs = (
            (first_col, max(first_col, lowest), TileKind.NEGATIVE),
            (max(first_col, lowest), max(first_col, highest), kind),
            (max(first_col, highest), self.num_cols, TileKind.NEGATIVE),
        )
        for begin, end, run_kind in runs:
            if begin < end:
                yield begin, end, run_kind, self.is_self

    @cached_property
    def num_positives(self) -> int:
        """Number of positive pairs, an excluded diagonal included."""
        first, last = self._classes
        return int((last - first).sum())

    def listed_positives(self, most: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows and columns of all positives of a sorted problem, about ``most`` at a time."""
        first, last = self._classes
        ends = (last - first).cumsum(0)
        row = done = 0
        while row < self.num_rows:
            # as many rows as their positives fit, but at least one
            next_row = int(torch.searchsorted(ends, done + most, right=True))
            next_row = min(self.num_rows, max(next_row, row + 1))
            count = (last - first)[row:next_row]
            rows = torch.arange(row, next_row, device=self.device).repeat_interleave(count)
            begins = (ends[row:next_row] - count - done - first[row:next_row])[rows - row]
            cols = torch.arange(rows.numel(), device=self.device) - begins
            if self.diagonals:  # of sorted columns the first alone
                counted = (rows != cols).nonzero().squeeze(1)
                rows, cols = rows[counted], cols[counted]
            yield rows, cols
            row, done = next_row, int(ends[next_row - 1])

    def listed_measures(self, rows: Tensor, cols: Tensor) -> Tensor:
        """x of listed pairs, [num_pairs]."""
        a, r = self.a[rows], self.r[cols]
        if self.measure == "dot":
            return a.mul_(r).sum(1)
        square = a[:, :-2].sub_(r[:, :-2]).square_().sum(1)
        return square.sqrt_() if self.measure == "euclidean" else square

    def buffer(self, index: int, shape: tuple[int, ...]) -> Tensor:
        """Scratch tile number ``index``, reused from tile to tile."""
        view = self._views.get((index, shape))
        if view is None:
            size = math.prod(shape)
            memory = self._memory.get(index)
            if memory is None or memory.numel() < size:
                memory = torch.empty(size, dtype=self.dtype, device=self.device)
                self._memory[index] = memory
                self._views = {key: v for key, v in self._views.items() if key[0] != index}
            view = self._views[index, shape] = memory[:size].view(shape)
        return view

    def measures(self, tile: Tile, scale: float = 1.0) -> Tensor:
        """scale x of the tile's pairs, in scratch tile 0."""
        x = self.buffer(0, tile.shape)
        if self.measured is None:
            return self._measure(tile, scale, x)
        kept = self._place(tile)
        if self.writes_measures:
            kept.copy_(self._measure(tile, 1.0, x))
            return x if scale == 1.0 else x.mul_(scale)
        return torch.mul(kept, scale, out=x)

    def negatives(self, tile: Tile, scale: float) -> Tensor:
        """exp(scale x) of the negatives of a strip that ``holds_exponentials``, in their place."""
        kept = self._place(tile)
        if self.writes_measures:
            self.fill_excluded(tile, self._measure(tile, scale, kept).exp_(), 0)
        return kept

    def _place(self, tile: Tile) -> Tensor:
        """Where the tile's measures are kept."""
        assert self.measured is not None
        first = self.swept_rows.start
        return self.measured[tile.row_begin - first : tile.row_end - first, tile.cols]

    def _measure(self, tile: Tile, scale: float, x: Tensor) -> Tensor:
        return measured_block(self.a[tile.rows], self.r[tile.cols], self.measure, x, scale)

    def positive_mask(self, tile: Tile) -> Tensor:
        """1 for the mixed tile's positives, 0 for its negatives and on the excluded diagonal.

        In floating point, by arithmetic: PyTorch's boolean operations on a CPU are several times
        slower than its vectorised floating-point ones.  In scratch tile 4.
        """
        if self._mask_tile == tile:
            return self.buffer(4, tile.shape)
        mask = self.buffer(4, tile.shape)
        if self.has_sets:
            mask.copy_(meet(self.row_labels[tile.rows], self.col_labels[tile.cols]))
        else:
            rows, cols = self._ranks[0][tile.rows], self._ranks[1][tile.cols]
            # differences within a tile are small: exact also for many classes
            base = rows[0] if rows.numel() else 0
            torch.sub((rows - base)[:, None].to(self.dtype), (cols - base).to(self.dtype), out=mask)
            mask.abs_().clamp_(max=1).neg_().add_(1)
        self._mask_tile = tile
        return self.fill_excluded(tile, mask, 0)

    def fill_excluded(self, tile: Tile, x: Tensor, value: float) -> Tensor:
        """Writes ``value`` where the excluded diagonals cross the tile."""
        for k in self.diagonals:
            begin = max(tile.row_begin + k, tile.col_begin)
            if begin < min(tile.row_end + k, tile.col_end):
                x.diagonal(tile.row_begin + k - tile.col_begin).fill_(value)
        return x

    def to_rows(self, values: Tensor, like: Tensor, neutral: float = 0.0) -> Tensor:
        """Row values [k, num_rows] in sorted order as [k, n] in the caller's order."""
        return scatter(values, self.row_order, like.shape[0], 1, neutral)

    def to_cols(self, values: Tensor, like: Tensor) -> Tensor:
        """Column values [k, num_cols] in sorted order as [k, m] in the caller's order."""
        return scatter(values, self.col_order, like.shape[0], 1, 0.0)

    def to_lines(self, values: Tensor, problem: PairProblem, neutral: float = 0.0) -> Tensor:
        """Values of the lines [k, num_lines] in the caller's order, [k, n] or [k, n + m]."""
        rows = self.to_rows(values[:, : self.num_rows], problem.anchors, neutral)
        if not self.both_sides or problem.references is None:
            return rows
        of_cols, size = values[:, self.num_rows :], problem.references.shape[0]
        return torch.cat([rows, scatter(of_cols, self.col_order, size, 1, neutral)], 1)

    def sorted_lines(self, values: Tensor) -> Tensor:
        """Values of the lines [..., n] or [..., n + m] in the caller's order, in sorted order."""
        if not self.both_sides:
            return self.sorted_rows(values)
        of_columns = values[..., self.first_column :]
        return torch.cat([self.sorted_rows(values), self.sorted_cols(of_columns)], -1)

    def sorted_rows(self, values: Tensor) -> Tensor:
        """Row values [..., n] in the caller's order as [..., num_rows] in sorted order."""
        return _select(values[..., : self.num_rows], self.row_order, -1)

    def sorted_cols(self, values: Tensor) -> Tensor:
        return _select(values[..., : self.num_cols], self.col_order, -1)


def operand(embeddings: Tensor, norms: Tensor, measure: str) -> Tensor:
    """Embeddings e as the matrix products of :func:`measured_block` use them.

    dot: e itself, [k, d].  The distances: (e, |e|^2, 1), [k, d + 2], so that one product with
    (-2 e', 1, |e'|^2) is the squared distance, and one with weights also sums the weights.
    """
    if measure == "dot":
        return embeddings
    squares = norms.square()[:, None]
    return torch.cat([embeddings, squares, torch.ones_like(squares)], 1)


def measured_block(a: Tensor, r: Tensor, measure: str, out: Tensor, scale: float = 1.0) -> Tensor:
    """scale x of every pair of two operands, in ``out``."""
    if measure == "dot":
        return torch.addmm(out, a, r.T, beta=0, alpha=scale, out=out)  # beta 0: not read
    d = a.shape[1] - 2
    left = torch.cat([a[:, :d] * -2, a[:, d + 1 :], a[:, d : d + 1]], 1)
    if measure == "squared_euclidean":
        torch.addmm(out, left, r.T, beta=0, alpha=scale, out=out)
        return out.clamp_(min=0) if scale > 0 else out.clamp_(max=0)
    torch.mm(left, r.T, out=out).clamp_(min=0).sqrt_()
    return out if scale == 1.0 else out.mul_(scale)


def _select(x: Tensor, order: Tensor | None, dim: int = 0) -> Tensor:
    return x if order is None else x.index_select(dim, order)


def scatter(x: Tensor, order: Tensor | None, size: int, dim: int, neutral: float) -> Tensor:
    """The inverse of :func:`_select`, padded with ``neutral`` to ``size``."""
    if order is None and x.shape[dim] == size:
        return x
    shape = list(x.shape)
    shape[dim] = size
    result = x.new_full(shape, neutral)
    if order is None:
        result.narrow(dim, 0, x.shape[dim]).copy_(x)
        return result
    return result.index_copy_(dim, order, x)
