"""An explicit index tuple: statistics of the listed pairs by segment sums over rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fusedml.curves import CURVES
from fusedml.engine import autograd
from fusedml.engine.averaged import Interval
from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.precision import is_free_to_read
from fusedml.engine.reductions.entries import GivenEntries, add_at
from fusedml.engine.reductions.given import Given
from fusedml.engine.reductions.mined import mined
from fusedml.engine.routes.distinct_pairs import (
    PairIndices,
    are_distinct,
    distinct_pairs,
    first_listed,
    mark_pairs,
)
from fusedml.engine.routes.pair_losses import (
    ListedLosses,
    ListedMeasures,
    PairLosses,
    losses_of_positives,
)
from fusedml.formulas import Formula, Hyperparameter, PairFormula, RowFormula, SumFormula
from fusedml.heads import PairSums, RowStatistics
from fusedml.reducers import zero_loss


class Matrices(Protocol):
    """Losses of pairs computed on matrices; None where they take the list.

    are_finite: whether all embeddings are known to be.
    """

    are_finite: bool

    def reads_matrix(self, indices: PairIndices) -> bool:
        """Whether the matrix is held, and less work than the list."""

    def marks_dtype(self) -> torch.dtype:
        """In which pairs are marked."""

    def marked_losses(
        self,
        marks: Tensor,
        formula: RowFormula,
        epsilon: Hyperparameter | None,
        interval: Interval | None = None,
    ) -> Tensor | None:
        """L_i, [n], of marked pairs, [2, n, m]; or the mean of those in an interval, 0-d."""

    def counted_losses(
        self, formula: PairFormula, indices: PairIndices, interval: Interval | None = None
    ) -> Tensor | None:
        """The losses of the listed positives, as often as they are listed; or a mean, 0-d."""

    def listed_row_loss(
        self, formula: RowFormula, indices: PairIndices, interval: Interval
    ) -> Tensor | None:
        """The mean of the L_i in an interval, 0-d, of pairs that are listed once."""

    def problem(self, curve: str, indices: PairIndices | None = None) -> PairProblem:
        """All pairs, without labels.  indices: those that the operator measures, if not all."""


def count(segments: Tensor, num_segments: int, mask: Tensor | None = None) -> Tensor:
    """How often each number below num_segments occurs where the mask is: bincount, of that length.

    mask: bool, None for everywhere.
    """
    if mask is None and is_free_to_read(segments):
        return torch.bincount(segments, minlength=num_segments)
    ones = torch.ones_like(segments) if mask is None else mask.to(segments.dtype)
    return add_at(ones.new_zeros(num_segments), segments, ones)


def numbers_of(logit: Tensor) -> list[Hyperparameter]:
    """The four numbers of a logit: floats, or 0-d tensors where they are learnt."""
    is_learnt = logit.requires_grad or not is_free_to_read(logit)
    numbers: list[Hyperparameter] = [*logit.unbind()] if is_learnt else logit.tolist()
    return numbers


class _Kept(NamedTuple):
    """Which of the listed pairs count, bool [num_pairs]; None for all."""

    positive: Tensor | None = None
    negative: Tensor | None = None


_ALL = _Kept()


class ListedPairs:
    """The pairs of an index tuple, in memory proportional to the list.

    measures: (rows, columns) -> x [num_pairs], differentiable.
    anchors: [n, d].  references: [m, d], or None when they are the anchors.
    kept: which of the pairs count in the statistics of the rows.
    matrices: computes losses on matrices, where these may be held.
    """

    def __init__(
        self,
        indices: PairIndices,
        measures: Callable[[Tensor, Tensor], Tensor],
        anchors: Tensor,
        references: Tensor | None,
        sign: float,
        kept: _Kept = _ALL,
        matrices: Matrices | None = None,
    ) -> None:
        self.indices = indices
        self.size = indices.size(anchors, references)
        self.kept = kept
        self.anchors = anchors
        self.references = references
        self.sign = sign
        self._measures = measures
        self._x: dict[bool, Tensor] = {}
        self._matrices = matrices
        others = anchors if references is None else references
        self.shape = anchors.shape[0], others.shape[0]

    def poisoned(self, x: Tensor) -> Tensor:
        """x, or NaN if any embedding is NaN or inf, listed or not."""
        if self._matrices is not None and self._matrices.are_finite:
            return x
        return x + self.poison()

    def poison(self) -> Tensor:
        """0, or NaN if any embedding is NaN or inf, listed or not."""
        return self.zero().detach()

    def zero(self) -> Tensor:
        """The same, connected to the graph."""
        zero = zero_loss(self.anchors, self.references)
        return zero.to(accumulation_dtype(self.anchors.dtype))

    def distinct(self) -> ListedPairs | DistinctPairs:
        """The same pairs, each once.

        Raises PairConflictError if a pair is listed both as positive and as negative; in a compiled
        graph, where the list keeps its length, such a pair is both.
        """
        if torch.compiler.is_compiling():
            kept = _Kept(
                first_listed(self.indices[:2], self.shape[1]),
                first_listed(self.indices[2:], self.shape[1]),
            )
            return ListedPairs(
                self.indices, self._measures, self.anchors, self.references, self.sign, kept
            )
        if self._matrices is not None and (self.size.is_dense or self.size.is_gathered):
            return DistinctPairs(self, self._matrices)
        return self.distinct_list()

    def distinct_list(self) -> ListedPairs:
        """``distinct`` as a list that holds each pair once."""
        indices = distinct_pairs(self.indices, *self.shape)
        return ListedPairs(indices, self._measures, self.anchors, self.references, self.sign)

    def both_measures(self) -> tuple[Tensor, Tensor]:
        """x of the listed positives and of the listed negatives: measured once."""
        return self._measured(True), self._measured(False)

    def _measured(self, is_positive: bool) -> Tensor:
        """x of the pairs of one kind."""
        if is_positive not in self._x:
            rows, columns, negative_rows, negative_columns = self.indices
            if self.size.is_short or (self._matrices is not None and self.size.fills_matrix):
                both = torch.cat([rows, negative_rows]), torch.cat([columns, negative_columns])
                x = self._measures(*both)
                sizes = [rows.shape[0], negative_rows.shape[0]]
                self._x[True], self._x[False] = torch.split_with_sizes(x, sizes)
            elif is_positive:  # each list may be in the order of its rows
                self._x[True] = self._measures(rows, columns)
            else:
                self._x[False] = self._measures(negative_rows, negative_columns)
        return self._x[is_positive]

    def _statistics(
        self, formula: Formula, x_positive: Tensor, x_negative: Tensor, kept: _Kept
    ) -> RowStatistics:
        positive = autograd.entry_statistics(self._given(formula, x_positive, True, kept.positive))
        negative = autograd.entry_statistics(self._given(formula, x_negative, False, kept.negative))
        return positive._replace(
            lse_negative=negative.lse_negative, num_negative=negative.num_negative
        )

    def _given(
        self, formula: Formula | SumFormula, x: Tensor, is_positive: bool, kept: Tensor | None
    ) -> Given:
        """The listed pairs of one kind, which feed their rows."""
        logit, curve = formula.logit(self.sign), formula.curve
        rows = self.indices[0 if is_positive else 2]
        masks = (kept, None) if is_positive else (None, kept)
        kinds = [is_positive, not is_positive]
        return Given(x, kinds, masks[0], masks[1], rows, self.shape[0], logit, curve)

    def row_statistics(self, formula: Formula) -> RowStatistics:
        return self._statistics(formula, *self.both_measures(), self.kept)

    def row_losses(self, formula: RowFormula, epsilon: Hyperparameter | None = None) -> Tensor:
        x_positive, x_negative = self.both_measures()
        kept = self.kept
        if epsilon is not None:
            kept = self._mined(x_positive, x_negative, epsilon)
        rows = self._statistics(formula, x_positive, x_negative, kept)
        return self.poisoned(formula.losses(rows))

    def _mined(self, x_positive: Tensor, x_negative: Tensor, epsilon: Hyperparameter) -> _Kept:
        """Which listed pairs the Multi-Similarity rule keeps, judged among the listed ones."""
        y_positive, y_negative = self.sign * x_positive.detach(), self.sign * x_negative.detach()
        rows, negative_rows, n = self.indices[0], self.indices[2], self.shape[0]
        positives = GivenEntries(y_positive, [True, False], (self.kept.positive, None), rows, n)
        negatives = GivenEntries(
            y_negative, [False, True], (None, self.kept.negative), negative_rows, n
        )
        return _Kept(*mined(positives, negatives, epsilon))

    def pair_losses(self, formula: PairFormula) -> PairLosses:
        rows, columns = self.indices[:2]

        def listed() -> ListedLosses:
            losses = self._on_matrices(formula)  # where all embeddings are finite
            return ListedLosses(self._losses(formula) if losses is None else losses, rows, columns)

        def mean(low: float | None, high: float | None) -> Tensor | None:
            return self._on_matrices(formula, (low, high))

        return PairLosses(None, listed, mean=mean)

    def _on_matrices(self, formula: PairFormula, interval: Interval | None = None) -> Tensor | None:
        """The losses of the listed positive pairs, or their mean; None where they take the list."""
        if self._matrices is None or 0 in self.shape:
            return None
        losses = self._matrices.counted_losses(formula, self.indices, interval)
        if losses is None:
            self._matrices = None  # it is not asked again
        return losses

    def pair_sums(self, formula: SumFormula) -> PairSums:
        """Of the listed pairs, each as often as it is listed."""
        if self.size.may_be_held and is_free_to_read(self.anchors):
            return self._ordinary_sums(formula)
        measures = zip(self.both_measures(), (True, False), self.kept, strict=True)
        parts = [
            autograd.entry_sums(self._given(formula, *one), formula.terms, formula.shifts)
            for one in measures
        ]
        both = PairSums._make(torch.stack(of).sum(0) for of in zip(*parts, strict=True))
        return both._replace(sums=self.poisoned(both.sums))

    def _ordinary_sums(self, formula: SumFormula) -> PairSums:
        """The same in ordinary PyTorch, in less time and more memory than the operators take."""
        n, measures, curve = self.shape[0], self.both_measures(), CURVES[formula.curve]
        lines = self.indices.positive_rows, self.indices.negative_rows
        numbers = numbers_of(formula.logit(self.sign))
        sums, counts = [], []
        for term in formula.terms:
            side = 0 if term.is_positive else 1
            x, rows = measures[side], lines[side]
            scale, shift = numbers[2 * side : 2 * side + 2]
            z = curve.logits(x, scale, shift, term.is_positive)
            if formula.shifts is not None:
                z = z + formula.shifts[side].to(z).index_select(0, rows)
            sums.append(add_at(x.new_zeros(n), rows, term.values(z)))
            counts.append(count(rows, n, term.counts(z.detach())))
        of_rows = (count(rows, n) for rows in lines)
        return PairSums(self.poisoned(torch.stack(sums)), torch.stack(counts), *of_rows)

    def measures_of(self, is_positive: bool) -> ListedMeasures:
        rows, columns = self.indices[:2] if is_positive else self.indices[2:]
        return ListedMeasures(self.poisoned(self._measured(is_positive)), rows, columns)

    def _losses(self, formula: PairFormula) -> Tensor:
        """The losses of the listed positive pairs, by the list."""
        x_positive, x_negative = self.both_measures()
        anchor_lse, reference_lse = self._lse_of_positives(formula, x_negative)
        losses = losses_of_positives(formula, self.sign, x_positive, anchor_lse, reference_lse)
        return self.poisoned(losses)

    def _lse_of_positives(self, formula: PairFormula, x_negative: Tensor) -> tuple[Tensor, Tensor]:
        """lse over the listed negatives of i and of p, for each listed positive pair (i, p)."""
        n, m = self.shape
        i, j = self.indices[:2]

        def lse_of(lines: Tensor, size: int) -> Tensor:
            given = self._given(formula, x_negative, False, None)
            given = given._replace(lines=lines, num_lines=size)
            return autograd.entry_statistics(given).lse_negative

        lse = lse_of(self.indices.negative_rows, n)
        anchor_lse = lse[i]
        if not formula.needs_reference_lse:
            return anchor_lse, torch.zeros_like(anchor_lse)
        if self.references is None:
            # the negatives of a pair (i, i) are those of i, once
            reference_lse = torch.where(i == j, -math.inf, lse[j])
        else:
            # a listed negative pair (k, p) is a negative of the reference p, too
            reference_lse = lse_of(self.indices.negative_columns, m)[j]
        if self.indices.negative_rows.shape[0] == 0:
            return anchor_lse, reference_lse
        # pytorch-metric-learning's convention for a pair without negatives in a list that has some
        neither = torch.isneginf(anchor_lse) & torch.isneginf(reference_lse)
        return torch.where(neither, 0, anchor_lse), reference_lse

    def has_negative(self) -> bool:
        return self.indices.negative_rows.shape[0] > 0


class DistinctPairs:
    """Distinct pairs of an index tuple: row losses of the entries, or of blocks of the matrix.

    Anything else is computed from the list.
    """

    def __init__(self, listed: ListedPairs, matrices: Matrices) -> None:
        self._listed = listed
        self._matrices = matrices
        self._known_marks: Tensor | None = None

    @property
    def _marks(self) -> Tensor | None:
        """Which pairs are listed, [2, n, m]; None where the list is less work than the matrix."""
        listed = self._listed
        if self._known_marks is None and listed.size.is_dense:
            dtype = self._matrices.marks_dtype()
            self._known_marks = mark_pairs(listed.indices, *listed.shape, dtype)
        return self._known_marks

    def row_losses(self, formula: RowFormula, epsilon: Hyperparameter | None = None) -> Tensor:
        losses, marks = None, self._marks
        if marks is not None:
            losses = self._matrices.marked_losses(marks, formula, epsilon)
        if losses is None:
            return self._listed.distinct_list().row_losses(formula, epsilon)
        return losses  # all embeddings are finite

    def mean_row_loss(
        self, formula: RowFormula, epsilon: Hyperparameter | None, interval: Interval
    ) -> Tensor | None:
        """The mean of the row losses in the interval, 0-d; None where they are to be made first."""
        listed = self._listed
        if (
            epsilon is None
            and listed.size.is_sparse
            and are_distinct(listed.indices, *listed.shape)
        ):
            mean = self._matrices.listed_row_loss(formula, listed.indices, interval)
            if mean is not None:
                return mean
        marks = self._marks
        if marks is None:
            return None
        return self._matrices.marked_losses(marks, formula, epsilon, interval)

    def row_statistics(self, formula: Formula) -> RowStatistics:
        return self._listed.distinct_list().row_statistics(formula)

    def pair_losses(self, formula: PairFormula) -> PairLosses:
        return self._listed.distinct_list().pair_losses(formula)

    def pair_sums(self, formula: SumFormula) -> PairSums:
        return self._listed.distinct_list().pair_sums(formula)

    def measures_of(self, is_positive: bool) -> ListedMeasures:
        return self._listed.distinct_list().measures_of(is_positive)

    def has_negative(self) -> bool:
        return self._listed.has_negative()
