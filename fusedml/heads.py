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

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fusedml.engine.precision import is_free_to_read


class RowStatistics(NamedTuple):
    """Statistics of each row's positive and negative pairs, all of shape [n].

    The log-sum-exps and the sum are float32 (float64 for float64 embeddings), the counts int64.
    """

    lse_positive: Tensor
    lse_negative: Tensor
    sum_positive: Tensor
    num_positive: Tensor
    num_negative: Tensor


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


class RowLoss(NamedTuple):
    """L_i and its partial derivatives with respect to the row's statistics, all of shape [n].

    d_sum_positive: None for a head that does not look at the sum.
    """

    value: Tensor
    d_lse_positive: Tensor
    d_lse_negative: Tensor
    d_sum_positive: Tensor | None = None

    def partials(self) -> Tensor:
        """The partial derivatives, [3, n]."""
        of_lse = self.d_lse_positive, self.d_lse_negative
        of_sum = self.d_sum_positive
        return torch.stack([*of_lse, torch.zeros_like(of_lse[0]) if of_sum is None else of_sum])


class PairLoss(NamedTuple):
    """v(z_ip, lse_i, lse_p) and its partial derivatives, broadcast over the pairs.

    d_reference_lse: None for a head that does not look at it.
    """

    value: Tensor
    d_logit: Tensor
    d_anchor_lse: Tensor
    d_reference_lse: Tensor | None = None


RowForm = Callable[[Rows, Tensor], RowLoss]
PairForm = Callable[[Tensor, Tensor, Tensor], PairLoss]


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)); beyond 40 it is x, also in float64."""
    return torch.nn.functional.softplus(x, threshold=40)


def softplus_sum(row: Rows, parameters: Tensor) -> RowLoss:
    """softplus(lse+) / parameters[0] + softplus(lse-) / parameters[1]."""
    of_positive, of_negative = parameters.to(row.lse_positive).unbind()
    return RowLoss(
        softplus(row.lse_positive) / of_positive + softplus(row.lse_negative) / of_negative,
        torch.sigmoid(row.lse_positive) / of_positive,
        torch.sigmoid(row.lse_negative) / of_negative,
    )


def hinge_sum(row: Rows, parameters: Tensor) -> RowLoss:
    """relu(lse+ + lse-), an empty set's lse counting 0."""
    if _all_above_0(row.num_positive) and _all_above_0(row.num_negative):
        inner = row.lse_positive + row.lse_negative
        active = (inner > 0).to(inner.dtype)
        return RowLoss(torch.relu(inner), active, active)
    has_positive, has_negative = row.num_positive > 0, row.num_negative > 0
    inner = torch.where(has_positive, row.lse_positive, 0)
    inner = inner + torch.where(has_negative, row.lse_negative, 0)
    active = inner > 0
    return RowLoss(
        torch.relu(inner),
        (active & has_positive).to(inner.dtype),
        (active & has_negative).to(inner.dtype),
    )


def _all_above_0(counts: Tensor) -> bool:
    """Whether all are known to be, which makes for fewer calls."""
    return is_free_to_read(counts) and counts.numel() > 0 and counts.min().item() > 0


def _log_add(one: Tensor, other: Tensor) -> Tensor:
    """log(e^one + e^other).

    The second derivative of PyTorch's logaddexp is NaN where one is far above the other.
    """
    if torch.is_grad_enabled() and (one.requires_grad or other.requires_grad):
        return torch.logsumexp(torch.stack([one, other]), 0)
    return torch.logaddexp(one, other)


def _finite(lse: Tensor) -> Tensor:
    """With the least number in place of -inf: (-inf) - (-inf) would be NaN."""
    return lse.clamp(min=torch.finfo(lse.dtype).min)


def _cross_entropy(row: Rows, averages: bool) -> RowLoss:
    """LSE over P u N minus sum+, or minus sum+ / n+; 0 for a row without positives."""
    count, lse_positive, lse_negative = row.num_positive, row.lse_positive, row.lse_negative
    is_active: Tensor | None = None
    if not _all_above_0(count):
        lse_positive = _finite(lse_positive)
        is_active, count = count.clamp(max=1).to(lse_positive.dtype), count.clamp(min=1)
    lse = _log_add(lse_positive, lse_negative)
    d_sum = torch.full_like(lse, -1) if is_active is None else -is_active
    if averages:
        d_sum = d_sum / count
    shares = torch.exp(lse_positive - lse), torch.exp(lse_negative - lse)
    if is_active is not None:  # all is finite: 0 switches a row off
        lse, shares = lse * is_active, (shares[0] * is_active, shares[1] * is_active)
    return RowLoss(torch.addcmul(lse, row.sum_positive, d_sum), *shares, d_sum)


def cross_entropy(row: Rows, parameters: Tensor) -> RowLoss:
    """logaddexp(lse+, lse-) - sum+, 0 without positives; usually with one positive per row."""
    return _cross_entropy(row, averages=False)


def mean_cross_entropy(row: Rows, parameters: Tensor) -> RowLoss:
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
    anchor_lse = _finite(anchor_lse)
    lse = _log_add(anchor_lse, reference_lse)
    inner = torch.relu(lse + logit)
    return PairLoss(
        inner * inner / 2,
        inner,
        inner * torch.exp(anchor_lse - lse),
        inner * torch.exp(reference_lse - lse),
    )


ROW_FORMS: dict[str, RowForm] = {
    form.__name__: form for form in (softplus_sum, hinge_sum, cross_entropy, mean_cross_entropy)
}
PAIR_FORMS: dict[str, PairForm] = {form.__name__: form for form in (softplus_gap, squared_hinge)}
# with one positive to a row: -log of its share among all pairs of the row
CROSS_ENTROPIES = frozenset({"cross_entropy", "mean_cross_entropy", "softplus_gap"})
