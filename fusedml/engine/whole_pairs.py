"""Losses of the positives of a list, whose gradient the forward finds: of few pairs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fusedml.engine.pairs import PairProblem
from fusedml.engine.routes.distinct_pairs import PairIndices
from fusedml.engine.whole import LARGEST_MEASURES, Gradients, Needs
from fusedml.engine.whole_kinds import WholeKinds
from fusedml.formulas import PairFormula
from fusedml.heads import PAIR_FORMS


class ListedPairLosses(WholeKinds):
    """Output: the losses of the listed positives, [P], each as often as it is listed; for
    ``AveragedLosses``.

    sums, column_sums: of the exponentials of the negatives of each row and, of references whose
    log-sum-exps are looked at, of each column.
    """

    def __init__(
        self, problem: PairProblem, logit: Tensor, formula: PairFormula, indices: PairIndices
    ) -> None:
        super().__init__(problem, logit, indices, keeps=True)
        self.listed, self.formula = indices, formula
        self.column_sums: Tensor | None = None

    def evaluate(self) -> tuple[Tensor] | None:
        """None of what is not finite, and where exponentials may overflow or underflow."""
        if not self.measure_pairs():
            return None
        self.read_numbers()
        if not (self.are_unit and self.bounds(LARGEST_MEASURES[self.measure])):
            low, high = torch.aminmax(self.x)
            if not self.bounds(max(-low.item(), high.item())):
                return None
        self.positives, self.negatives = self.both_kinds()
        self.exp = self._logits(self.negatives.x, 1).exp_()
        self.sums = self._summed(0)
        if self.formula.needs_reference_lse and not self.is_self:
            self.column_sums = self._summed(1)
        z = self._logits(self.positives.x, 0)
        shift = self.shifts[0]
        value, self.d_logit, self.d_anchor_lse, self.d_reference_lse = PAIR_FORMS[
            self.formula.form
        ](z + shift if shift else z, *self._lse_of_positives())
        return (value,)

    def _logits(self, x: Tensor, kind: int) -> Tensor:
        """Without their shift."""
        z, scale = self.curve.bent(x, *self.numbers[kind]), self.scales[kind]
        return z * scale if scale != 1 or z is x else z

    def _summed(self, side: int) -> Tensor:
        """The exponentials of the negatives of each row, or column."""
        sums = self.exp.new_zeros(self.problem.shape[side])
        return sums.index_add_(0, self.listed[2 + side], self.exp)

    def _lse_of_positives(self) -> tuple[Tensor, Tensor]:
        rows, columns = self.listed[:2]
        of_anchors = self._lse(self.sums, rows)
        if not self.formula.needs_reference_lse:
            return of_anchors, of_anchors  # not looked at
        # as in ``ListedPairs``: the negatives of a pair (i, i) are those of i, once; a listed
        # negative pair (k, p) is a negative of the reference p, too; and
        # pytorch-metric-learning's convention for a pair without negatives in a list that has some
        if self.column_sums is None:
            of_references = self._lse(self.sums, columns)
            of_references.masked_fill_(rows == columns, -math.inf)
        else:
            of_references = self._lse(self.column_sums, columns)
        if self.listed.negative_rows.shape[0] == 0:
            return of_anchors, of_references
        neither = torch.maximum(of_anchors, of_references) == -math.inf
        return of_anchors.masked_fill_(neither, 0), of_references

    def _lse(self, sums: Tensor, lines: Tensor) -> Tensor:
        lse, shift = sums.index_select(0, lines).log_(), self.shifts[1]
        return lse.add_(shift) if shift else lse

    def gradient(self, grad: Tensor | float, needs: Needs) -> Gradients:
        rows, columns, negative_rows, negative_columns = self.listed
        of_lse = torch.zeros_like(self.sums).index_add_(0, rows, self.d_anchor_lse * grad)
        of_columns = None
        if self.d_reference_lse is not None:
            of_columns = of_lse if self.column_sums is None else torch.zeros_like(self.column_sums)
            of_columns.index_add_(0, columns, self.d_reference_lse * grad)
        # of rows and columns with negatives, whose sums are not 0
        of_negatives = of_lse.div_(self.sums).index_select(0, negative_rows)
        if self.column_sums is not None and of_columns is not None:
            of_negatives.add_(of_columns.div_(self.column_sums).index_select(0, negative_columns))
        of_kinds = self.d_logit * grad, of_negatives.mul_(self.exp)
        if needs[2]:
            self.logit_grad = self.x.new_zeros(4)
        for k, (kind, of_logits) in enumerate(
            zip((self.positives, self.negatives), of_kinds, strict=True)
        ):
            numbers = self.numbers[k]
            if self.logit_grad is not None:
                part = self.curve.number_gradient(of_logits, kind.x, *numbers)
                self.logit_grad[2 * k : 2 * k + 2] = part
            slope = self.curve.slope(kind.x, *numbers)
            if isinstance(slope, Tensor):
                self.weigh(of_logits.mul_(slope), kind, 1.0)
            else:
                self.weigh(of_logits, kind, slope)
        return super().gradient(1.0, needs)
