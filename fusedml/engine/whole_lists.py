"""Losses of listed pairs and triplets, read from the matrix of a small problem.

Each loss is a function of one measure, or of the difference of two, whose slope the forward finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from fusedml.curves import AFFINE
from fusedml.engine.pairs import PairProblem
from fusedml.engine.reductions.entries import numbered
from fusedml.engine.reductions.sums import of_term
from fusedml.engine.routes.distinct_pairs import PairIndices
from fusedml.engine.whole import SLOPES, Gradients, Needs
from fusedml.engine.whole_gathered import GatheredMeasures
from fusedml.engine.whole_values import WholeValues
from fusedml.heads import softplus
from fusedml.terms import Term


class ListedSums(WholeValues):
    """Outputs: F and C, [K, n], of terms of affine logits of the pairs, and the numbers of pairs,
    [2, n], each as often as it is listed.

    parts: which of all pairs each term is of.  factors: dz/dx.  slopes: f'(z), term after term.
    listed_x: the measures, if the numbers of the logit are learnt.
    """

    kept: ClassVar[tuple[str, ...]] = (*WholeValues.kept, "rows", "slopes", "listed_x")
    constants: ClassVar[tuple[str, ...]] = ("kinds_of_terms", "parts", "factors", "shifts_dtype")

    def __init__(
        self,
        problem: PairProblem,
        logit: Tensor,
        terms: Sequence[Term],
        shifts: Tensor | None,
        indices: PairIndices,
    ) -> None:
        rows, _, negative_rows, _ = indices
        super().__init__(problem, logit, *indices.ends().chunk(2))
        self.terms, self.line_shifts, self.rows_of = terms, shifts, (rows, negative_rows)
        self.kinds_of_terms = [0 if term.is_positive else 1 for term in terms]
        self.shifts_dtype = None if shifts is None else shifts.dtype
        ends = rows.shape[0], rows.shape[0] + negative_rows.shape[0]
        parts = slice(0, ends[0]), slice(*ends)
        self.parts = [parts[kind] for kind in self.kinds_of_terms]

    def evaluate(self) -> tuple[Tensor, ...] | None:
        x = self.listed()
        if x is None:
            return None
        n, numbers = self.x.shape[0], self.logit.tolist()
        self.factors = [numbers[2 * kind] for kind in self.kinds_of_terms]
        self.listed_x = x if self.logit.requires_grad else None
        num_pairs = torch.stack([torch.bincount(rows, minlength=n) for rows in self.rows_of])
        sums = x.new_zeros(len(self.terms), n)
        active_pairs = torch.zeros_like(sums)
        of_pairs, without_interval = [], []
        each = zip(self.terms, self.kinds_of_terms, self.parts, strict=True)
        for k, (term, kind, part) in enumerate(each):
            rows = self.rows_of[kind]
            z = _logits(x[part], numbers, kind)
            if self.line_shifts is not None:
                z = z + self.line_shifts[kind].to(z.dtype).index_select(0, rows)
            value, active, slope = of_term(term, z)
            sums[k].index_add_(0, rows, value)
            if active is None:
                without_interval.append(k)
            else:
                active_pairs[k].index_add_(0, rows, active)
            of_pairs.append(slope)
        counts = active_pairs.long()
        for k in without_interval:
            counts[k] = num_pairs[self.kinds_of_terms[k]]
        self.slopes = of_pairs[0] if len(of_pairs) == 1 else torch.cat(of_pairs)
        return sums, counts, num_pairs

    def gradient(self, grad: Tensor, needs: Needs) -> Gradients:
        weights = self.no_weights(grad)
        logit_grad = grad.new_zeros(4) if needs[2] else None
        shifts_grad = None
        if needs[3]:
            shifts_grad = grad.new_zeros(2, self.anchors.rows.shape[0], dtype=self.shifts_dtype)
        slopes = self.slopes.split([part.stop - part.start for part in self.parts])
        for k, (kind, part) in enumerate(zip(self.kinds_of_terms, self.parts, strict=True)):
            rows = self.rows[part]
            of_logits = grad[k].index_select(0, rows).mul_(slopes[k])
            scale = self.factors[k] * SLOPES[self.measure]
            weights.index_add_(0, self.place[part], of_logits, alpha=scale)
            if logit_grad is not None:
                assert self.listed_x is not None
                logit_grad[2 * kind : 2 * kind + 2] += _moments(of_logits, self.listed_x[part])
            if shifts_grad is not None:
                shifts_grad[kind].index_add_(0, rows, of_logits.to(shifts_grad.dtype))
        return *self.led_back(weights, needs), logit_grad, shifts_grad


def _logits(x: Tensor, numbers: Sequence[float], kind: int) -> Tensor:
    """z of the pairs of one kind, 0 the positives, that nobody else has."""
    scale, shift = numbers[2 * kind : 2 * kind + 2]
    return AFFINE.logits(x, scale, shift, kind == 0)


def _moments(of_logits: Tensor, x: Tensor) -> Tensor:
    """The gradients of (scale, shift)."""
    return torch.stack([torch.dot(of_logits, x), of_logits.sum()])


class ListedTriplets(GatheredMeasures):
    """Output: f(u + margin) of each triplet, u the difference of two hardnesses; for means alone.

    margin: 0-d, or None and a constant.  form: "hinge" or "softplus".  positives, negatives: which
    of the listed pairs triplet k is made of; None: the k-th of each kind.
    """

    def __init__(
        self,
        problem: PairProblem,
        margin: Tensor | None,
        constant: float,
        form: str,
        indices: PairIndices,
        positives: Tensor | None,
        negatives: Tensor | None,
    ) -> None:
        super().__init__(problem, indices[0] if margin is None else margin, indices)
        self.margin = constant if margin is None else margin.item()
        self.is_hinge, self.listed = form == "hinge", indices
        self.positives, self.negatives = positives, negatives
        self.sign = 1.0 if problem.measure == "dot" else -1.0

    def evaluate(self) -> tuple[Tensor, ...] | None:
        if not self.measure_pairs():
            return None
        x, (_, m) = self.x.view(-1), self.problem.shape
        rows, columns, negative_rows, negative_columns = self.listed
        if not self.gathers:
            own = numbered(torch.add(columns, rows, alpha=m), self.positives)
            others = torch.add(negative_columns, negative_rows, alpha=m)
            others = numbered(others, self.negatives)
        elif self.positives is None or self.negatives is None:
            own, others = torch.arange(x.shape[0], device=x.device).chunk(2)
        else:
            own, others = self.positives, self.negatives + rows.shape[0]
        self.places = own, others
        x_own, x_others = x.index_select(0, own), x.index_select(0, others)
        u = x_others.sub_(x_own) if self.sign > 0 else x_own.sub_(x_others)
        u.add_(self.margin)
        self.differences = u.clamp_(min=0) if self.is_hinge else u
        return (u if self.is_hinge else softplus(u),)

    def _slopes(self) -> Tensor:
        """f'(u + margin) of each triplet: not asked for where no loss counts."""
        return self.differences.sign() if self.is_hinge else self.differences.sigmoid_()

    def gradient(self, grad: Tensor | float, needs: Needs) -> Gradients:
        slopes, factor = self._slopes(), self.sign * SLOPES[self.measure]
        if isinstance(grad, Tensor):
            slopes = slopes.mul_(grad)
        else:
            factor *= grad
        weights = torch.zeros_like(self.x).view(-1)
        own, others = self.places
        weights.index_add_(0, own, slopes, alpha=-factor)
        weights.index_add_(0, others, slopes, alpha=factor)
        margin_grad = None
        if needs[2]:
            margin_grad = slopes.sum() * (1.0 if isinstance(grad, Tensor) else grad)
        return *self.gradients(weights.view_as(self.x), needs), margin_grad, None
