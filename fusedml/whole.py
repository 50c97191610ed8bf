"""Small problems: the operators on matrices that are held whole, in as few calls as will do.

Up to ``MOST_PAIRS`` pairs a call of PyTorch costs more than its arithmetic.  So nothing is sorted
or cut into tiles here, one call serves both kinds of pair, and the backward finds the exponentials
that the forward has left: seven matrices at most, 11 MB in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fusedml.heads import PAIR_HEADS, ROW_HEADS, PairLoss, RowStatistics
from fusedml.ops import with_problem
from fusedml.pairs import PairProblem, accumulation_dtype

# beyond, tiles that stay in the cache are as fast, in less memory
MOST_PAIRS = 640 * 640

_EMPTY = -math.inf
_BACKENDS = ("auto", "torch")
_TENSOR_TYPES = (Tensor, torch.nn.Parameter)


def is_small(backend: str, anchors: Tensor, references: Tensor | None) -> bool:
    """Whether the matrix of the pairs may be held whole: few pairs, on a CPU, no graph traced.

    A backend other than PyTorch's own computes problems of any size by itself.
    """
    if (
        backend not in _BACKENDS
        or type(anchors) not in _TENSOR_TYPES
        or anchors.device.type != "cpu"
    ):
        return False
    others = anchors if references is None else references
    return anchors.shape[0] * others.shape[0] <= MOST_PAIRS and not torch.compiler.is_compiling()


class WholeMatrix:
    """The pairs of a small problem, from the forward of an operator to its backward.

    x: the measures, [n, m].  masks: [2, n, m], 1 for the positives and for the negatives, 0
    elsewhere.  Logits are z = scale x + shift, with scales [2, 1, 1] and shifts [2, 1].
    """

    @staticmethod
    def of(
        name: str, backend: str, anchors: Tensor, references: Tensor | None, *_: Any
    ) -> WholeMatrix | None:
        """A place for the problem of an operator's arguments, or None if it is not a small one.

        While a graph is traced, every operator stays one node of it.
        """
        if name in _EVALUATE and is_small(backend, anchors, references):
            return WholeMatrix(name)
        return None

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_evaluated = False

    def evaluate(self, *args: Any) -> tuple[Tensor, ...] | None:
        """The outputs of the operator, or None if it has to compute them: empty or not finite."""
        outputs = _EVALUATE[self.name](self, *with_problem(self.name, args))
        self.is_evaluated = outputs is not None
        return outputs

    def gradient(
        self, saved: tuple[Tensor, ...], output_grad: Tensor, needs: list[bool]
    ) -> tuple[Tensor, ...]:
        """The gradients that the operator's gradient operator returns, after ``evaluate``.

        saved: the statistics among the outputs, and the partial derivatives of ``row_losses``.
        """
        if self.name == "pair_statistics":
            return self._gradients(*self._weights(saved[0], output_grad, needs), needs)
        if self.name == "row_losses":
            return self._gradients(*self._weights(saved[0], saved[1] * output_grad, needs), needs)
        return self._positive_gradient(saved[0], output_grad, needs)

    # ---------------------------------------------------------------------------------- forward

    def _load(self, problem: PairProblem, logit: Tensor, thresholds: Tensor | None = None) -> bool:
        """Measures and masks; False if there are no pairs or some are not finite."""
        n, m = problem.shape
        if problem.extent is not None:
            rows, columns = problem.extent.tolist()
            n, m = min(n, rows), min(m, columns)
        if n * m == 0:
            return False
        self.problem, self.n, self.m = problem, n, m
        dtype = accumulation_dtype(problem.anchors.dtype)
        self.a = _first(n, problem.anchors).to(dtype)
        references = problem.references
        self.r = self.a if references is None else _first(m, references).to(dtype)
        self.x = self._measures()
        low, high = torch.aminmax(self.x)
        largest_measure = max(abs(low.item()), abs(high.item()))
        if not math.isfinite(largest_measure):
            return False
        self.positive_scale, self.positive_shift, negative_scale, _ = logit.tolist()
        of_kinds = logit.to(self.x).view(2, 2, 1)
        self.scales, self.shifts = of_kinds[:, :1], of_kinds[:, 1]
        self.logit_dtype = logit.dtype
        self.most_logit = 600.0 if dtype == torch.float64 else 70.0
        # then exp(scale x) neither overflows nor underflows, not even in sums of MOST_PAIRS
        largest_scale = max(abs(self.positive_scale), abs(negative_scale))
        self.is_bounded = largest_measure * largest_scale <= self.most_logit
        self.masks = self._masks(thresholds)
        return True

    def _measures(self) -> Tensor:
        measure = self.problem.measure
        if measure == "dot":
            return torch.mm(self.a, self.r.T)
        row_squares = self.a.square().sum(1)
        col_squares = row_squares if self.r is self.a else self.r.square().sum(1)
        squares = torch.addmm(col_squares, self.a, self.r.T, alpha=-2)
        squares.add_(row_squares[:, None]).clamp_(min=0)
        return squares if measure == "squared_euclidean" else squares.sqrt_()

    def _masks(self, thresholds: Tensor | None) -> Tensor:
        problem, n, m = self.problem, self.n, self.m
        rows = _first(n, problem.anchor_labels)
        columns = rows
        if problem.reference_labels is not None:
            columns = _first(m, problem.reference_labels)
        # in floating point: PyTorch's boolean operations on a CPU are several times slower
        masks = self.x.new_empty(2, n, m)
        positive, negative = masks.unbind()
        torch.eq(rows[:, None], columns, out=positive)
        negative.fill_(1).sub_(positive)
        if problem.exclude_diagonal:
            masks.diagonal(dim1=1, dim2=2).zero_()
        if thresholds is not None:
            hardness = self.x if problem.measure == "dot" else -self.x
            below, above = thresholds[:, :n, None]
            positive *= hardness < below
            negative *= hardness > above
        return masks

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Statistics [3, n] (lse+, lse-, sum+) and counts [2, n] (n+, n-) of the rows."""
        counts = self.masks.sum(2)
        sum_positive = torch.linalg.vecdot(self.x, self.masks[0]).mul_(self.positive_scale)
        sum_positive.add_(counts[0], alpha=self.positive_shift)
        return torch.cat([self._lse(), sum_positive[None]]), counts.long()

    def _lse(self) -> Tensor:
        """[2, n], -inf for an empty set.  Leaves exp(scale x), if bounded, for the backward."""
        if self.is_bounded:
            self.exp = torch.mul(self.x, self.scales).exp_().mul_(self.masks)
            return self.exp.sum(2).log_().add_(self.shifts)
        logits = self.x * self.scales
        largest = logits.masked_fill_(self.masks == 0, _EMPTY).amax(2)
        largest.masked_fill_(largest == _EMPTY, 0)
        return self._exponentials(-largest).sum(2).log_().add_(largest).add_(self.shifts)

    def _exponentials(self, offsets: Tensor) -> Tensor:
        """exp(scale x_ij + offset_i) of the pairs of each kind, all exponents <= 0; 0 elsewhere."""
        exponents = torch.addcmul(offsets[:, :, None], self.x, self.scales)
        # e^-80 is nothing beside 1; the pairs outside of the mask may have any exponent
        most = self.most_logit + 10
        return exponents.clamp_(-most, most).exp_().mul_(self.masks)

    def _padded(self, values: Tensor, neutral: float) -> Tensor:
        """Row values [..., n] with the rows beyond an extent."""
        missing = self.problem.shape[0] - self.n
        return torch.nn.functional.pad(values, (0, missing), value=neutral) if missing else values

    def _pair_statistics(
        self, problem: PairProblem, logit: Tensor, thresholds: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        if not self._load(problem, logit, thresholds):
            return None
        statistics, counts = self._statistics()
        if self.n < problem.shape[0]:
            statistics = torch.cat(
                [self._padded(statistics[:2], _EMPTY), self._padded(statistics[2:], 0)]
            )
        return statistics, self._padded(counts, 0)

    def _row_losses(
        self,
        problem: PairProblem,
        logit: Tensor,
        thresholds: Tensor | None,
        head: str,
        head_parameters: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        found = self._pair_statistics(problem, logit, thresholds)
        if found is None:
            return None
        statistics, counts = found
        row = ROW_HEADS[head](RowStatistics(*statistics, *counts), head_parameters)
        return row.value, statistics, torch.stack(row[1:])

    def _positive_pair_losses(
        self,
        problem: PairProblem,
        logit: Tensor,
        reference_lse: Tensor | None,
        head: str,
        head_parameters: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        if not self._load(problem, logit):
            return None
        statistics, counts = self._statistics()
        self.place = self.masks[0].view(-1).nonzero().squeeze(1)
        self.rows = self.place // self.m
        self.columns = self.place - self.rows * self.m
        self.positive_x = self.x.view(-1).index_select(0, self.place)
        anchor_lse = statistics[1]
        self.has_reference_lse = reference_lse is not None
        if reference_lse is None:  # a self problem's, or a head that does not ask for it
            is_self = self.problem.references is None
            reference_lse = anchor_lse if is_self else anchor_lse.new_zeros(self.m)
        self.losses: PairLoss = PAIR_HEADS[head](
            self.positive_x * self.positive_scale + self.positive_shift,
            anchor_lse.index_select(0, self.rows),
            reference_lse.index_select(0, self.columns),
        )
        sums = torch.zeros(self.n, dtype=torch.float64)
        sums.index_add_(0, self.rows, self.losses.value.double())
        return sums.to(statistics.dtype), statistics, counts

    # --------------------------------------------------------------------------------- gradients

    def _weights(
        self, statistics: Tensor, statistics_grad: Tensor, needs: list[bool]
    ) -> tuple[Tensor, Tensor | None]:
        """dL/dx, [n, m], of the rows' statistics, and dL/dlogit, [4], if needed.

        dL/dz_ij = g+_i exp(z_ij - lse+_i) + gs_i for positives, g-_i exp(z_ij - lse-_i) for
        negatives, with (g+, g-, gs) the gradients of the row's statistics.
        """
        lse = _first(self.n, statistics[:2], 1)
        of_lse = _first(self.n, statistics_grad[:2], 1)
        of_sum = _first(self.n, statistics_grad[2])
        is_empty = lse == _EMPTY
        # an empty set has no pair to weigh; 0 keeps the factors finite
        offsets = self.shifts - lse.masked_fill(is_empty, 0)
        factors = of_lse.masked_fill(is_empty, 0)
        if self.is_bounded:
            factors.mul_(offsets.exp_())
            weights = self.exp * factors[:, :, None]
        else:
            weights = self._exponentials(offsets).mul_(factors[:, :, None])
        if bool(of_sum.any()):
            weights[0].addcmul_(self.masks[0], of_sum[:, None])
        logit_grad = None
        if needs[2]:
            of_scales = torch.mul(weights, self.x).sum((1, 2))
            logit_grad = torch.stack([of_scales, weights.sum((1, 2))], 1).view(4)
        positive, negative = weights.mul_(self.scales).unbind()
        return positive.add_(negative), logit_grad

    def _gradients(
        self, weights: Tensor, logit_grad: Tensor | None, needs: list[bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of anchors [n, d], references [m, d] and logit; those not needed are empty."""
        problem = self.problem
        if problem.measure == "euclidean":
            # dx/da = (a - r) / x, and 0 where x = 0
            weights = weights.div_(torch.nn.functional.threshold(self.x, 0.0, math.inf))
        anchors_grad = references_grad = weights.new_empty(0)
        if problem.references is None:
            weights = weights + weights.T
        elif needs[1]:
            references_grad = self._product(weights.T, self.r, self.a, problem.references)
        if needs[0]:
            anchors_grad = self._product(weights, self.a, self.r, problem.anchors)
        return (
            anchors_grad,
            references_grad,
            weights.new_empty(0) if logit_grad is None else logit_grad.to(self.logit_dtype),
        )

    def _product(self, weights: Tensor, own: Tensor, others: Tensor, like: Tensor) -> Tensor:
        """sum_j w_ij dx_ij/d(own_i) in the caller's shape and dtype; w holds 1/x for a distance."""
        grad = torch.mm(weights, others)
        if self.problem.measure != "dot":
            grad = torch.addcmul(grad, own, weights.sum(1)[:, None], value=-1).neg_()
            if self.problem.measure == "squared_euclidean":
                grad.mul_(2)
        missing = like.shape[0] - grad.shape[0]
        if missing:
            grad = torch.nn.functional.pad(grad, (0, 0, 0, missing))
        return grad.to(like.dtype)

    def _positive_gradient(
        self, statistics: Tensor, losses_grad: Tensor, needs: list[bool]
    ) -> tuple[Tensor, ...]:
        loss = self.losses
        upstream = losses_grad.to(statistics.dtype).index_select(0, self.rows)
        statistics_grad = torch.zeros_like(statistics)
        anchor_lse_grad = reference_lse_grad = statistics_grad[1]
        if self.problem.references is not None:
            reference_lse_grad = statistics.new_zeros(self.m)
        anchor_lse_grad.index_add_(0, self.rows, upstream * loss.d_anchor_lse)
        reference_lse_grad.index_add_(0, self.columns, upstream * loss.d_reference_lse)
        of_positives = upstream * loss.d_logit
        weights, logit_grad = self._weights(statistics, statistics_grad, needs)
        if logit_grad is not None:
            logit_grad[0] += torch.dot(of_positives, self.positive_x)
            logit_grad[1] += of_positives.sum()
        # each place is listed once
        weights.view(-1).index_add_(0, self.place, of_positives, alpha=self.positive_scale)
        if not self.has_reference_lse:
            reference_lse_grad = weights.new_empty(0)
        return *self._gradients(weights, logit_grad, needs), reference_lse_grad


def _first(count: int, x: Tensor, dim: int = 0) -> Tensor:
    """x[:count] along a dimension, without a call if that is all."""
    return x if x.shape[dim] == count else x.narrow(dim, 0, count)


_EVALUATE: dict[str, Callable[..., Any]] = {
    "pair_statistics": WholeMatrix._pair_statistics,
    "row_losses": WholeMatrix._row_losses,
    "positive_pair_losses": WholeMatrix._positive_pair_losses,
}
