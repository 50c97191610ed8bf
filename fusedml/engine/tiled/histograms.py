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
        cells, shares = grid.cells(tile)
        for kind in (0, 1):
            counted = grid.counted(tile, kind)
            if counted is not None:
                for where, dim in grid.sides(tile):
                    histograms[kind, where] += grid.sums(cells, shares, counted, dim)
                if not per_row and tile.is_mirrored:
                    histograms[kind, 0] += grid.sums(cells, shares, counted, None)[0]
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
        cells, _ = grid.cells(tile)
        weight = torch.zeros(tile.shape, dtype=tiled.dtype, device=tiled.device)
        for kind in (0, 1):
            counted = grid.counted(tile, kind)
            if counted is not None:
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

    def cells(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """In which cell each measure lies, and the share of its upper edge."""
        z = self.tiled.measures(tile).sub_(self.lowest).div_(self.delta)
        z = torch.nan_to_num_(z, 0, 0, 0)  # what is not finite makes all NaN in the end
        cells = torch.floor(z).clamp_(0, self.num_edges - 2)
        return cells.long(), z.sub_(cells)

    def counted(self, tile: Tile, kind: int) -> Tensor | None:
        """1 for the tile's positive (kind 0) or negative (1) pairs; None where there is none."""
        tiled = self.tiled
        is_other = TileKind.NEGATIVE if kind == 0 else TileKind.POSITIVE
        if tile.kind is is_other:
            return None
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
        wide = self.tiled.sum_dtype
        upper = (shares * counted).to(wide).flatten()
        lower = counted.to(wide).flatten() - upper
        # on a CPU one number after the other: the same bits on every run
        total = torch.bincount(index, lower, minlength=size)
        total += torch.bincount(index + 1, upper, minlength=size)
        return total.view(lines, self.num_edges)

    def gathered(self, cells: Tensor, slopes: Tensor, dim: int | None) -> Tensor:
        """The slope of each pair's cell.  slopes: [lines, num_edges - 1]."""
        index, _ = self._index(cells, self.num_edges - 1, dim)
        return torch.take(slopes, index)
