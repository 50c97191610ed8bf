"""Losses of rows and of positive pairs from the exponentials of a list's few pairs.

The steps of ``engine.whole`` and ``engine.marked`` on the listed entries alone, for
``AveragedLosses``: they are read from the matrix of all pairs, or measured one by one.
"""

from __future__ import annotations

import math
from functools import cached_property
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
    """The listed pairs and the exponentials of their logits."""

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
        self.load_listed(self.listed)
        return True

    @cached_property
    def by_kind(self) -> list[Kind]:
        """0 the positives."""
        return self.listed_kinds(self.listed)

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
        rows, negative_rows, n = self.listed[0], self.listed[2], self.problem.shape[0]
        self.lines = torch.cat([rows, negative_rows + n])
        self.z = self._logits_of_both()
        self.over_lines = self.summed(self.z, self.lines, 2 * n)
        self.lse = self.over_lines.lse(0).view(2, n)
        if any(self.shifts):
            self.lse.add_(self.lse.new_tensor(self.shifts).unsqueeze(1))
        value, self.of_lse, self.of_sum = row_form(self.head)(self, self.head_parameters)
        return (value,)

    @property
    def _are_scaled_alike(self) -> bool:
        return self.scales[0] == self.scales[1] and not self.is_bent

    def _logits_of_both(self) -> Tensor:
        if not self._are_scaled_alike:
            return torch.cat([self.logits(0), self.logits(1)])
        x, scale = self.all_listed.x, self.scales[0]
        return x if scale == 1 else x * scale

    @property
    def counts(self) -> Tensor:
        """[2, n], in floating point."""
        counts = torch.zeros_like(self.lse)
        counts.view(-1).index_add_(0, self.lines, torch.ones_like(self.z))
        return counts

    @property
    def sum_positive(self) -> Tensor:
        rows, shift = self.listed.positive_rows, self.shifts[0]
        z = self.z[: rows.shape[0]]
        sums = z.new_zeros(self.problem.shape[0])
        return sums.index_add_(0, rows, z + shift if shift else z)

    def gradient(self, grad: Tensor | float, needs: Needs) -> Gradients:
        rows, negative_rows = self.listed.positive_rows, self.listed.negative_rows
        of_logits = self.over_lines.shares((self.of_lse * grad).reshape(-1), self.lines)
        of_kinds = of_logits.split_with_sizes([rows.shape[0], negative_rows.shape[0]])
        if self.of_sum is not None:
            of_kinds[0].add_((self.of_sum * grad).index_select(0, rows))
        if self._are_scaled_alike and not needs[2]:
            self.weigh(of_logits, self.all_listed, self.scales[0])
        else:
            for kind, of_kind in enumerate(of_kinds):
                self.weigh_logits(of_kind, kind, needs[2])
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
