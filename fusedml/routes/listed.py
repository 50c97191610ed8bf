"""An explicit index tuple: statistics of the listed pairs by segment sums over rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fusedml.formulas import Formula, Hyperparameter, PairFormula, RowFormula
from fusedml.heads import RowStatistics
from fusedml.pairs import accumulation_dtype
from fusedml.reducers import RowSums, zero_loss
from fusedml.routes.distinct_pairs import PairIndices, distinct_pairs
from fusedml.routes.pair_losses import ListedLosses, PairLosses, losses_of_positives
from fusedml.tiled.listed import add_at


def segment_logsumexp(values: Tensor, segments: Tensor, num_segments: int) -> Tensor:
    """log sum exp of the values of each segment, -inf for an empty one, with gradient 0 there."""
    with torch.no_grad():
        largest = values.new_full((num_segments,), -math.inf)
        largest = largest.scatter_reduce(0, segments, values, "amax")
        shift = torch.where(torch.isinf(largest), 0, largest)
    exp = torch.exp(values - shift[segments])
    sums = _segment_sum(exp, segments, num_segments)
    is_empty = sums == 0
    return torch.where(is_empty, -math.inf, shift + torch.where(is_empty, 1, sums).log())


def _segment_sum(values: Tensor, segments: Tensor, num_segments: int) -> Tensor:
    return add_at(values.new_zeros(num_segments), segments, values)


class ListedPairs:
    """The pairs of an index tuple, in memory proportional to the list.

    measures: (rows, columns) -> x [num_pairs], differentiable.
    anchors: [n, d].  references: [m, d], or None when they are the anchors.
    """

    def __init__(
        self,
        indices: PairIndices,
        measures: Callable[[Tensor, Tensor], Tensor],
        anchors: Tensor,
        references: Tensor | None,
        sign: float,
    ) -> None:
        self.indices = indices
        self.anchors = anchors
        self.references = references
        self.sign = sign
        self._measures = measures
        others = anchors if references is None else references
        self.shape = anchors.shape[0], others.shape[0]
        # NaN if any embedding is NaN or inf, listed or not
        poison = zero_loss(anchors.detach()) + zero_loss(others.detach())
        self.poison = poison.to(accumulation_dtype(anchors.dtype))

    def distinct(self) -> ListedPairs:
        """The same pairs, each once.

        Raises PairConflictError if a pair is listed both as positive and as negative.
        """
        indices = distinct_pairs(self.indices, *self.shape)
        return ListedPairs(indices, self._measures, self.anchors, self.references, self.sign)

    def _both_measures(self) -> tuple[Tensor, Tensor]:
        return self._measures(*self.indices[:2]), self._measures(*self.indices[2:])

    def _statistics(
        self, formula: Formula, x_positive: Tensor, x_negative: Tensor, indices: PairIndices
    ) -> RowStatistics:
        logit = formula.logit(self.sign).to(x_positive)
        z_positive, z_negative = x_positive * logit[0] + logit[1], x_negative * logit[2] + logit[3]
        n = self.shape[0]
        rows, negative_rows = indices.positive_rows, indices.negative_rows
        return RowStatistics(
            segment_logsumexp(z_positive, rows, n),
            segment_logsumexp(z_negative, negative_rows, n),
            _segment_sum(z_positive, rows, n),
            torch.bincount(rows, minlength=n),
            torch.bincount(negative_rows, minlength=n),
        )

    def row_statistics(self, formula: Formula) -> RowStatistics:
        return self._statistics(formula, *self._both_measures(), self.indices)

    def row_losses(self, formula: RowFormula, epsilon: Hyperparameter | None = None) -> Tensor:
        x_positive, x_negative = self._both_measures()
        indices = self.indices
        if epsilon is not None:
            keep_positive, keep_negative = self._mined(x_positive, x_negative, epsilon)
            x_positive, x_negative = x_positive[keep_positive], x_negative[keep_negative]
            indices = PairIndices(
                *(index[keep_positive] for index in indices[:2]),
                *(index[keep_negative] for index in indices[2:]),
            )
        row = self._statistics(formula, x_positive, x_negative, indices)
        return formula.losses(row) + self.poison

    @torch.no_grad()
    def _mined(
        self, x_positive: Tensor, x_negative: Tensor, epsilon: Hyperparameter
    ) -> tuple[Tensor, Tensor]:
        """Which listed pairs the Multi-Similarity rule keeps, judged among the listed ones."""
        y_positive, y_negative = self.sign * x_positive, self.sign * x_negative
        n = self.shape[0]
        rows, negative_rows = self.indices.positive_rows, self.indices.negative_rows
        hardest_positive = y_positive.new_full((n,), math.inf)
        hardest_positive = hardest_positive.scatter_reduce(0, rows, y_positive, "amin")
        hardest_negative = y_negative.new_full((n,), -math.inf)
        hardest_negative = hardest_negative.scatter_reduce(0, negative_rows, y_negative, "amax")
        return (
            y_positive - epsilon < hardest_negative[rows],
            y_negative + epsilon > hardest_positive[negative_rows],
        )

    def pair_losses(self, formula: PairFormula) -> PairLosses:
        x_positive, x_negative = self._both_measures()
        i, j = self.indices[:2]
        anchor_lse, reference_lse = self._lse_of_positives(formula, x_negative)
        losses = losses_of_positives(formula, self.sign, x_positive, anchor_lse, reference_lse)
        losses = losses + self.poison
        n = self.shape[0]
        return PairLosses(
            lambda: RowSums(_segment_sum(losses, i, n), torch.bincount(i, minlength=n)),
            lambda: ListedLosses(losses, i, j),
        )

    def _lse_of_positives(self, formula: PairFormula, x_negative: Tensor) -> tuple[Tensor, Tensor]:
        """lse over the listed negatives of i and of p, for each listed positive pair (i, p)."""
        n, m = self.shape
        i, j = self.indices[:2]
        logit = formula.logit(self.sign).to(x_negative)
        z = x_negative * logit[2] + logit[3]
        lse = segment_logsumexp(z, self.indices.negative_rows, n)
        anchor_lse = lse[i]
        if not formula.needs_reference_lse:
            return anchor_lse, torch.zeros_like(anchor_lse)
        if self.references is None:
            # the negatives of a pair (i, i) are those of i, once
            reference_lse = torch.where(i == j, -math.inf, lse[j])
        else:
            # a listed negative pair (k, p) is a negative of the reference p, too
            reference_lse = segment_logsumexp(z, self.indices.negative_columns, m)[j]
        if self.indices.negative_rows.shape[0] == 0:
            return anchor_lse, reference_lse
        # pytorch-metric-learning's convention for a pair without negatives in a list that has some
        neither = torch.isneginf(anchor_lse) & torch.isneginf(reference_lse)
        return torch.where(neither, 0, anchor_lse), reference_lse

    def has_negative(self) -> Tensor:
        count = self.indices.negative_rows.shape[0]
        return torch.tensor(count > 0, device=self.indices.negative_rows.device)
