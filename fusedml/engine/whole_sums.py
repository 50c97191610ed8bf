"""Sums of terms of small problems: one matrix of entries, held from the forward to the backward."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fusedml.engine.pairs import PairProblem
from fusedml.engine.reductions.entries import MatrixSide, Side
from fusedml.engine.reductions.logits import Logits
from fusedml.engine.reductions.reduced import pair_weights
from fusedml.engine.reductions.sums import Sums
from fusedml.engine.whole import SLOPES, Gradients, Needs
from fusedml.engine.whole_measures import WholeMeasures
from fusedml.terms import Term


class MaskedEntries:
    """All pairs of a matrix x, [n, m], which feed its rows.

    masks: [2, n, m], 1 for the positives and for the negatives, 0 elsewhere.
    """

    def __init__(self, x: Tensor, masks: Tensor) -> None:
        self.x, self.masks = x, masks
        self.sides: tuple[Side, ...] = (MatrixSide(slice(0, x.shape[0]), 1),)
        self._memory: dict[int, Tensor] = {}

    def kinds(self) -> tuple[bool, ...]:
        return True, False

    def only_(self, values: Tensor, is_positive: bool, otherwise: float = 0.0) -> Tensor:
        mask = self.masks[0 if is_positive else 1]
        return values.masked_fill_(mask == 0, otherwise) if otherwise else values.mul_(mask)

    def scratch(self, number: int) -> Tensor:
        memory = self._memory.get(number)
        if memory is None:
            memory = self._memory[number] = torch.empty_like(self.x)
        return memory


class WholeSums(WholeMeasures):
    """Outputs: F and C, [K, n], and the numbers of pairs, [2, n]."""

    kept: ClassVar[tuple[str, ...]] = ("x", "masks", "slopes", "sum_counts", "line_shifts")
    constants: ClassVar[tuple[str, ...]] = ("terms", "logits")

    def __init__(
        self,
        problem: PairProblem,
        logit: Tensor,
        terms: tuple[Term, ...],
        shifts: Tensor | None,
    ) -> None:
        super().__init__(problem, logit)
        self.terms, self.line_shifts = terms, shifts

    def evaluate(self) -> tuple[Tensor, ...] | None:
        if not self.measure_pairs():
            return None
        self.masks = self._masks()
        self.logits = Logits(self.logit, self.problem.curve)
        reduction = self._reduction()
        reduction.add(MaskedEntries(self.x, self.masks))
        numbers = self.masks.sum(2).long()
        sums, self.slopes, self.sum_counts = reduction.end(numbers)
        return sums, self.sum_counts, numbers

    def _reduction(self) -> Sums:
        shifts = None if self.line_shifts is None else self.line_shifts.to(self.x.dtype)
        return Sums(self.terms, self.logits, self.x.shape[0], self.x, shifts)

    def gradient(self, grad: Tensor, needs: Needs) -> Gradients:
        reduction = self._reduction()
        reduction.begin_backward(grad, self.sum_counts)
        logit_grad = self.x.new_zeros(4) if needs[2] else None

        def add_logit(sums: Tensor, is_positive: bool) -> None:
            assert logit_grad is not None
            begin = 0 if is_positive else 2
            logit_grad[begin : begin + 2] += sums.to(logit_grad)

        entries = MaskedEntries(self.x, self.masks)
        weights = pair_weights(reduction, entries, add_logit if needs[2] else None)
        if weights is None:
            weights = torch.zeros_like(self.x)
        elif self.measure != "dot":
            weights = weights * SLOPES[self.measure]
        shifts_grad = None
        if needs[3] and self.line_shifts is not None:
            shifts_grad = reduction.shifts_gradient(grad, self.slopes).to(self.line_shifts.dtype)
        return *self.gradients(weights, needs), logit_grad, shifts_grad
