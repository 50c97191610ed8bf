"""Sums of terms of small problems: what terms share is found once, and kept for the backward.

Terms of one kind of pair with the same exponent T and the same interval are polynomials of z under
one weight: F_k = sum w p_k(z), w = e^{Tz} in the interval and 0 elsewhere, and

    dL/dz = w sum_k g_k (T p_k(z) + p_k'(z)),

a polynomial of z whose coefficients are numbers of the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from fusedml.engine.pairs import PairProblem
from fusedml.engine.reductions.entries import MatrixSide, Side
from fusedml.engine.reductions.logits import Logits
from fusedml.engine.reductions.sums import counted, counts_all
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
    """Outputs: F and C, [K, n], and the numbers of pairs, [2, n].

    groups: of terms that share a weight.  weights_of_groups: w of each, [n, m].
    z_of_positives, z_of_negatives: [n, m], None without terms.
    """

    kept: ClassVar[tuple[str, ...]] = ("z_of_positives", "z_of_negatives", "x")
    constants: ClassVar[tuple[str, ...]] = ("terms", "groups", "logits", "shifts_dtype")

    def __init__(
        self,
        problem: PairProblem,
        logit: Tensor,
        terms: tuple[Term, ...],
        shifts: Tensor | None,
    ) -> None:
        super().__init__(problem, logit)
        self.terms, self.line_shifts, self.groups = terms, shifts, _grouped(terms)
        self.shifts_dtype = None if shifts is None else shifts.dtype
        self.z_of_positives: Tensor | None = None
        self.z_of_negatives: Tensor | None = None
        self.weights_of_groups: list[Tensor] = []

    def parted(self, needs_logit: bool) -> tuple[WholeMeasures, list[Tensor | None]]:
        bare, tensors = super().parted(needs_logit)
        return bare, [*tensors, *self.weights_of_groups]

    def joined(self, tensors: Sequence[Any]) -> WholeMeasures:
        number = len(tensors) - len(self.groups)
        whole = super().joined(tensors[:number])
        whole.__dict__["weights_of_groups"] = tensors[number:]
        return whole

    def evaluate(self) -> tuple[Tensor, ...] | None:
        if not self.measure_pairs():
            return None
        masks, self.logits = self._masks(), Logits(self.logit, self.problem.curve)
        num_pairs = masks.sum(2)
        sums, counts = ([num_pairs[0]] * len(self.terms) for _ in range(2))
        for like, members in self.groups:
            kind = 0 if like.is_positive else 1
            z = self._logits_of(like.is_positive)
            weights = masks[kind]
            if not counts_all(like):
                weights = counted(like, z, torch.empty_like(z)).mul_(weights)
            number = num_pairs[kind] if counts_all(like) else weights.sum(1)
            total = number
            if like.exponent:
                # the ends of the interval in the place of what is beyond: inf x 0 would be NaN
                inside = z.clamp(min=like.floor, max=like.ceiling)
                weights = inside.mul_(like.exponent).exp_().mul_(weights)
                total = weights.sum(1)
            for member in members:
                sums[member] = _sum(self.terms[member], z, weights, total)
                counts[member] = number
            self.weights_of_groups.append(weights)
        return torch.stack(sums), torch.stack(counts).long(), num_pairs.long()

    def _logits_of(self, is_positive: bool) -> Tensor:
        known = self.z_of_positives if is_positive else self.z_of_negatives
        if known is not None:
            return known
        z = self.logits.logits(self.x, is_positive)
        if self.line_shifts is not None:
            z.add_(self.line_shifts[0 if is_positive else 1].to(z.dtype).unsqueeze(1))
        if is_positive:
            self.z_of_positives = z
        else:
            self.z_of_negatives = z
        return z

    def gradient(self, grad: Tensor, needs: Needs) -> Gradients:
        logit_grad = self.x.new_zeros(4) if needs[2] else None
        shifts_grad = self.x.new_zeros(2, self.x.shape[0]) if needs[3] else None
        weights = None
        for kind, is_positive in enumerate((True, False)):
            of_z = self._of_logits(grad, is_positive)
            if of_z is None:
                continue
            if logit_grad is not None:
                numbers = self.logits.number_gradient(of_z, self.x, is_positive)
                logit_grad[2 * kind : 2 * kind + 2] = numbers
            if shifts_grad is not None:
                shifts_grad[kind] = of_z.sum(1)
            of_x = of_z.mul_(self.logits.slope(self.x, is_positive))
            weights = of_x if weights is None else weights.add_(of_x)
        if weights is None:
            weights = torch.zeros_like(self.x)
        elif self.measure != "dot":
            weights.mul_(SLOPES[self.measure])
        if shifts_grad is not None:
            shifts_grad = shifts_grad.to(self.shifts_dtype)
        return *self.gradients(weights, needs), logit_grad, shifts_grad

    def _of_logits(self, grad: Tensor, is_positive: bool) -> Tensor | None:
        """dL/dz of the pairs of one kind; None without terms."""
        total, z = None, self.z_of_positives if is_positive else self.z_of_negatives
        for (like, members), weights in zip(self.groups, self.weights_of_groups, strict=True):
            if like.is_positive != is_positive:
                continue
            assert z is not None  # of a kind with terms
            of_z = _slope(like, [(self.terms[k], grad[k]) for k in members], z) * weights
            total = of_z if total is None else total.add_(of_z)
        return total


def _grouped(terms: Sequence[Term]) -> list[tuple[Term, list[int]]]:
    """Terms that share a weight, by their numbers, and one that stands for them."""
    groups: dict[Term, list[int]] = {}
    for k, term in enumerate(terms):
        key = term._replace(square=0.0, linear=0.0, constant=0.0)
        groups.setdefault(key, []).append(k)
    return [*groups.items()]


def _sum(term: Term, z: Tensor, weights: Tensor, total: Tensor) -> Tensor:
    """F, [n].  total: of the weights of each row."""
    if term.is_softplus:
        return torch.linalg.vecdot(softplus(z, threshold=40), weights)
    if not (term.square or term.linear):
        return total * term.constant if term.constant != 1 else total
    value = z
    if term.square:
        value = (z * term.square).add_(term.linear).mul_(z)
    elif term.linear != 1:
        value = z * term.linear
    if term.constant:
        value = value + term.constant
    return torch.linalg.vecdot(value, weights)


def _slope(like: Term, of_terms: Sequence[tuple[Term, Tensor]], z: Tensor) -> Tensor:
    """sum_k g_k (T p_k(z) + p_k'(z)), [n, m] or [n, 1].  of_terms: the terms and g, [n]."""
    if like.is_softplus:
        g = of_terms[0][1] if len(of_terms) == 1 else torch.stack([g for _, g in of_terms]).sum(0)
        return torch.sigmoid(z).mul_(g.unsqueeze(1))
    powers: list[Tensor | None] = [None, None, None]
    for term, g in of_terms:
        exponent, square, linear = term.exponent, term.square, term.linear
        factors = (
            exponent * term.constant + linear,
            exponent * linear + 2 * square,
            exponent * square,
        )
        for power, factor in enumerate(factors):
            if factor:
                of_row, known = g * factor if factor != 1 else g, powers[power]
                powers[power] = of_row if known is None else known + of_row
    slope: Tensor | None = None
    for of_rows in reversed(powers):  # Horner's
        slope = None if slope is None else slope * z
        if of_rows is not None:
            spread = of_rows.unsqueeze(1)
            slope = spread if slope is None else slope + spread
    return torch.zeros_like(z[:, :1]) if slope is None else slope
