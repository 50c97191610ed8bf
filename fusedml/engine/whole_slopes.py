"""Sums of small problems with one term of a kind: the slopes of the pairs are kept, not the pairs.

dL/dz of a pair is dL/dF of its line times the slope that the forward has found; so is what the
numbers of the logit and the shifts of lines ask for, added over each line.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fusedml.curves import AFFINE
from fusedml.engine.pairs import PairProblem
from fusedml.engine.reductions.logits import Logits
from fusedml.engine.reductions.sums import Sums
from fusedml.engine.whole import SLOPES, Gradients, Needs
from fusedml.engine.whole_measures import WholeMeasures
from fusedml.engine.whole_sums import MaskedEntries
from fusedml.terms import Term


class _OfKind(MaskedEntries):
    """The pairs of one kind."""

    def __init__(self, x: Tensor, masks: Tensor, kind: bool, memory: dict[int, Tensor]) -> None:
        super().__init__(x, masks)
        self._kind, self._memory = kind, memory

    def kinds(self) -> tuple[bool, ...]:
        return (self._kind,)


class WholeSlopes(WholeMeasures):
    """Outputs: F and C, [K, n], and the numbers of pairs, [2, n].

    pair_slopes: [n, m], f'(z) of each pair, 0 of one without a term.  positive: [n, m], 1 for the
    positives, if there are terms of both kinds.  line_slopes, line_moments: [K, n], the slopes
    added over each line, and times x, if they are asked for.
    """

    kept: ClassVar[tuple[str, ...]] = (
        *("distances", "pair_slopes", "positive"),
        *("line_slopes", "line_moments"),
    )
    constants: ClassVar[tuple[str, ...]] = ("kinds_of_terms", "factors", "shifts_dtype")

    @staticmethod
    def serves(problem: PairProblem, terms: tuple[Term, ...]) -> bool:
        """Whether each kind of pair has at most one term, of affine logits."""
        kinds = [term.is_positive for term in terms]
        return problem.curve == AFFINE.name and 0 < len(kinds) == len(set(kinds))

    def __init__(
        self,
        problem: PairProblem,
        logit: Tensor,
        terms: tuple[Term, ...],
        shifts: Tensor | None,
    ) -> None:
        super().__init__(problem, logit)
        self.terms, self.line_shifts = terms, shifts
        self.kinds_of_terms = [0 if term.is_positive else 1 for term in terms]
        self.shifts_dtype = None if shifts is None else shifts.dtype

    def evaluate(self) -> tuple[Tensor, ...] | None:
        if not self.measure_pairs():
            return None
        x, masks, logits = self.x, self._masks(), Logits(self.logit)
        self.distances = x if self.measure == "euclidean" else None
        self.factors = [
            logits.of(term.is_positive)[0] * SLOPES[self.measure] for term in self.terms
        ]
        shifts = None if self.line_shifts is None else self.line_shifts.to(x.dtype)
        sums = Sums(self.terms, logits, x.shape[0], x, shifts)
        memory: dict[int, Tensor] = {}
        found = []
        for term in self.terms:
            slopes = sums.add(_OfKind(x, masks, term.is_positive, memory), weighs=True)
            assert slopes is not None  # there is a term of that kind
            memory.pop(4)  # where they are
            found.append(slopes)
        numbers = masks.sum(2).long()
        values, line_slopes, counts = sums.end(numbers)
        self._keep(found, line_slopes)
        self.pair_slopes = found[0] if len(found) == 1 else found[0].add_(found[1])
        self.positive = masks[0] if len(found) == 2 else None
        return values, counts, numbers

    def _keep(self, found: list[Tensor], line_slopes: Tensor) -> None:
        """What the gradients of the logit and of the shifts take."""
        self.line_slopes: Tensor | None = None if self.line_shifts is None else line_slopes
        self.line_moments: Tensor | None = None
        if self.logit.requires_grad:
            self.line_moments = torch.stack([torch.linalg.vecdot(s, self.x) for s in found])
            if self.line_slopes is None:
                self.line_slopes = torch.stack([s.sum(1) for s in found])

    def gradient(self, grad: Tensor, needs: Needs) -> Gradients:
        logit_grad = shifts_grad = None
        if needs[2]:
            assert self.line_moments is not None and self.line_slopes is not None
            logit_grad = grad.new_zeros(2, 2)
            numbers = torch.stack([self.line_moments, self.line_slopes])
            logit_grad[self.kinds_of_terms] = torch.linalg.vecdot(numbers, grad).T
            logit_grad = logit_grad.view(4)
        if needs[3]:
            assert self.line_slopes is not None
            shifts_grad = grad.new_zeros(2, grad.shape[1], dtype=self.shifts_dtype)
            shifts_grad[self.kinds_of_terms] = (grad * self.line_slopes).to(shifts_grad.dtype)
        of_lines = [(g * factor).unsqueeze(1) for g, factor in zip(grad, self.factors, strict=True)]
        if self.positive is None:
            weights = self.pair_slopes * of_lines[0]
        else:
            one, other = of_lines if self.kinds_of_terms[0] == 0 else reversed(of_lines)
            # a lerp by 0 or 1 selects exactly
            weights = torch.lerp(other, one, self.positive).mul_(self.pair_slopes)
        if self.distances is not None:
            self.x = self.distances
        return *self.gradients(weights, needs), logit_grad, shifts_grad
