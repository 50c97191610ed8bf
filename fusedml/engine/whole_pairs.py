"""Losses of rows and of positive pairs from the exponentials of a list's few pairs.

The steps of ``engine.whole`` and ``engine.marked`` on the listed entries alone, for
``AveragedLosses``: they are read from the matrix of all pairs, or measured one by one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fusedml.engine.marked import lse_of_both_ends
from fusedml.engine.pairs import PairProblem
from fusedml.engine.routes.distinct_pairs import PairIndices
from fusedml.engine.whole import LARGEST_MEASURES, Gradients, Needs
from fusedml.engine.whole_kinds import Kind, WholeKinds
from fusedml.formulas import PairFormula
from fusedml.heads import PAIR_FORMS, RowForm, row_form


class Sums(NamedTuple):
    """Exponentials of pairs, and their sums over lines, rows or columns: [k] and [size].

    largest: of each line's logits, by which its exponentials are divided; None for undivided ones.
    """

    exp: Tensor
    sums: Tensor
    largest: Tensor | None

    def lse(self, shift: float, lines: Tensor | None = None) -> Tensor:
        """log sum e^{z + shift} of all lines, or of some; -inf of none."""
        lse = (self.sums if lines is None else self.sums.index_select(0, lines)).log()
        if self.largest is not None:
            lse += self.largest if lines is None else self.largest.index_select(0, lines)
        return lse.add_(shift) if shift else lse

    def shares(self, of_lse: Tensor, lines: Tensor) -> Tensor:
        """dL/dz of the pairs from dL/dlse, [size], which is overwritten."""
        # lines without pairs have the sum 0, and nobody looks at them
        return of_lse.div_(self.sums).index_select(0, lines).mul_(self.exp)


class ListedExponentials(WholeKinds):
    """The listed pairs by kind, 0 the positives, and the exponentials of their logits."""

    by_kind: list[Kind]

    def __init__(self, problem: PairProblem, logit: Tensor, indices: PairIndices) -> None:
        super().__init__(problem, logit, indices, keeps=True)
        self.listed = indices

    def load(self) -> bool:
        """False of what is not finite."""
        if not self.measure_pairs():
            return False
        self.read_numbers()
        self.is_bounded = self.are_unit and self.bounds(LARGEST_MEASURES[self.measure])
        if not self.is_bounded and self.x.numel():
            low, high = torch.aminmax(self.x)
            self.is_bounded = self.bounds(max(-low.item(), high.item()))
        self.by_kind = self.both_kinds()
        return True

    def logits(self, kind: int) -> Tensor:
        """Those of the kind's pairs, without their shift."""
        x, scale = self.by_kind[kind].x, self.scales[kind]
        z = self._bent(x, kind)
        return z * scale if scale != 1 or z is x else z

    def summed(self, z: Tensor, lines: Tensor, size: int) -> Sums:
        """The exponentials of the logits, summed over their lines."""
        largest = None
        if not self.is_bounded:
            largest = z.new_full((size,), -math.inf).scatter_reduce_(0, lines, z, "amax")
            z = z - largest.index_select(0, lines)
        exp = z.exp()
        return Sums(exp, exp.new_zeros(size).index_add_(0, lines, exp), largest)

    def weigh_logits(self, of_logits: Tensor, kind: int, needs_logit: bool) -> None:
        """Adds what the kind's pairs weigh by dL/dz, which is overwritten."""
        numbers, pairs = self.numbers[kind], self.by_kind[kind]
        if needs_logit:
            if self.logit_grad is None:
                self.logit_grad = self.x.new_zeros(4)
            part = self.curve.number_gradient(of_logits, pairs.x, *numbers)
            self.logit_grad[2 * kind : 2 * kind + 2] = part
        slope = self.curve.slope(pairs.x, *numbers)
        if isinstance(slope, Tensor):
            self.weigh(of_logits.mul_(slope), pairs, 1.0)
        else:
            self.weigh(of_logits, pairs, slope)


class ListedRowLosses(ListedExponentials):
    """Output: L_i, [n], of pairs that are listed once.  It is its own ``RowSummary``."""

    def __init__(
        self,
        problem: PairProblem,
        logit: Tensor,
        head: str | RowForm,
        head_parameters: Tensor,
        indices: PairIndices,
    ) -> None:
        super().__init__(problem, logit, indices)
        self.head, self.head_parameters = head, head_parameters

    def evaluate(self) -> tuple[Tensor] | None:
        if not self.load():
            return None
        self.rows = self.listed.positive_rows, self.listed.negative_rows
        self.z, n = [self.logits(kind) for kind in (0, 1)], self.problem.shape[0]
        self.sums_of = [self.summed(*of, n) for of in zip(self.z, self.rows, strict=True)]
        each = zip(self.sums_of, self.shifts, strict=True)
        self.lse = torch.stack([of_kind.lse(shift) for of_kind, shift in each])
        value, self.of_lse, self.of_sum = row_form(self.head)(self, self.head_parameters)
        return (value,)

    def _over_rows(self, of_kinds: list[Tensor]) -> Tensor:
        sums = self.x.new_zeros(2, self.problem.shape[0])
        for of_kind, rows, numbers in zip(sums.unbind(), self.rows, of_kinds, strict=True):
            of_kind.index_add_(0, rows, numbers)
        return sums

    @property
    def counts(self) -> Tensor:
        """[2, n], in floating point."""
        return self._over_rows([torch.ones_like(z) for z in self.z])

    @property
    def sum_positive(self) -> Tensor:
        z, shift = self.z[0], self.shifts[0]
        sums = z.new_zeros(self.problem.shape[0])
        return sums.index_add_(0, self.rows[0], z + shift if shift else z)

    def gradient(self, grad: Tensor | float, needs: Needs) -> Gradients:
        of_lse = self.of_lse * grad
        for kind, rows in enumerate(self.rows):
            of_logits = self.sums_of[kind].shares(of_lse[kind], rows)
            if kind == 0 and self.of_sum is not None:
                of_logits.add_((self.of_sum * grad).index_select(0, rows))
            self.weigh_logits(of_logits, kind, needs[2])
        return super().gradient(1.0, needs)


class ListedPairLosses(ListedExponentials):
    """Output: the losses of the listed positives, [P], each as often as it is listed.

    of_rows, of_columns: the exponentials of the negatives summed over rows and, of references whose
    log-sum-exps are looked at, over columns.
    """

    def __init__(
        self, problem: PairProblem, logit: Tensor, formula: PairFormula, indices: PairIndices
    ) -> None:
        super().__init__(problem, logit, indices)
        self.formula = formula
        self.of_columns: Sums | None = None

    def evaluate(self) -> tuple[Tensor] | None:
        if not self.load():
            return None
        z, (n, m) = self.logits(1), self.problem.shape
        self.of_rows = self.summed(z, self.listed.negative_rows, n)
        if self.formula.needs_reference_lse and not self.is_self:
            self.of_columns = self.summed(z, self.listed.negative_columns, m)
        z, shift = self.logits(0), self.shifts[0]
        value, self.d_logit, self.d_anchor_lse, self.d_reference_lse = PAIR_FORMS[
            self.formula.form
        ](z + shift if shift else z, *self._lse_of_positives())
        return (value,)

    def _lse_of_positives(self) -> tuple[Tensor, Tensor]:
        rows, columns = self.listed[:2]
        shift = self.shifts[1]
        of_anchors = self.of_rows.lse(shift, rows)
        if not self.formula.needs_reference_lse:
            return of_anchors, of_anchors  # not looked at
        # a listed negative pair (k, p) is a negative of the reference p, too
        both = of_anchors, (self.of_columns or self.of_rows).lse(shift, columns)
        return lse_of_both_ends(*both, self.listed, self.is_self)

    def gradient(self, grad: Tensor | float, needs: Needs) -> Gradients:
        rows, columns, negative_rows, negative_columns = self.listed
        of_lse = torch.zeros_like(self.of_rows.sums).index_add_(0, rows, self.d_anchor_lse * grad)
        of_columns = None
        if self.d_reference_lse is not None:
            of_columns = of_lse
            if self.of_columns is not None:
                of_columns = torch.zeros_like(self.of_columns.sums)
            of_columns.index_add_(0, columns, self.d_reference_lse * grad)
        of_negatives = self.of_rows.shares(of_lse, negative_rows)
        if self.of_columns is not None and of_columns is not None:
            of_negatives.add_(self.of_columns.shares(of_columns, negative_columns))
        self.weigh_logits(self.d_logit * grad, 0, needs[2])
        self.weigh_logits(of_negatives, 1, needs[2])
        return super().gradient(1.0, needs)
