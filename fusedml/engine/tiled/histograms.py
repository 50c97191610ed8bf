"""Soft histograms of the measures of each row's positives and negatives, or of all together.

A measure x between the edges lowest + c delta and lowest + (c + 1) delta falls to both, to the
nearer one more: a pulse max(0, 1 - |x - edge| / delta) for each edge.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fusedml.engine.pairs import PairProblem
from fusedml.engine.tiled.gradient import GradientAccumulator
from fusedml.engine.tiled.plan import Tile, TiledProblem, TileKind

# up to so many cells in a tile each pulse is evaluated; beyond, the cell of each pair is found
MOST_CELLS = 16
# what a share of 1 is as a whole number; a power of two, of which 2^22 pairs of a tile fit in int64
_ONE = float(1 << 40)


def pair_histograms(
    anchors: Tensor,
    labels: Tensor,
    measure: str,
    lowest: float,
    delta: float,
    num_edges: int,
    per_row: bool,
) -> Tensor:
    """[2, n, num_edges] of the positives and of the negatives; [2, 1, num_edges] of all rows.

    labels: pairs of two negative ones are left out, whatever they are.
    """
    grid = _Grid(anchors, labels, measure, lowest, delta, num_edges, per_row)
    tiled = grid.tiled
    shape = 2, tiled.num_rows if per_row else 1, num_edges
    histograms = torch.zeros(shape, dtype=tiled.sum_dtype, device=tiled.device)
    for tile in tiled.tiles():
        z, (first, last) = grid.positions(tile)
        # of all rows together a mirrored tile stands for both of its halves
        times = 1 + (tile.is_mirrored and not per_row)
        if last - first < MOST_CELLS:
            edges = range(first, last + 2)
            for kind in grid.kinds(tile):
                counted = grid.counted(tile, kind)
                grid.add_pulses(histograms[kind], z, counted, tile, edges, times)
            continue
        cells, shares = grid.cells(z)
        for kind in grid.kinds(tile):
            counted = grid.counted(tile, kind)
            for where, dim in grid.sides(tile):
                histograms[kind, where] += times * grid.sums(cells, shares, counted, dim)
    histograms = histograms.to(tiled.dtype)
    if per_row:
        by_row = histograms.permute(0, 2, 1).reshape(2 * num_edges, -1) + tiled.poison()
        by_row = tiled.to_rows(by_row, anchors)
        return by_row.view(2, num_edges, -1).permute(0, 2, 1).contiguous()
    return histograms + tiled.poison().sum()


def pair_histograms_gradient(
    anchors: Tensor,
    labels: Tensor,
    measure: str,
    lowest: float,
    delta: float,
    num_edges: int,
    per_row: bool,
    histograms_grad: Tensor,
    needs: list[bool],
) -> Tensor:
    """The gradient of the anchors."""
    grid = _Grid(anchors, labels, measure, lowest, delta, num_edges, per_row)
    tiled = grid.tiled
    # the slope within a cell
    slopes = histograms_grad.to(tiled.dtype).diff(dim=2) / delta
    if per_row and tiled.row_order is not None:
        slopes = slopes.index_select(1, tiled.row_order)
    gradients = GradientAccumulator(tiled, [needs[0], False, False])
    for tile in tiled.tiles():
        z, (first, last) = grid.positions(tile)
        weight = tiled.buffer(6, tile.shape).zero_()
        if last - first < MOST_CELLS:
            for kind in grid.kinds(tile):
                counted = grid.counted(tile, kind)
                grid.weigh_cells(weight, z, slopes[kind], counted, tile, range(first, last + 1))
        else:
            cells, _ = grid.cells(z)
            for kind in grid.kinds(tile):
                counted = grid.counted(tile, kind)
                for where, dim in grid.sides(tile):
                    weight.addcmul_(grid.gathered(cells, slopes[kind, where], dim), counted)
        if not tile.is_mirrored:
            weight = weight + weight.T
        elif not per_row:
            weight *= 2
        gradients.add(tile, weight, tiled.measures(tile))
    problem = PairProblem(anchors, None, labels, None, measure)
    return gradients.results(problem, anchors.new_empty(0))[0]


class _Grid:
    """A problem of embeddings with themselves, and the grid of a histogram."""

    def __init__(
        self,
        anchors: Tensor,
        labels: Tensor,
        measure: str,
        lowest: float,
        delta: float,
        num_edges: int,
        per_row: bool,
    ) -> None:
        self.tiled = TiledProblem(PairProblem(anchors, None, labels, None, measure))
        self.lowest, self.delta, self.num_edges = lowest, delta, num_edges
        self.per_row = per_row

    def positions(self, tile: Tile) -> tuple[Tensor, tuple[int, int]]:
        """Where each measure lies, in widths from the lowest edge; the first and the last cell."""
        z = self.tiled.measures(tile).sub_(self.lowest).div_(self.delta)
        z = torch.nan_to_num_(z, 0, 0, 0)  # what is not finite makes all NaN in the end
        least, most = z.aminmax()
        first, last = (
            min(max(int(bound.item()), 0), self.num_edges - 2) for bound in (least, most)
        )
        return z, (first, last)

    def cells(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """In which cell each position lies, and the share of its upper edge."""
        cells = torch.floor(z).clamp_(0, self.num_edges - 2)
        return cells.long(), z - cells

    def kinds(self, tile: Tile) -> tuple[int, ...]:
        """Which kinds of pair the tile may hold: 0 for positives, 1 for negatives."""
        if tile.kind is TileKind.MIXED:
            return 0, 1
        return (0,) if tile.kind is TileKind.POSITIVE else (1,)

    def add_pulses(
        self,
        histograms: Tensor,
        z: Tensor,
        counted: Tensor,
        tile: Tile,
        edges: range,
        times: int,
    ) -> None:
        """Adds a tile's pulses at some edges to the histograms of its lines, of one kind."""
        for k in edges:
            pulse = torch.sub(z, k, out=self.tiled.buffer(1, tile.shape)).abs_()
            pulse.neg_().add_(1).relu_().mul_(counted)
            for where, dim in self.sides(tile):
                sums = pulse.sum() if dim is None else pulse.sum(dim)
                histograms[where, k] += times * sums

    def weigh_cells(
        self,
        weight: Tensor,
        z: Tensor,
        slopes: Tensor,
        counted: Tensor,
        tile: Tile,
        cells: range,
    ) -> None:
        """Adds the slopes of a tile's lines in some cells, [lines, num_edges - 1], of one kind."""
        shape = tile.shape
        position = torch.floor(z).clamp_(0, self.num_edges - 2)
        for c in cells:
            inside = torch.eq(position, c, out=self.tiled.buffer(1, shape)).mul_(counted)
            for where, dim in self.sides(tile):
                slope = slopes[where, c]
                weight.addcmul_(inside, slope if dim is None else slope.unsqueeze(dim))

    def counted(self, tile: Tile, kind: int) -> Tensor:
        """1 for the tile's positive (kind 0) or negative (1) pairs, 0 elsewhere."""
        tiled = self.tiled
        if tile.kind is TileKind.NEGATIVE:
            return torch.ones((1, 1), dtype=tiled.dtype, device=tiled.device).expand(tile.shape)
        counted = torch.ones(tile.shape, dtype=tiled.dtype, device=tiled.device)
        if tile.kind is TileKind.MIXED:
            mask = tiled.positive_mask(tile)
            counted = mask.clone() if kind == 0 else counted.sub_(mask)
        tiled.fill_excluded(tile, counted, 0)
        if kind == 0:
            counted.mul_((tiled.row_labels[tile.rows] >= 0)[:, None])
        return counted

    def sides(self, tile: Tile) -> tuple[tuple[slice, int | None], ...]:
        """The lines that the tile feeds, and along which dimension; None: one line."""
        return self.tiled.sides(tile) if self.per_row else ((slice(0, 1), None),)

    def _index(self, cells: Tensor, size: int, dim: int | None) -> tuple[Tensor, int]:
        """The place of each pair's cell among those of its line, and the number of lines."""
        if dim is None:
            return cells, 1
        lines = cells.shape[1 - dim]
        return cells + (torch.arange(lines, device=cells.device) * size).unsqueeze(dim), lines

    def sums(self, cells: Tensor, shares: Tensor, counted: Tensor, dim: int | None) -> Tensor:
        """The histograms of a tile's lines, [lines, num_edges]."""
        index, lines = self._index(cells, self.num_edges, dim)
        index, size = index.flatten(), lines * self.num_edges
        # whole numbers are added exactly: the same bits in any order, and on every run
        upper = (shares * counted).mul_(_ONE).to(torch.int64).flatten()
        lower = (counted * _ONE).to(torch.int64).flatten().sub_(upper)
        total = torch.zeros(size, dtype=torch.int64, device=index.device)
        total.index_add_(0, index, lower).index_add_(0, index + 1, upper)
        return total.view(lines, self.num_edges).to(self.tiled.sum_dtype).div_(_ONE)

    def gathered(self, cells: Tensor, slopes: Tensor, dim: int | None) -> Tensor:
        """The slope of each pair's cell.  slopes: [lines, num_edges - 1]."""
        index, _ = self._index(cells, self.num_edges - 1, dim)
        return torch.take(slopes, index)
