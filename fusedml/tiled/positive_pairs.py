"""Losses of single positive pairs: a second sweep over the tiles that can hold positives."""

from __future__ import annotations

import torch
from torch import Tensor

from fusedml.heads import PAIR_HEADS, PairLoss
from fusedml.tiled.gradient import GradientAccumulator
from fusedml.tiled.plan import Tile, TiledProblem


class _PositivePairs:
    """v(z_ip, lse_i, lse_p) over the positives of a tile, seen from its rows or its columns."""

    def __init__(
        self, problem: TiledProblem, logit: Tensor, anchor_lse: Tensor, reference_lse: Tensor | None
    ) -> None:
        self.problem = problem
        self.scale, self.shift = logit.tolist()[:2]
        self.anchor_lse = problem.sorted_rows(anchor_lse)
        self.reference_lse = (
            self.anchor_lse if reference_lse is None else problem.sorted_cols(reference_lse)
        )

    def losses(self, tile: Tile, x: Tensor, head: str, from_rows: bool) -> tuple[PairLoss, Tensor]:
        """The head's outputs on the whole tile, and the mask of the pairs they hold for."""
        mask = self.problem.positive_mask(tile)
        if mask is None:
            mask = torch.ones(tile.shape, dtype=torch.bool, device=x.device)
        self.problem.fill_excluded(tile, mask, False)
        logits = x * self.scale + self.shift
        anchor_dim = 1 if from_rows else 0
        anchor, reference = (tile.rows, tile.cols) if from_rows else (tile.cols, tile.rows)
        loss = PAIR_HEADS[head](
            logits,
            self.anchor_lse[anchor].unsqueeze(anchor_dim),
            self.reference_lse[reference].unsqueeze(1 - anchor_dim),
        )
        return loss, mask


def _masked_sum(values: Tensor, mask: Tensor, dim: int) -> Tensor:
    # not values * mask: a pair outside the mask may hold inf or NaN
    return torch.where(mask, values, 0).sum(dim)


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
        x = problem.measures(tile)
        for from_rows in (True, False)[: 1 + tile.is_mirrored]:
            loss, mask = pairs.losses(tile, x, head, from_rows)
            where, dim = (tile.rows, 1) if from_rows else (tile.cols, 0)
            sums[where] += _masked_sum(loss.value, mask, dim)
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
        x = problem.measures(tile)
        weight = torch.zeros_like(x)
        for from_rows in (True, False)[: 2 if problem.is_self else 1]:
            loss, mask = pairs.losses(tile, x, head, from_rows)
            dim = 1 if from_rows else 0
            anchor, reference = (tile.rows, tile.cols) if from_rows else (tile.cols, tile.rows)
            grad = upstream[anchor].unsqueeze(dim)
            weight += torch.where(mask, grad * loss.d_logit, 0)
            # the diagonal block of a self problem holds both directions as elements of its own
            if from_rows or tile.is_mirrored:
                anchor_lse_grad[anchor] += _masked_sum(grad * loss.d_anchor_lse, mask, dim)
                reference_lse_grad[reference] += _masked_sum(
                    grad * loss.d_reference_lse, mask, 1 - dim
                )
        gradients.add_logit(tile, weight, x, is_positive=True)
        gradients.add(tile, weight.mul_(pairs.scale), x)
    return (
        *gradients.results(anchors, references, logit),
        problem.to_rows(anchor_lse_grad[None], anchors)[0],
        anchors.new_empty(0)
        if references is None or reference_lse is None
        else problem.to_cols(reference_lse_grad[None], references)[0],
    )
