"""Forms of heads: from a row's statistics to its loss, with the partial derivatives of a backward.

A loss writes its head in ordinary PyTorch (``RowFormula.head``), or names one of these few forms.
A form has its partial derivatives in closed terms and a twin in ``csrc/heads``, so that losses and
derivatives come out of the kernel that finishes the statistics.  Row
forms compute L_i from the two pair sets of row i,

    lse_positive = log sum_{j in P(i)} exp(z_ij),    lse_negative = log sum_{j in N(i)} exp(z_ij),
    sum_positive = sum_{j in P(i)} z_ij,             num_positive = |P(i)|,  num_negative = |N(i)|,

and a positive-pair form computes v(z_ip, lse_i, lse_p) for each positive pair from its logit and
the negative log-sum-exps of its two rows.  An empty set has the log-sum-exp -inf.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fusedml.engine.traced import WithProperties


class _Statistics(NamedTuple):
    lse_positive: Tensor
    lse_negative: Tensor
    sum_positive: Tensor
    num_positive: Tensor
    num_negative: Tensor


class RowStatistics(WithProperties, _Statistics):
    """Statistics of each row's positive and negative pairs, all of shape [n].

    A named tuple of lse_positive, lse_negative and sum_positive, float32 (float64 for float64
    embeddings), and num_positive and num_negative, int64.
    """

    __slots__ = ()

    @property
    def lse(self) -> Tensor:
        """[2, n], see RowSummary."""
        return torch.stack([self.lse_positive, self.lse_negative])

    @property
    def counts(self) -> Tensor:
        """[2, n], see RowSummary."""
        return torch.stack([self.num_positive, self.num_negative])


class PairSums(NamedTuple):
    """Sums of terms (``fusedml.terms``) over the pairs of each line: rows, or rows and columns.

    sums: [K, lines], F_k = sum f_k(z), float32 (float64 for float64 embeddings).
    counts: [K, lines], int64, the number of pairs in f_k's interval.
    num_positive, num_negative: [lines], int64.
    """

    sums: Tensor
    counts: Tensor
    num_positive: Tensor
    num_negative: Tensor


class Rows(Protocol):
    """What a head may ask of the rows: the fields of RowStatistics, given or found when asked."""

    @property
    def lse_positive(self) -> Tensor: ...
    @property
    def lse_negative(self) -> Tensor: ...
    @property
    def sum_positive(self) -> Tensor: ...
    @property
    def num_positive(self) -> Tensor: ...
    @property
    def num_negative(self) -> Tensor: ...


class RowSummary(Protocol):
    """The statistics of the rows as forms look at them, those of the two pair sets together.

    lse: lse+ and lse-, [2, n].  counts: n+ and n-, [2, n], integers or in floating point.
    """

    @property
    def lse(self) -> Tensor: ...
    @property
    def counts(self) -> Tensor: ...
    @property
    def sum_positive(self) -> Tensor: ...


class RowLoss(NamedTuple):
    """L_i, [n], and its partial derivatives with respect to the row's statistics.

    d_lse: to lse+ and lse-, [2, n].  d_sum_positive: [n], None for a head that does not look at
    the sum.
    """

    value: Tensor
    d_lse: Tensor
    d_sum_positive: Tensor | None = None

    def partials(self) -> Tensor:
        """The partial derivatives, [3, n]."""
        of_sum = self.d_sum_positive
        of_sum = torch.zeros_like(self.value) if of_sum is None else of_sum
        return torch.cat([self.d_lse, of_sum.unsqueeze(0)])


class PairLoss(NamedTuple):
    """v(z_ip, lse_i, lse_p) and its partial derivatives, broadcast over the pairs.

    d_reference_lse: None for a head that does not look at it.
    """

    value: Tensor
    d_logit: Tensor
    d_anchor_lse: Tensor
    d_reference_lse: Tensor | None = None


RowForm = Callable[[RowSummary, Tensor], RowLoss]
PairForm = Callable[[Tensor, Tensor, Tensor], PairLoss]


def times(losses: Tensor, factors: Tensor | None) -> Tensor:
    """The losses of rows, [n], times constants [n]; None for 1."""
    return losses if factors is None else losses * factors.to(losses)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)); beyond 40 it is x, also in float64."""
    return torch.nn.functional.softplus(x, threshold=40)


def softplus_sum(row: RowSummary, parameters: Tensor) -> RowLoss:
    """softplus(lse+) / parameters[0] + softplus(lse-) / parameters[1]."""
    lse = row.lse
    scales = parameters.to(lse).unsqueeze(1)
    return RowLoss((softplus(lse) / scales).sum(0), torch.sigmoid(lse) / scales)


def hinge_sum(row: RowSummary, parameters: Tensor) -> RowLoss:
    """relu(lse+ + lse-), an empty set's lse counting 0."""
    lse = row.lse
    is_empty = lse == -math.inf
    inner = lse.masked_fill(is_empty, 0).sum(0)
    is_active = inner > 0
    return RowLoss(torch.relu(inner), (is_active > is_empty).to(inner.dtype))


def _log_add(both: Tensor) -> Tensor:
    """log(e^one + e^other) of [2, ...].

    The second derivative of PyTorch's logaddexp is NaN where one is far above the other.
    """
    if torch.is_grad_enabled() and both.requires_grad:
        return torch.logsumexp(both, 0)
    return torch.logaddexp(*both.unbind())


def _finite(lse: Tensor) -> Tensor:
    """With the least number in place of -inf: (-inf) - (-inf) would be NaN."""
    return lse.clamp(min=torch.finfo(lse.dtype).min)


def _cross_entropy(row: RowSummary, averages: bool) -> RowLoss:
    """LSE over P u N minus sum+, or minus sum+ / n+; 0 for a row without positives."""
    lse = _finite(row.lse)
    num_positive, num_negative = row.counts.unbind()
    # a positive that is its row's only pair has the logarithm of 1, too, however its logit is
    # rounded.  All is finite: 0 switches a row off
    is_active = (num_positive > (num_negative == 0)).to(lse.dtype)
    d_sum = (is_active / num_positive.clamp(min=1) if averages else is_active).neg()
    value = torch.addcmul(_log_add(lse) * is_active, row.sum_positive, d_sum)
    return RowLoss(value, torch.softmax(lse, 0) * is_active, d_sum)


def cross_entropy(row: RowSummary, parameters: Tensor) -> RowLoss:
    """logaddexp(lse+, lse-) - sum+, 0 without positives; usually with one positive per row."""
    return _cross_entropy(row, averages=False)


def mean_cross_entropy(row: RowSummary, parameters: Tensor) -> RowLoss:
    """logaddexp(lse+, lse-) - sum+ / n+, 0 without positives."""
    return _cross_entropy(row, averages=True)


def softplus_gap(logit: Tensor, anchor_lse: Tensor, reference_lse: Tensor) -> PairLoss:
    """softplus(lse-_i - z_ip): -log of the positive's share among itself and the negatives of i."""
    gap = anchor_lse - logit
    share = torch.sigmoid(gap)
    return PairLoss(softplus(gap), -share, share)


def squared_hinge(logit: Tensor, anchor_lse: Tensor, reference_lse: Tensor) -> PairLoss:
    """relu(logaddexp(lse-_i, lse-_p) + z_ip)^2 / 2."""
    # without any negative the hinge is closed
    if anchor_lse.shape != reference_lse.shape:
        anchor_lse, reference_lse = torch.broadcast_tensors(anchor_lse, reference_lse)
    both = _finite(torch.stack([anchor_lse, reference_lse]))
    inner = torch.relu(_log_add(both) + logit)
    of_anchor, of_reference = (torch.softmax(both, 0) * inner).unbind()
    return PairLoss(inner * inner / 2, inner, of_anchor, of_reference)


ROW_FORMS: dict[str, RowForm] = {
    form.__name__: form for form in (softplus_sum, hinge_sum, cross_entropy, mean_cross_entropy)
}


def row_form(form: str | RowForm) -> RowForm:
    """A form of ``ROW_FORMS`` by its name, or the form itself."""
    return ROW_FORMS[form] if isinstance(form, str) else form


PAIR_FORMS: dict[str, PairForm] = {form.__name__: form for form in (softplus_gap, squared_hinge)}
# with one positive to a row: -log of its share among all pairs of the row
CROSS_ENTROPIES = frozenset({"cross_entropy", "mean_cross_entropy", "softplus_gap"})
