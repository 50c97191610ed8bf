"""Distillation: how far the softmax of each row of one matrix of products is from another's.

Two products for each tile, of the batch and of its teacher, and one sweep over both.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fusedml.engine.pairs import PairProblem
from fusedml.engine.tiled.gradient import GradientAccumulator
from fusedml.engine.tiled.plan import Tile, TiledProblem, TileKind
from fusedml.engine.tiled.reduced import sides_of_weights
from fusedml.engine.tiled.statistics import largest_exponent


def row_divergences(
    anchors: Tensor, teacher: Tensor, labels: Tensor | None, numbers: Tensor
) -> tuple[Tensor, Tensor]:
    """KL [n], and the log-sum-exps of the logits x of the batch and y of the teacher, [2, n].

        KL_i = sum_j q_ij (log q_ij - log p_ij),  p and q the softmax rows of x and y

    anchors: [n, d].  teacher: [n, e].  labels: None, or int64 [n].
    numbers: [4], (scale, shift, teacher's shift, equal): x = scale (<a_i, a_j> + shift), and
    scale equal in both matrices for pairs of equal labels, if there are any.
    """
    two = _TwoProducts(anchors, teacher, labels, numbers)
    tiled, n = two.tiled, two.tiled.num_rows
    # of e^x, of e^y, and of e^y (y - x), each with its row's largest exponent taken off
    sums = torch.zeros((3, n), dtype=tiled.sum_dtype, device=tiled.device)
    largest = tiled.a.new_full((2, n), 0 if two.is_bounded else -math.inf)
    for tile in tiled.tiles():
        logits = two.logits(tile)
        # formed before the sum: both matrices may be nearly equal
        difference = torch.sub(*reversed(logits), out=tiled.buffer(2, tile.shape))
        if two.is_bounded:
            two.add_bounded(tile, logits, difference, sums)
        else:
            two.add(tile, logits, difference, sums, largest)
    log_sums = largest + sums[:2].log()
    losses = sums[2] / sums[1] - (log_sums[1] - log_sums[0])
    losses = losses.to(tiled.dtype) + tiled.poison() + two.teacher.poison()
    in_order = tiled.to_rows(losses[None], anchors)[0]
    return in_order, tiled.to_rows(log_sums.to(tiled.dtype), anchors)


def row_divergences_gradient(
    anchors: Tensor,
    teacher: Tensor,
    labels: Tensor | None,
    numbers: Tensor,
    losses: Tensor,
    log_sums: Tensor,
    losses_grad: Tensor,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of anchors, teacher and numbers."""
    two = _TwoProducts(anchors, teacher, labels, numbers)
    tiled = two.tiled
    lines = tiled.sorted_rows(torch.stack([losses_grad, *log_sums, losses]).to(tiled.dtype))
    of_anchors, of_teacher = (
        GradientAccumulator(problem, [need, False, False])
        for problem, need in zip((tiled, two.teacher), needs[:2], strict=True)
    )
    learns = needs[1] or needs[2]
    numbers_grad = torch.zeros(4, dtype=tiled.sum_dtype, device=tiled.device)
    for tile in tiled.tiles():
        x, y = two.logits(tile)
        if two.is_bounded and not learns:
            weights = two.bounded_weights(tile, x, y, lines)
        else:
            weights = two.weights(tile, x, y, lines, learns)
        if needs[2]:
            numbers_grad += two.of_numbers(tile, (x, y), weights)
        if needs[0]:
            of_anchors.add(tile, two.of_measures(tile, weights[0]), x)
        if needs[1]:
            of_teacher.add(tile, two.of_measures(tile, weights[1]), y)
    empty = anchors.new_zeros(0)
    results = [
        gradients.results(PairProblem(given, None, two.labels, None), numbers)[0]
        if need
        else empty.to(given.dtype)
        for gradients, given, need in zip(
            (of_anchors, of_teacher), (anchors, teacher), needs[:2], strict=True
        )
    ]
    of_numbers = numbers_grad.to(numbers) if needs[2] else numbers.new_zeros(0)
    return results[0], results[1], of_numbers


class _TwoProducts:
    """The batch and its teacher, in the same tiles."""

    def __init__(
        self, anchors: Tensor, teacher: Tensor, labels: Tensor | None, numbers: Tensor
    ) -> None:
        self.has_labels = labels is not None
        if labels is None:  # sorted as they are
            labels = torch.zeros(anchors.shape[0], dtype=torch.int64, device=anchors.device)
        self.labels = labels
        self.tiled = TiledProblem(PairProblem(anchors, None, labels, None, exclude_diagonal=False))
        # measured in its own dtype, summed in the batch's
        teacher = teacher.to(self.tiled.dtype)
        self.teacher = TiledProblem(
            PairProblem(teacher, None, labels, None, exclude_diagonal=False)
        )
        self.scale, *self.shifts, self.equal = numbers.tolist()
        # the logits; NaN is not bounded
        most = [abs(self.equal) if self.has_labels else 0.0] + [
            problem.largest_measure + abs(shift)
            for problem, shift in zip((self.tiled, self.teacher), self.shifts, strict=True)
        ]
        self.is_bounded = all(
            self.scale * bound <= largest_exponent(self.tiled.dtype) for bound in most
        )

    def logits(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """x and y of the tile's pairs, in the scratch tile 0 of each."""
        x, y = (
            self._logits(problem, shift, tile)
            for problem, shift in zip((self.tiled, self.teacher), self.shifts, strict=True)
        )
        return x, y

    def _logits(self, problem: TiledProblem, shift: float, tile: Tile) -> Tensor:
        equal = self.scale * self.equal
        if self.has_labels and tile.kind is TileKind.POSITIVE:
            return problem.buffer(0, tile.shape).fill_(equal)
        z = problem.measures(tile, self.scale)
        if shift != 0:
            z.add_(self.scale * shift)
        if self.has_labels and tile.kind is TileKind.MIXED:
            # lerp by 0 or 1 selects exactly
            z.lerp_(z.new_tensor(equal), self.tiled.positive_mask(tile))
        return z

    def add(
        self,
        tile: Tile,
        logits: tuple[Tensor, Tensor],
        difference: Tensor,
        sums: Tensor,
        largest: Tensor,
    ) -> None:
        """Adds a tile of any logits to the sums of its lines, which it rescales."""
        out = self.tiled.buffer(1, tile.shape)
        for where, dim in self.tiled.sides(tile):
            for k, z in enumerate(logits):
                most = torch.maximum(largest[k, where], z.amax(dim))
                rescaled = torch.exp(largest[k, where] - most)
                exponential = torch.sub(z, most.unsqueeze(dim), out=out).exp_()
                sums[k, where] = sums[k, where] * rescaled + exponential.sum(dim)
                if k == 1:
                    products = exponential.mul_(difference).sum(dim)
                    sums[2, where] = sums[2, where] * rescaled + products
                largest[k, where] = most

    def add_bounded(
        self, tile: Tile, logits: tuple[Tensor, Tensor], difference: Tensor, sums: Tensor
    ) -> None:
        """Adds a tile whose logits need no maximum: one exponential serves both sides."""
        x, y = (z.exp_() for z in logits)
        sides = self.tiled.sides(tile)
        for values, total in ((x, sums[0]), (y, sums[1]), (difference.mul_(y), sums[2])):
            for where, dim in sides:
                total[where] += values.sum(dim)

    def bounded_weights(
        self, tile: Tile, x: Tensor, y: Tensor, lines: Tensor
    ) -> tuple[Tensor, Tensor]:
        """:func:`weights` of logits that need no maximum; x and y are lost."""
        out = self.tiled.buffer(1, tile.shape)
        grad, *log_sums, _ = lines
        for z, log_sum in zip((x, y), log_sums, strict=True):
            factors = grad * torch.exp(-log_sum)
            z.exp_().mul_(torch.add(factors[tile.rows, None], factors[tile.cols], out=out))
        return x.sub_(y), y

    def weights(
        self, tile: Tile, x: Tensor, y: Tensor, lines: Tensor, learns: bool
    ) -> tuple[Tensor, Tensor]:
        """dL/dx and, if the teacher or the numbers ``learns``, dL/dy, of both directions.

            dKL_i/dx_ij = p_ij - q_ij,    dKL_i/dy_ij = q_ij (log q_ij - log p_ij - KL_i)

        lines: [4, n], dL/dKL_i, the two log-sum-exps and KL_i.
        """
        tiled = self.tiled
        total, of_teacher = (tiled.buffer(k, tile.shape) for k in (1, 2))
        for number, (where, dim) in enumerate(sides_of_weights(tiled, tile)):
            grad, lse_x, lse_y, loss = (line.unsqueeze(dim) for line in lines[:, where])
            p = torch.sub(x, lse_x, out=tiled.buffer(3, tile.shape)).exp_()
            q = torch.sub(y, lse_y, out=tiled.buffer(5, tile.shape)).exp_()
            p.sub_(q).mul_(grad)
            _put(total, p, number)
            if learns:
                log_ratio = torch.sub(y, x, out=p).add_(lse_x - lse_y - loss)
                _put(of_teacher, log_ratio.mul_(q).mul_(grad), number)
        return total, of_teacher

    def of_numbers(
        self, tile: Tile, logits: tuple[Tensor, Tensor], weights: tuple[Tensor, Tensor]
    ) -> Tensor:
        """What the tile gives to the gradient of the numbers."""
        wide = self.tiled.sum_dtype
        of_scale = sum((w * z).sum(dtype=wide) for w, z in zip(weights, logits, strict=True))
        totals = [w.sum(dtype=wide) for w in weights]
        equal = [total * 0 for total in totals]
        if self.has_labels and tile.kind is TileKind.POSITIVE:
            equal = totals
        elif self.has_labels and tile.kind is TileKind.MIXED:
            mask = self.tiled.positive_mask(tile)
            equal = [(w * mask).sum(dtype=wide) for w in weights]
        of_shifts = [total - of_equal for total, of_equal in zip(totals, equal, strict=True)]
        found = torch.stack([of_scale / self.scale**2, *of_shifts, equal[0] + equal[1]])
        # a block on the diagonal holds each pair twice, with both directions each time
        return found.mul_(self.scale if tile.is_mirrored else self.scale / 2)

    def of_measures(self, tile: Tile, weight: Tensor) -> Tensor:
        """dL/d<a_i, a_j> from dL/dx; the weights are destroyed."""
        weight.mul_(self.scale)
        if not self.has_labels or tile.kind is TileKind.NEGATIVE:
            return weight
        if tile.kind is TileKind.POSITIVE:
            return weight.zero_()
        return weight.addcmul_(weight, self.tiled.positive_mask(tile), value=-1)


def _put(total: Tensor, values: Tensor, number: int) -> None:
    total.copy_(values) if number == 0 else total.add_(values)
