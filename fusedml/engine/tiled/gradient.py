"""Backward: every tile again, its weights dL/dx, and two products with the embeddings."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fusedml.engine.pairs import PairProblem
from fusedml.engine.reductions.entries import add_at
from fusedml.engine.tiled.plan import Tile, TiledProblem, TileKind, kinds_of, scatter
from fusedml.engine.tiled.reduced import add_weights, sides_of_weights
from fusedml.engine.tiled.statistics import (
    LogitScales,
    bounded_kinds,
    exponentials,
    kept_by,
    log_sums,
    mixed_mask,
    split_kinds,
)


class GradientAccumulator:
    """Turns tiles of dL/dx_ij into the gradients of anchors, references and logit scales.

    dot:                dx_ij/da_i = r_j
    euclidean:          dx_ij/da_i = (a_i - r_j) / x_ij, and 0 where x_ij = 0
    squared_euclidean:  dx_ij/da_i = 2 (a_i - r_j)

    In a self problem the weight of a pair holds both directions, w_ij + w_ji, and the tiles above
    the diagonal serve both of their sides.
    """

    def __init__(
        self, problem: TiledProblem, needs: list[bool], takes_all_tiles: bool = False
    ) -> None:
        """``takes_all_tiles``: nothing but every tile, once, in order, is going to be added."""
        self.problem = problem
        self.needs_anchors, self.needs_references, self.needs_logit = needs
        self.anchors = problem.a.new_empty(problem.a.shape) if self.needs_anchors else None
        # the first product of a strip may then overwrite: a pass over the gradient less
        self.overwrites = takes_all_tiles and not problem.is_self and problem.num_cols > 0
        if self.anchors is not None and not self.overwrites:
            self.anchors.zero_()
        self.references = (
            problem.r.new_zeros(problem.r.shape)
            if self.needs_references and not problem.is_self
            else None
        )
        # [kind, (scale, shift)]: sums of dL/dz x and of dL/dz over the pairs of each kind
        self.logit = torch.zeros((2, 2), dtype=problem.sum_dtype, device=problem.device)

    def add_logit(self, tile: Tile, sums: Tensor, is_positive: bool) -> None:
        """Adds what a tile gives to the gradient of one kind's scale and shift, [2]."""
        sums = sums.to(self.logit.dtype)
        # the diagonal block of a self problem holds each pair twice, with both directions each time
        is_doubled = self.problem.is_self and not tile.is_mirrored
        self.logit[0 if is_positive else 1] += sums / 2 if is_doubled else sums

    def add(self, tile: Tile, weight: Tensor, x: Tensor) -> None:
        """Adds a tile of dL/dx.  ``weight`` and, but for "dot", the measures x are destroyed."""
        problem = self.problem
        if problem.measure == "euclidean":
            # 1/x, but 0 where x = 0
            weight.div_(torch.nn.functional.threshold(x, 0.0, math.inf, inplace=True))
        if self.anchors is not None:
            beta = 0 if self.overwrites and tile.col_begin == 0 else 1
            self.anchors[tile.rows].addmm_(weight, problem.r[tile.cols], beta=beta)
        columns = self.anchors if problem.is_self else self.references
        if columns is not None and (tile.is_mirrored or not problem.is_self):
            columns[tile.cols].addmm_(weight.T, problem.a[tile.rows])

    def add_list(self, rows: Tensor, cols: Tensor, weight: Tensor, x: Tensor) -> None:
        """Adds dL/dx of listed pairs; in a self problem each direction is a pair of its own."""
        problem = self.problem
        a, r = problem.a[rows], problem.r[cols]
        if problem.measure != "dot":
            if problem.measure == "euclidean":
                weight = weight / torch.nn.functional.threshold(x, 0.0, math.inf)
            # dx/da is along a - r itself: leave the other columns of the products alone
            a -= r
            a[:, -2:] = 0
            r = a.neg()
        to_anchors, to_references = r.mul_(weight[:, None]), a.mul_(weight[:, None])
        if self.anchors is not None:
            add_at(self.anchors, rows, to_anchors)
        columns = self.anchors if problem.is_self else self.references
        if columns is not None:
            add_at(columns, cols, to_references)

    def results(self, given: PairProblem, logit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients in the caller's order and dtype."""
        problem, anchors, references = self.problem, given.anchors, given.references
        empty = anchors.new_empty(0)
        anchors_grad = references_grad = empty
        if self.anchors is not None:
            grad = self._of_embeddings(self.anchors, problem.a)
            anchors_grad = scatter(grad, problem.row_order, anchors.shape[0], 0, 0.0)
        if self.references is not None and references is not None:
            grad = self._of_embeddings(self.references, problem.r)
            references_grad = scatter(grad, problem.col_order, references.shape[0], 0, 0.0)
        logit_grad = self.logit.flatten().to(logit) if self.needs_logit else logit.new_empty(0)
        if references is not None and references_grad is not empty:
            references_grad = references_grad.to(references.dtype)
        return anchors_grad.to(anchors.dtype), references_grad, logit_grad

    def _of_embeddings(self, products: Tensor, own: Tensor) -> Tensor:
        """sum_j w_ij dx_ij/da_i from the products of the weights with the other side's operand."""
        if self.problem.measure == "dot":
            return products
        # operand (e, |e|^2, 1): the products are (sum w e', ..., sum w)
        d = own.shape[1] - 2
        grad = own[:, :d] * products[:, d + 1 :] - products[:, :d]
        return grad.mul_(2) if self.problem.measure == "squared_euclidean" else grad


class _RowWeights:
    """The factors of a pair's weight that belong to its row, or line, [num_lines] each.

    For a positive pair   dL/dz_ij = g+_i exp(z_ij - lse+_i) + gs_i,
    for a negative pair   dL/dz_ij = g-_i exp(z_ij - lse-_i),
    with (g+, g-, gs) the gradients of the row's statistics.  ``scales``, of each kind, turns them
    into the weights dL/dx = dL/dz scale; where it is 1 they stay dL/dz.
    """

    def __init__(
        self, statistics: Tensor, statistics_grad: Tensor, shifts: Tensor, scales: Tensor
    ) -> None:
        is_empty = statistics[:2] == -math.inf
        # an empty set has no pair to weigh; 0 keeps exp(z - lse) finite
        self.lse = statistics[:2].masked_fill(is_empty, 0)
        self.of_lse = statistics_grad[:2].masked_fill(is_empty, 0) * scales
        self.of_sum = statistics_grad[2] * scales[0]
        self.has_sum = bool(self.of_sum.any())
        # weight = factor exp(scale x), for each kind of pair, when that is_bounded
        self.bounded_factors = self.of_lse * torch.exp(shifts - self.lse)


def _kind_over_sides(
    problem: TiledProblem, tile: Tile, rows: Tensor, index: int, keeps: list[Tensor] | None
) -> Tensor:
    """Row factors summed over the sides of each pair that keep it, in scratch tile ``index``."""
    total: Tensor | None = None
    out = problem.buffer(index, tile.shape)
    for number, (where, dim) in enumerate(sides_of_weights(problem, tile)):
        factors = rows[where].unsqueeze(dim)
        if keeps is not None:
            factors = keeps[number] * factors
        total = factors if total is None else torch.add(total, factors, out=out)
    assert total is not None
    return total


def _sum_over_sides(
    problem: TiledProblem,
    tile: Tile,
    rows: Tensor,
    mask: Tensor | None,
    keeps: list[Tensor] | None,
) -> Tensor:
    """Row factors [2, num_rows], those of the pair's kind, summed over the sides of each pair."""
    if mask is None:
        kind = rows[0 if tile.kind is TileKind.POSITIVE else 1]
        return _kind_over_sides(problem, tile, kind, 2, keeps)
    positive = _kind_over_sides(problem, tile, rows[0], 3, keeps)
    negative = _kind_over_sides(problem, tile, rows[1], 2, keeps)
    # lerp by 0 or 1 selects exactly
    return torch.lerp(negative.expand_as(mask), positive.expand_as(mask), mask)


def _bounded_weights(
    problem: TiledProblem,
    tile: Tile,
    x: Tensor,
    scales: LogitScales,
    rows: _RowWeights,
    thresholds: Tensor | None,
) -> Tensor:
    """dL/dx of a tile whose logits are bounded; one exponential per pair."""
    mask = mixed_mask(problem, tile)
    keeps = None
    if thresholds is not None:
        keeps = [
            kept_by(problem, tile, x, thresholds, mask, side)
            for side in sides_of_weights(problem, tile)
        ]
    y = scales.bent_tile(x, tile, mask, problem)
    weight = exponentials(problem, tile, y, scales, mask)
    weight.mul_(_sum_over_sides(problem, tile, rows.bounded_factors, mask, keeps))
    if rows.has_sum and tile.kind is not TileKind.NEGATIVE:
        of_sum = _kind_over_sides(problem, tile, rows.of_sum, 2, keeps)
        weight.add_(of_sum if mask is None else of_sum * mask)
        problem.fill_excluded(tile, weight, 0)
    return weight


def _through_logit(
    tile: Tile,
    weight: Tensor,
    x: Tensor,
    scales: LogitScales,
    stays: dict[bool, bool],
    gradients: GradientAccumulator,
) -> Tensor:
    """To dL/dx where the weights are still dL/dz, adding to the gradient of scales and shifts."""
    problem = gradients.problem
    mask = mixed_mask(problem, tile)
    if gradients.needs_logit:
        for is_positive, of_kind in zip(
            (True, False), split_kinds(problem, tile, weight, mask), strict=True
        ):
            if of_kind is not None:
                sums = scales.number_gradient(of_kind, x, is_positive)
                gradients.add_logit(tile, sums, is_positive)
    return weight.mul_(scales.slopes(x, tile, mask, problem, stays))


def pair_gradient(
    problem: PairProblem,
    logit: Tensor,
    thresholds: Tensor | None,
    statistics: Tensor,
    statistics_grad: Tensor,
    needs: list[bool],
    measured: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of anchors [n, d], references [m, d] and logit [4] from those of the statistics.

    measured: None, or the measures that the forward has written.
    """
    tiled = TiledProblem(problem, measured=measured)
    gradients = GradientAccumulator(tiled, needs, takes_all_tiles=True)
    add_statistics_gradient(
        gradients,
        LogitScales(logit, problem.curve),
        tiled.sorted_rows(statistics),
        tiled.sorted_rows(statistics_grad.to(tiled.dtype)),
        None if thresholds is None else tiled.sorted_rows(thresholds),
    )
    return gradients.results(problem, logit)


def two_sided_gradient(
    problem: PairProblem,
    logit: Tensor,
    statistics: Tensor,
    statistics_grad: Tensor,
    needs: list[bool],
    measured: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`pair_gradient`, from statistics [3, n + m] of the rows and of the columns."""
    tiled = TiledProblem(problem, both_sides=True, measured=measured)
    gradients = GradientAccumulator(tiled, needs, takes_all_tiles=True)
    add_statistics_gradient(
        gradients,
        LogitScales(logit, problem.curve),
        tiled.sorted_lines(statistics),
        tiled.sorted_lines(statistics_grad.to(tiled.dtype)),
        None,
    )
    return gradients.results(problem, logit)


def add_statistics_gradient(
    gradients: GradientAccumulator,
    scales: LogitScales,
    statistics: Tensor,
    statistics_grad: Tensor,
    thresholds: Tensor | None,
) -> None:
    """Adds what the gradient of the statistics means for the embeddings; all in sorted order."""
    problem = gradients.problem
    needs_logit = gradients.needs_logit
    # whose weights are dL/dz at first: an affine logit's only factor is in those of the rows
    stays = {kind: needs_logit or scales.bends(kind) for kind in (True, False)}
    remaining = [scales.of(kind) for kind in stays]
    factors = [1.0 if stays[kind] else scales.of(kind)[0] for kind in stays]
    rows = _RowWeights(
        statistics,
        statistics_grad,
        statistics.new_tensor([[shift] for _, shift in remaining]),
        statistics.new_tensor(factors)[:, None],
    )
    bounded = bounded_kinds(problem, scales)
    reduction = log_sums(problem, scales, thresholds)
    reduction.begin_backward(statistics, statistics_grad)
    # the measures themselves are not needed
    is_plain = bounded[False] and problem.measure != "euclidean" and thresholds is None
    is_plain = is_plain and not needs_logit
    for tile in problem.tiles():
        if problem.holds_exponentials and tile.kind is TileKind.NEGATIVE:
            x = weight = problem.negatives(tile, scales.negative_scale)
            weight.mul_(_sum_over_sides(problem, tile, rows.bounded_factors, None, None))
        elif is_plain and tile.kind is TileKind.NEGATIVE:
            # the common tile: its scale is in the anchors, x itself is not needed
            x = problem.measures(tile, scales.negative_scale)
            slopes = scales.slopes(x, tile, None, problem, stays) if stays[False] else None
            weight = scales.bent(x, False, out=x).exp_()
            if slopes is not None:
                weight.mul_(slopes)
            weight.mul_(_sum_over_sides(problem, tile, rows.bounded_factors, None, None))
            problem.fill_excluded(tile, weight, 0)
        elif not all(bounded[kind] for kind in kinds_of(tile)):
            add_weights(gradients, reduction, tile)
            continue
        else:
            x = problem.measures(tile)
            weight = _bounded_weights(problem, tile, x, scales, rows, thresholds)
            if any(stays[kind] for kind in kinds_of(tile)):
                weight = _through_logit(tile, weight, x, scales, stays, gradients)
        gradients.add(tile, weight, x)
