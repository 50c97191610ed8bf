"""Losses of single pairs or triplets: summed over the rows, or listed, whichever is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fusedml.curves import CURVES
from fusedml.engine.label_sets import are_sets
from fusedml.engine.pairs import PairProblem
from fusedml.engine.positives import SetPositives, num_positives
from fusedml.engine.precision import is_free_to_read
from fusedml.formulas import PairFormula
from fusedml.reducers import RowSums
from fusedml.reducers import mean as mean_of


class ListedLosses(NamedTuple):
    """Losses [num_pairs] of the listed positive pairs (rows[k], columns[k]).

    negatives: None, or the third member of each triplet.
    """

    losses: Tensor
    rows: Tensor
    columns: Tensor
    negatives: Tensor | None = None


class ListedMeasures(NamedTuple):
    """x, [num_pairs], of the listed pairs (rows[k], columns[k])."""

    x: Tensor
    rows: Tensor
    columns: Tensor


class Together(NamedTuple):
    """The sum of the means of several sub-losses, whose number it is.

    mean: as of ``PairLosses``.
    """

    number: int
    mean: Callable[[float | None, float | None], Tensor | None]


@dataclass
class PairLosses:
    """One loss per pair of one kind, per triplet, or one per row.

    rows: computes their sums over each row, without a list; None where they are listed anyway.
    listed: computes all of them, in the order of rows and then columns.
    reduction_type: "pos_pair", "neg_pair", "triplet", or "element" when a row has at most one: its
        columns mean nothing.
    may_repeat: whether a pair can be among them more than once; the sums count each time.
    between: (low, high), None for no bound, -> the sums and numbers of the losses between them;
        None where these take the list.
    divisor: what DivisorReducer divides their sum by; None for a loss that has none.
    mean: (low, high), None for no bound, -> the mean of the losses between them, 0-d, or None where
        that is not known without them.
    quotient: their sum divided by the divisor, 0-d, or None where that is not known without them.
    together: the same of all sub-losses of the call, which share it.
    """

    rows: Callable[[], RowSums] | None
    listed: Callable[[], ListedLosses]
    reduction_type: str = "pos_pair"
    may_repeat: bool = False
    between: Callable[[float | None, float | None], RowSums] | None = None
    divisor: Callable[[], Tensor] | None = None
    mean: Callable[[float | None, float | None], Tensor | None] | None = None
    together: Together | None = None
    quotient: Callable[[], Tensor | None] | None = None

    def mean_between(self, low: float | None, high: float | None) -> Tensor | None:
        """The mean of the losses in an interval, 0-d; None where rows or the list tell it."""
        mean = None if self.mean is None else self.mean(low, high)
        if mean is not None:
            return mean
        is_bounded = low is not None or high is not None
        if self.between is not None and is_bounded:
            return self.between(low, high).mean()
        return None if is_bounded or self.rows is not None else mean_of(self.listed().losses)


def losses_of_rows(
    losses: Callable[[], Tensor],
    mean: Callable[[float | None, float | None], Tensor | None],
) -> PairLosses:
    """One loss per row, [n], where a mean is found without them."""

    def listed() -> ListedLosses:
        found = losses()
        rows = torch.arange(found.shape[0], device=found.device)
        return ListedLosses(found, rows, rows)

    return PairLosses(lambda: RowSums(losses(), None), listed, "element", mean=mean)


def losses_of_positives(
    formula: PairFormula, sign: float, x: Tensor, anchor_lse: Tensor, reference_lse: Tensor
) -> Tensor:
    """v(z_ip, lse_i, lse_p) from the measures x of positive pairs, all [num_pairs]."""
    logit = formula.logit(sign).to(x)
    z = CURVES[formula.curve].logits(x, logit[0], logit[1], True)
    return formula.losses(z, anchor_lse, reference_lse)


def has_negative(problem: PairProblem) -> Tensor | bool:
    """Whether any anchor and reference are not alike; 0-d where reading it costs a sync."""
    if are_sets(problem.anchor_labels):
        return _has_negative_sets(problem)
    row_labels = problem.anchor_labels
    col_labels = row_labels if problem.reference_labels is None else problem.reference_labels
    if row_labels.numel() == 0 or col_labels.numel() == 0:
        return False
    is_free = is_free_to_read(row_labels)
    if is_free and row_labels[0].item() != col_labels[-1].item():
        return True
    differs = (row_labels != col_labels[0]).any()
    if problem.reference_labels is None or (is_free and bool(differs)):
        return bool(differs) if is_free else differs
    others_differ = (col_labels != row_labels[0]).any()
    return bool(others_differ) if is_free else differs | others_differ


def _has_negative_sets(problem: PairProblem) -> Tensor | bool:
    if is_free_to_read(problem.anchor_labels):
        return SetPositives(problem).has_negative()
    n, m = problem.shape
    num_pairs = n * m - (min(n, m) if problem.exclude_diagonal else 0)
    return num_positives(problem).sum() < num_pairs
