"""Losses with one term per positive pair: the statistics sweep, then one over the positives.

    v(z_ip, lse_i, lse_p),   lse the negative log-sum-exp of the pair's two rows

The second sweep visits only the tiles that can hold positives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fusedml.heads import PAIR_HEADS, PairLoss
from fusedml.tiled.gradient import GradientAccumulator, add_statistics_gradient
from fusedml.tiled.plan import Tile, TiledProblem, TileKind
from fusedml.tiled.statistics import LogitScales, sweep_statistics


class _PositivePairs:
    """The positives of a tile as lists, and v over them."""

    def __init__(
        self,
        problem: TiledProblem,
        scales: LogitScales,
        head: str,
        anchor_lse: Tensor,
        reference_lse: Tensor | None,
    ) -> None:
        self.problem = problem
        self.scale, self.shift = scales.of(True)
        self.head = PAIR_HEADS[head]
        self.anchor_lse = anchor_lse
        if reference_lse is not None:
            self.reference_lse = problem.sorted_cols(reference_lse)
        elif problem.is_self:
            self.reference_lse = anchor_lse
        else:  # for the heads that do not ask for it
            self.reference_lse = anchor_lse.new_zeros(problem.num_cols)

    def indices(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """Rows and columns, within the tile, of its positives."""
        if tile.kind is TileKind.MIXED:
            mask = self.problem.positive_mask(tile)
        else:
            mask = self.problem.buffer(3, tile.shape).fill_(1)
            self.problem.fill_excluded(tile, mask, 0)
        place = mask.view(-1).nonzero().squeeze(1)
        rows = place // tile.shape[1]
        return rows, place - rows * tile.shape[1]

    def directions(self, tile: Tile, rows: Tensor, cols: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(anchor, reference) of the pairs; a mirrored tile's also the other way round."""
        rows, cols = rows + tile.row_begin, cols + tile.col_begin
        return [(rows, cols), (cols, rows)][: 1 + tile.is_mirrored]

    def losses(self, x: Tensor, anchor: Tensor, reference: Tensor) -> PairLoss:
        z = x * self.scale + self.shift
        return self.head(z, self.anchor_lse[anchor], self.reference_lse[reference])


def positive_pair_losses(
    anchors: Tensor,
    references: Tensor | None,
    anchor_labels: Tensor,
    reference_labels: Tensor | None,
    logit: Tensor,
    measure: str,
    exclude_diagonal: bool,
    reference_lse: Tensor | None,
    head: str,
    head_parameters: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses [n], the sum of v over P(i) for each row; statistics [3, n] and counts [2, n]."""
    problem = TiledProblem(
        anchors, references, anchor_labels, reference_labels, measure, exclude_diagonal
    )
    scales = LogitScales(logit, problem)
    statistics, counts = sweep_statistics(problem, scales)
    pairs = _PositivePairs(problem, scales, head, statistics[1], reference_lse)
    sums = torch.zeros(problem.num_rows, dtype=torch.float64, device=problem.device)
    for tile in problem.tiles(only_positive=True):
        rows, cols = pairs.indices(tile)
        x = problem.measures(tile)[rows, cols]
        for anchor, reference in pairs.directions(tile, rows, cols):
            sums.index_add_(0, anchor, pairs.losses(x, anchor, reference).value.double())
    # a non-finite embedding concerns its row also where it has no positive
    sums += statistics[2].double() * 0
    return (
        problem.to_rows(sums.to(problem.dtype)[None], anchors)[0],
        problem.to_rows(statistics, anchors),
        problem.to_rows(counts, anchors),
    )


def positive_pair_gradient(
    anchors: Tensor,
    references: Tensor | None,
    anchor_labels: Tensor,
    reference_labels: Tensor | None,
    logit: Tensor,
    measure: str,
    exclude_diagonal: bool,
    reference_lse: Tensor | None,
    head: str,
    head_parameters: Tensor,
    statistics: Tensor,
    losses_grad: Tensor,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of anchors, references, logit [4] and reference_lse [m]."""
    problem = TiledProblem(
        anchors, references, anchor_labels, reference_labels, measure, exclude_diagonal
    )
    scales = LogitScales(logit, problem)
    statistics = problem.sorted_rows(statistics)
    pairs = _PositivePairs(problem, scales, head, statistics[1], reference_lse)
    upstream = problem.sorted_rows(losses_grad.to(problem.dtype))
    gradients = GradientAccumulator(problem, needs)
    statistics_grad = torch.zeros_like(statistics)
    anchor_lse_grad = statistics_grad[1]
    reference_lse_grad = anchor_lse_grad
    if not problem.is_self:
        reference_lse_grad = anchor_lse_grad.new_zeros(problem.num_cols)
    for tile in problem.tiles(only_positive=True):
        rows, cols = pairs.indices(tile)
        measures = problem.measures(tile)
        x = measures[rows, cols]
        of_pairs = torch.zeros_like(x)
        for anchor, reference in pairs.directions(tile, rows, cols):
            loss, grad = pairs.losses(x, anchor, reference), upstream[anchor]
            of_pairs += grad * loss.d_logit
            anchor_lse_grad.index_add_(0, anchor, grad * loss.d_anchor_lse)
            reference_lse_grad.index_add_(0, reference, grad * loss.d_reference_lse)
        weight = torch.zeros_like(measures)
        weight[rows, cols] = of_pairs
        if problem.is_self and not tile.is_mirrored:
            # the diagonal block lists both directions of a pair as pairs of their own
            weight = weight + weight.T
        gradients.add_logit(tile, weight, measures, is_positive=True)
        gradients.add(tile, weight.mul_(pairs.scale), measures)
    add_statistics_gradient(gradients, scales, statistics, statistics_grad, None)
    reference_lse_grad = (
        anchors.new_empty(0)
        if references is None or reference_lse is None
        else problem.to_cols(reference_lse_grad[None], references)[0]
    )
    return (*gradients.results(anchors, references, logit), reference_lse_grad)
