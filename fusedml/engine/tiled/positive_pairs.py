"""Losses with one term per positive pair: the statistics sweep, then one over the positives.

    v(z_ip, lse_i, lse_p),   lse the negative log-sum-exp of the pair's two rows

The second sweep visits only the tiles that can hold positives.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fusedml.engine.pairs import PairProblem
from fusedml.engine.reductions.entries import add_at
from fusedml.engine.tiled.gradient import GradientAccumulator, add_statistics_gradient
from fusedml.engine.tiled.plan import Tile, TiledProblem, TileKind
from fusedml.engine.tiled.statistics import LogitScales, sweep_statistics
from fusedml.heads import PAIR_FORMS, PairLoss

# Up to this many positives per row on average they are listed straight from the sorted labels;
# more of them are picked from tiles, where a matrix product computes their measures.
_LISTED_PER_ROW = 16
# Elements of embeddings gathered for a list at a time: 4 MB for each side in float32.
_LIST_ELEMENTS = 1 << 20


class _Positives(NamedTuple):
    """Some positive pairs: where they are, in sorted order, and their measures."""

    rows: Tensor
    cols: Tensor
    x: Tensor
    tile: Tile | None  # the tile they are the positives of, or None for a list of its own

    def directions(self) -> list[tuple[Tensor, Tensor]]:
        """(anchor, reference) of each pair; a mirrored tile's pairs also the other way round."""
        is_mirrored = self.tile is not None and self.tile.is_mirrored
        return [(self.rows, self.cols), (self.cols, self.rows)][: 1 + is_mirrored]


def _positives(problem: TiledProblem) -> Iterator[_Positives]:
    """All positives of a problem, a bounded number at a time."""
    if problem.is_sorted and problem.num_positives <= _LISTED_PER_ROW * problem.num_rows:
        width = problem.a.shape[1]
        for rows, cols in problem.listed_positives(max(1, _LIST_ELEMENTS // max(1, width))):
            yield _Positives(rows, cols, problem.listed_measures(rows, cols), None)
        return
    for tile in problem.tiles(only_positive=True):
        if tile.kind is TileKind.MIXED:
            mask = problem.positive_mask(tile)
        else:
            mask = problem.fill_excluded(tile, problem.buffer(3, tile.shape).fill_(1), 0)
        place = mask.view(-1).nonzero().squeeze(1)
        rows = place // tile.shape[1]
        cols = place - rows * tile.shape[1]
        x = problem.measures(tile).view(-1)[place]
        yield _Positives(rows + tile.row_begin, cols + tile.col_begin, x, tile)


class _PairLosses:
    """The head on positive pairs, with the log-sum-exps of their rows."""

    def __init__(
        self,
        problem: TiledProblem,
        scales: LogitScales,
        head: str,
        anchor_lse: Tensor,
        reference_lse: Tensor | None,
    ) -> None:
        self.scales = scales
        self.head = PAIR_FORMS[head]
        self.anchor_lse = anchor_lse
        if reference_lse is not None:
            self.reference_lse = problem.sorted_cols(reference_lse)
        elif problem.is_self:
            self.reference_lse = anchor_lse
        else:  # for the heads that do not ask for it
            self.reference_lse = anchor_lse.new_zeros(problem.num_cols)

    def __call__(self, x: Tensor, anchor: Tensor, reference: Tensor) -> PairLoss:
        z = self.scales.logits(x, True)
        return self.head(z, self.anchor_lse[anchor], self.reference_lse[reference])


def positive_pair_losses(
    problem: PairProblem,
    logit: Tensor,
    reference_lse: Tensor | None,
    head: str,
    head_parameters: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses [n], the sum of v over P(i) for each row; statistics [3, n] and counts [2, n]."""
    tiled = TiledProblem(problem)
    scales = LogitScales(logit, problem.curve)
    statistics, counts = sweep_statistics(tiled, scales)
    loss_of = _PairLosses(tiled, scales, head, statistics[1], reference_lse)
    sums = torch.zeros(tiled.num_rows, dtype=tiled.sum_dtype, device=tiled.device)
    for pairs in _positives(tiled):
        for anchor, reference in pairs.directions():
            add_at(sums, anchor, loss_of(pairs.x, anchor, reference).value.to(sums.dtype))
    # a non-finite embedding concerns its row also where it has no positive
    sums += statistics[2] * 0
    return (
        tiled.to_rows(sums.to(tiled.dtype)[None], problem.anchors)[0],
        tiled.to_rows(statistics, problem.anchors),
        tiled.to_rows(counts, problem.anchors),
    )


def positive_pair_gradient(
    problem: PairProblem,
    logit: Tensor,
    reference_lse: Tensor | None,
    head: str,
    head_parameters: Tensor,
    statistics: Tensor,
    losses_grad: Tensor,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of anchors, references, logit [4] and reference_lse [m]."""
    tiled = TiledProblem(problem)
    scales = LogitScales(logit, problem.curve)
    statistics = tiled.sorted_rows(statistics)
    loss_of = _PairLosses(tiled, scales, head, statistics[1], reference_lse)
    upstream = tiled.sorted_rows(losses_grad.to(tiled.dtype))
    gradients = GradientAccumulator(tiled, needs)
    statistics_grad = torch.zeros_like(statistics)
    anchor_lse_grad = statistics_grad[1]
    reference_lse_grad = anchor_lse_grad
    if not tiled.is_self:
        reference_lse_grad = anchor_lse_grad.new_zeros(tiled.num_cols)
    for pairs in _positives(tiled):
        weight = torch.zeros_like(pairs.x)
        for anchor, reference in pairs.directions():
            loss, grad = loss_of(pairs.x, anchor, reference), upstream[anchor]
            weight += grad * loss.d_logit
            add_at(anchor_lse_grad, anchor, grad * loss.d_anchor_lse)
            if loss.d_reference_lse is not None:
                add_at(reference_lse_grad, reference, grad * loss.d_reference_lse)
        if needs[2]:
            gradients.logit[0] += scales.number_gradient(weight, pairs.x, True)
        weight *= scales.slope(pairs.x, True)
        if pairs.tile is None:
            gradients.add_list(pairs.rows, pairs.cols, weight, pairs.x)
            continue
        tile = pairs.tile
        spread = tiled.buffer(1, tile.shape).zero_()
        spread[pairs.rows - tile.row_begin, pairs.cols - tile.col_begin] = weight
        if tiled.is_self and not tile.is_mirrored:
            # the diagonal block lists both directions of a pair as pairs of their own
            spread = spread + spread.T
        gradients.add(tile, spread, tiled.measures(tile))
    add_statistics_gradient(gradients, scales, statistics, statistics_grad, None)
    of_reference_lse = problem.anchors.new_empty(0)
    if problem.references is not None and reference_lse is not None:
        of_reference_lse = tiled.to_cols(reference_lse_grad[None], problem.references)[0]
    return (*gradients.results(problem, logit), of_reference_lse)
