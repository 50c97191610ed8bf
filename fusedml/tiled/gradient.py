"""Backward: every tile again, its weights dL/dx, and two products with the embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

from fusedml.tiled.plan import Tile, TiledProblem, TileKind
from fusedml.tiled.statistics import LogitScales, is_bounded, kept_logits


class GradientAccumulator:
    """Turns tiles of dL/dx_ij into the gradients of anchors, references and logit scales.

    dot:                dx_ij/da_i = r_j
    euclidean:          dx_ij/da_i = (a_i - r_j) / x_ij, and 0 where x_ij = 0
    squared_euclidean:  dx_ij/da_i = 2 (a_i - r_j)

    In a self problem the weight of a pair holds both directions, w_ij + w_ji, and the tiles above
    the diagonal serve both of their sides.
    """

    def __init__(self, problem: TiledProblem, needs: list[bool]) -> None:
        self.problem = problem
        self.needs_anchors, self.needs_references, self.needs_logit = needs
        self.anchors = torch.zeros_like(problem.a) if self.needs_anchors else None
        self.references = (
            torch.zeros_like(problem.r) if self.needs_references and not problem.is_self else None
        )
        # [kind, (scale, shift)]: sums of dL/dz x and of dL/dz over the pairs of each kind
        self.logit = torch.zeros((2, 2), dtype=torch.float64, device=problem.device)

    def add_logit(self, tile: Tile, weight: Tensor, x: Tensor, is_positive: bool) -> None:
        """Adds a tile of dL/dz of one kind of pair to the gradient of that kind's logit."""
        if not self.needs_logit:
            return
        sums = torch.stack([torch.dot(weight.flatten(), x.flatten()), weight.sum()]).double()
        # the diagonal block of a self problem holds each pair twice, with both directions each time
        is_doubled = self.problem.is_self and not tile.is_mirrored
        self.logit[0 if is_positive else 1] += sums / 2 if is_doubled else sums

    def add(self, tile: Tile, weight: Tensor, x: Tensor | None) -> None:
        """Adds one tile; ``weight`` is destroyed.  x: the pairs' measures, unless "dot"."""
        problem = self.problem
        sign = 1.0
        if problem.measure == "euclidean":
            assert x is not None
            weight.div_(x).masked_fill_(x == 0, 0)
            sign = -1.0
        elif problem.measure == "squared_euclidean":
            weight.mul_(2)
            sign = -1.0
        if self.anchors is not None:
            self._add_side(self.anchors, tile.rows, weight, problem.r[tile.cols], sign, problem.a)
        columns = self.anchors if problem.is_self else self.references
        if columns is not None and (tile.is_mirrored or not problem.is_self):
            self._add_side(columns, tile.cols, weight.T, problem.a[tile.rows], sign, problem.r)

    @staticmethod
    def _add_side(
        to: Tensor, where: slice, weight: Tensor, others: Tensor, sign: float, own: Tensor
    ) -> None:
        to[where].addmm_(weight, others, alpha=sign)
        if sign < 0:
            to[where].addcmul_(weight.sum(1, keepdim=True), own[where])

    def results(
        self, anchors: Tensor, references: Tensor | None, logit: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients in the caller's order and dtype."""
        anchors_grad = references_grad = anchors.new_empty(0)
        if self.anchors is not None:
            anchors_grad = self.problem.gradient_of_anchors(self.anchors, anchors)
            self.anchors = None
        if self.references is not None and references is not None:
            references_grad = self.problem.gradient_of_references(self.references, references)
        logit_grad = self.logit.flatten().to(logit) if self.needs_logit else logit.new_empty(0)
        return anchors_grad, references_grad, logit_grad


class _RowWeights:
    """The factors of dL/dx_ij that belong to a row, [num_rows] each.

    For a positive pair   dL/dz_ij = g+_i exp(z_ij - lse+_i) + gs_i,
    for a negative pair   dL/dz_ij = g-_i exp(z_ij - lse-_i),
    with (g+, g-, gs) the gradients of the row's statistics, and dL/dx = dL/dz scale.
    """

    def __init__(self, statistics: Tensor, statistics_grad: Tensor) -> None:
        self.empty = statistics[:2] == float("-inf")
        # an empty set has no pair to weigh; 0 keeps exp(z - lse) finite
        self.lse = statistics[:2].masked_fill(self.empty, 0)
        self.of_lse = statistics_grad[:2].masked_fill(self.empty, 0)
        self.of_sum = statistics_grad[2]

    def bounded(self, scales: LogitScales) -> Tensor:
        """[2, num_rows]: dL/dz = factor exp(scale x) for each kind, when that is_bounded."""
        shift = self.lse.new_tensor([[scales.positive_shift], [scales.negative_shift]])
        return self.of_lse * torch.exp(shift - self.lse)


def _outer_sum(problem: TiledProblem, tile: Tile, rows: Tensor) -> Tensor:
    """rows_i (+ rows_j in a self problem, for the mirrored direction), broadcast over the tile."""
    own = rows[tile.rows, None]
    if not problem.is_self:
        return own
    return torch.add(own, rows[tile.cols], out=problem.buffer(2, tile.shape))


def _bounded_weights(
    problem: TiledProblem,
    tile: Tile,
    x: Tensor,
    scales: LogitScales,
    factors: Tensor,
    of_sum: Tensor,
    gradients: GradientAccumulator,
) -> Tensor:
    """dL/dx of a tile whose logits are bounded; one exponential per kind of pair."""
    mask = problem.positive_mask(tile)
    total = None
    for is_positive in (True, False):
        if tile.kind is (TileKind.NEGATIVE if is_positive else TileKind.POSITIVE):
            continue
        index = 0 if is_positive else 1
        scale, _ = scales.of(is_positive)
        weight = torch.mul(x, scale, out=problem.buffer(1 if total is None else 3, tile.shape))
        weight.exp_().mul_(_outer_sum(problem, tile, factors[index]))
        if is_positive:
            weight.add_(_outer_sum(problem, tile, of_sum))
        if mask is not None:
            weight.mul_(mask) if is_positive else weight.masked_fill_(mask, 0)
        problem.fill_excluded(tile, weight, 0)
        gradients.add_logit(tile, weight, x, is_positive)
        weight.mul_(scale)
        total = weight if total is None else total.add_(weight)
    assert total is not None
    return total


def _online_weights(
    problem: TiledProblem,
    tile: Tile,
    x: Tensor,
    scales: LogitScales,
    rows: _RowWeights,
    thresholds: Tensor | None,
    gradients: GradientAccumulator,
) -> Tensor:
    """dL/dx of any tile: exp(z - lse) for each direction on its own."""
    total = torch.zeros_like(x)
    directions = ((tile.rows, 1), (tile.cols, 0))[: 2 if problem.is_self else 1]
    for is_positive in (True, False):
        index = 0 if is_positive else 1
        of_kind = torch.zeros_like(x)
        for where, dim in directions:
            rule = None if thresholds is None else thresholds[index, where].unsqueeze(dim)
            logits = kept_logits(problem, tile, x, scales, is_positive, rule)
            if logits is None:
                continue
            if is_positive:
                kept = logits != float("-inf")
                of_kind.addcmul_(kept, rows.of_sum[where].unsqueeze(dim))
            weight = logits.sub_(rows.lse[index, where].unsqueeze(dim)).exp_()
            of_kind.addcmul_(weight, rows.of_lse[index, where].unsqueeze(dim))
        gradients.add_logit(tile, of_kind, x, is_positive)
        total.add_(of_kind, alpha=scales.of(is_positive)[0])
    return total


def pair_gradient(
    anchors: Tensor,
    references: Tensor | None,
    anchor_labels: Tensor,
    reference_labels: Tensor | None,
    logit: Tensor,
    measure: str,
    exclude_diagonal: bool,
    thresholds: Tensor | None,
    extent: Tensor | None,
    statistics: Tensor,
    statistics_grad: Tensor,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of anchors [n, d], references [m, d] and logit [4] from those of the statistics."""
    problem = TiledProblem(
        anchors,
        references,
        anchor_labels,
        reference_labels,
        measure,
        exclude_diagonal,
        extent,
    )
    scales = LogitScales(*logit.tolist())
    rows = _RowWeights(
        problem.sorted_rows(statistics), problem.sorted_rows(statistics_grad.to(problem.dtype))
    )
    bounded = thresholds is None and is_bounded(problem, scales)
    factors = rows.bounded(scales) if bounded else rows.of_lse
    if thresholds is not None:
        thresholds = problem.sorted_rows(thresholds)
    gradients = GradientAccumulator(problem, needs)
    for tile in problem.tiles():
        if bounded and problem.measure == "dot" and tile.kind is TileKind.NEGATIVE and not needs[2]:
            # the common tile: the scale goes into the anchors and the factors
            scale = scales.negative_scale
            weight = torch.mm(
                problem.a[tile.rows] * scale,
                problem.r[tile.cols].T,
                out=problem.buffer(0, tile.shape),
            )
            weight.exp_().mul_(_outer_sum(problem, tile, factors[1] * scale))
            gradients.add(tile, weight, None)
            continue
        x = problem.measures(tile)
        if bounded:
            weight = _bounded_weights(
                problem, tile, x, scales, factors, rows.of_sum, gradients
            )
        else:
            weight = _online_weights(problem, tile, x, scales, rows, thresholds, gradients)
        gradients.add(tile, weight, x)
    return gradients.results(anchors, references, logit)
