"""Losses of single positive pairs: a second sweep over the tiles that can hold positives."""

from __future__ import annotations

import torch
from torch import Tensor

from fusedml.heads import PAIR_HEADS, PairLoss
from fusedml.tiled.gradient import GradientAccumulator
from fusedml.tiled.plan import Tile, TiledProblem


class _PositivePairs:
    """The positives of a tile as lists, and v(z_ip, lse_i, lse_p) over them."""

    def __init__(
        self, problem: TiledProblem, logit: Tensor, anchor_lse: Tensor, reference_lse: Tensor | None
    ) -> None:
        self.problem = problem
        self.scale, self.shift = logit.tolist()[:2]
        self.anchor_lse = problem.sorted_rows(anchor_lse)
        self.reference_lse = (
            self.anchor_lse if reference_lse is None else problem.sorted_cols(reference_lse)
        )

    def indices(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """Rows and columns, within the tile, of its positives."""
        mask = self.problem.positive_mask(tile)
        if mask is None:
            mask = torch.ones(tile.shape, dtype=torch.bool, device=self.problem.device)
        rows, cols = self.problem.fill_excluded(tile, mask, False).nonzero().unbind(1)
        return rows, cols

    def directions(self, tile: Tile, rows: Tensor, cols: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(anchor, reference) of the pairs; a mirrored tile's also the other way round."""
        rows, cols = rows + tile.row_begin, cols + tile.col_begin
        return [(rows, cols), (cols, rows)][: 1 + tile.is_mirrored]

    def losses(self, x: Tensor, anchor: Tensor, reference: Tensor, head: str) -> PairLoss:
        return PAIR_HEADS[head](
            x * self.scale + self.shift, self.anchor_lse[anchor], self.reference_lse[reference]
        )


def positive_pair_losses(
    anchors: Tensor,
    references: Tensor | None,
    anchor_labels: Tensor,
    reference_labels: Tensor | None,
    logit: Tensor,
    measure: str,
    exclude_diagonal: bool,
    anchor_lse: Tensor,
    reference_lse: Tensor | None,
    head: str,
    head_parameters: Tensor,
) -> Tensor:
    """[n]: sum over p in P(i) of v(z_ip, lse_i, lse_p)."""
    problem = TiledProblem(
        anchors, references, anchor_labels, reference_labels, measure, exclude_diagonal
    )
    pairs = _PositivePairs(problem, logit, anchor_lse, reference_lse)
    sums = torch.zeros(problem.num_rows, dtype=torch.float64, device=problem.device)
    for tile in problem.tiles(only_positive=True):
        rows, cols = pairs.indices(tile)
        x = problem.measures(tile)[rows, cols]
        for anchor, reference in pairs.directions(tile, rows, cols):
            sums.index_add_(0, anchor, pairs.losses(x, anchor, reference, head).value.double())
    sums += problem.poison()
    return problem.to_rows(sums.to(problem.dtype)[None], anchors)[0]


def positive_pair_gradient(
    anchors: Tensor,
    references: Tensor | None,
    anchor_labels: Tensor,
    reference_labels: Tensor | None,
    logit: Tensor,
    measure: str,
    exclude_diagonal: bool,
    anchor_lse: Tensor,
    reference_lse: Tensor | None,
    head: str,
    head_parameters: Tensor,
    row_grad: Tensor,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of anchors, references, logit [4], anchor_lse [n] and reference_lse [m]."""
    problem = TiledProblem(
        anchors, references, anchor_labels, reference_labels, measure, exclude_diagonal
    )
    pairs = _PositivePairs(problem, logit, anchor_lse, reference_lse)
    upstream = problem.sorted_rows(row_grad.to(problem.dtype))
    gradients = GradientAccumulator(problem, needs)
    anchor_lse_grad = problem.a.new_zeros(problem.num_rows)
    reference_lse_grad = (
        anchor_lse_grad if problem.is_self else problem.a.new_zeros(problem.num_cols)
    )
    for tile in problem.tiles(only_positive=True):
        rows, cols = pairs.indices(tile)
        measures = problem.measures(tile)
        x = measures[rows, cols]
        of_pairs = torch.zeros_like(x)
        for anchor, reference in pairs.directions(tile, rows, cols):
            loss, grad = pairs.losses(x, anchor, reference, head), upstream[anchor]
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
    return (
        *gradients.results(anchors, references, logit),
        problem.to_rows(anchor_lse_grad[None], anchors)[0],
        anchors.new_empty(0)
        if references is None or reference_lse is None
        else problem.to_cols(reference_lse_grad[None], references)[0],
    )
