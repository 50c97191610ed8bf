"""Reductions on tiles: every tile, as the rows and the columns it feeds see it; then backward."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from fusedml.engine.reductions.entries import MatrixSide, Side
from fusedml.engine.reductions.reduced import Reduction, pair_weights
from fusedml.engine.tiled.gradient import GradientAccumulator, sides_of_weights
from fusedml.engine.tiled.plan import Tile, TiledProblem, TileKind
from fusedml.engine.tiled.statistics import kinds_of

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

    def only_(self, values: Tensor, is_positive: bool) -> Tensor:
        problem, tile = self.problem, self.tile
        if tile.kind is not TileKind.MIXED:
            return problem.fill_excluded(tile, values, 0)
        mask = problem.positive_mask(tile)
        if is_positive:
            return values.mul_(mask)
        return problem.fill_excluded(tile, values.addcmul_(values, mask, value=-1), 0)

    def scratch(self, number: int) -> Tensor:
        return self.problem.buffer(_FIRST_SCRATCH + number, self.tile.shape)


def reduce_tiles(problem: TiledProblem, reduction: Reduction) -> None:
    """Forward: all pairs, in the order of the tiles."""
    for tile in problem.tiles():
        reduction.add(TileEntries(problem, tile, problem.sides(tile)))


def add_weights(gradients: GradientAccumulator, reduction: Reduction) -> None:
    """Backward: what the weights of all pairs mean for embeddings and logit."""
    problem = gradients.problem
    for tile in problem.tiles():
        entries = TileEntries(problem, tile, sides_of_weights(problem, tile))

        def add_logit(sums: Tensor, is_positive: bool, tile: Tile = tile) -> None:
            gradients.add_logit(tile, sums, is_positive)

        weight = pair_weights(reduction, entries, add_logit if gradients.needs_logit else None)
        if weight is not None:
            gradients.add(tile, weight, entries.x)
