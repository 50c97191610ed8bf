"""Reductions on tiles: every tile, as the rows and the columns it feeds see it; then backward."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property, partial
from typing import TYPE_CHECKING

from torch import Tensor

from fusedml.engine.reductions.entries import MatrixSide, Side
from fusedml.engine.reductions.reduced import Reduction, pair_weights
from fusedml.engine.tiled.plan import Tile, TiledProblem, TileKind, kinds_of

if TYPE_CHECKING:
    from fusedml.engine.tiled.gradient import GradientAccumulator

# the scratch tiles of ``TiledProblem`` from this number on are the reductions'
_FIRST_SCRATCH = 8


class TileEntries:
    """A tile as ``engine.reductions.entries.Entries``; measured when its measures are asked for."""

    def __init__(
        self, problem: TiledProblem, tile: Tile, sides: tuple[tuple[slice, int], ...]
    ) -> None:
        self.problem, self.tile = problem, tile
        self.sides: tuple[Side, ...] = tuple(MatrixSide(*side) for side in sides)

    @cached_property
    def x(self) -> Tensor:
        return self.problem.measures(self.tile)

    def kinds(self) -> tuple[bool, ...]:
        return kinds_of(self.tile)

    def only_(self, values: Tensor, is_positive: bool, otherwise: float = 0.0) -> Tensor:
        problem, tile = self.problem, self.tile
        if tile.kind is not TileKind.MIXED:
            return problem.fill_excluded(tile, values, otherwise)
        mask = problem.positive_mask(tile)
        if otherwise:
            values.masked_fill_(mask == (0 if is_positive else 1), otherwise)
            return problem.fill_excluded(tile, values, otherwise)
        if is_positive:
            return values.mul_(mask)
        return problem.fill_excluded(tile, values.addcmul_(values, mask, value=-1), 0)

    def scratch(self, number: int) -> Tensor:
        return self.problem.buffer(_FIRST_SCRATCH + number, self.tile.shape)


def reduce_tiles(
    problem: TiledProblem, reduction: Reduction, tiles: Iterable[Tile] | None = None
) -> None:
    """Forward: all pairs, or those of some tiles, in the order of the tiles."""
    for tile in problem.tiles() if tiles is None else tiles:
        reduction.add(TileEntries(problem, tile, problem.sides(tile)))


def sides_of_weights(problem: TiledProblem, tile: Tile) -> tuple[tuple[slice, int], ...]:
    """The lines whose weights a tile's pairs hold: in a self problem always both, w_ij + w_ji."""
    if problem.is_self:
        return (tile.rows, 1), (tile.cols, 0)
    return problem.sides(tile)


def add_weights(gradients: GradientAccumulator, reduction: Reduction, tile: Tile) -> None:
    """Backward: what the weights of a tile's pairs mean for embeddings and logit."""
    problem = gradients.problem
    entries = TileEntries(problem, tile, sides_of_weights(problem, tile))
    add_logit = partial(gradients.add_logit, tile) if gradients.needs_logit else None
    weight = pair_weights(reduction, entries, add_logit)
    if weight is not None:
        gradients.add(tile, weight, entries.x)
