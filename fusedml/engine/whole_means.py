"""Means over the pairs of a small problem, whose gradient the forward finds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fusedml.curves import AFFINE
from fusedml.engine.pairs import PairProblem
from fusedml.engine.precision import ONES
from fusedml.engine.reductions.sums import counted, counts_all, is_straight, of_term
from fusedml.engine.routes.distinct_pairs import PairIndices
from fusedml.engine.whole_kinds import Kind, WholeKinds
from fusedml.terms import Term

Over = Literal["interval", "kind", "together", "triplets"]
"""Of which pairs a term's mean is: of those in its interval, 0 of none; of all of its kind; or of
those in the intervals of all terms together, and then the mean is that of them all; or of these,
each as often as there are triplets with it: a positive and a negative pair of one row."""

# of up to so many numbers a dot product is as exact as a sum
_FEW = 1 << 14
# of up to so many a call costs more than what PyTorch computes one by one
_FEWEST = 1 << 10


class WholeMeans(WholeKinds):
    """Output: sum_k weights[k] mean_k, 0-d, of terms of affine logits."""

    def __init__(
        self,
        problem: PairProblem,
        logit: Tensor,
        terms: Sequence[Term],
        weights: Sequence[float],
        over: Over,
        indices: PairIndices | None,
        keeps: bool,
    ) -> None:
        super().__init__(problem, logit, indices, keeps)
        self.terms, self.shares, self.over = terms, weights, over

    def evaluate(self) -> tuple[Tensor, ...] | None:
        return (self.mean(),) if self.measure_pairs() else None

    def mean(self) -> Tensor:
        """The output, of the measures."""
        self.given_numbers: list[float] = self.logit.tolist()
        self.logit_grad = self.x.new_zeros(4) if self.logit.requires_grad else None
        kinds = self.both_kinds(by_triplets=self.over == "triplets")
        total, found, together = 0.0, [], 0.0
        for term, share in zip(self.terms, self.shares, strict=True):
            of_kind = kinds[0 if term.is_positive else 1]
            value, slope, count = self._of_term(term, of_kind)
            if self.over in ("together", "triplets"):
                together += count
                found.append((term, value, slope, of_kind, share))
            else:
                factor = share / max(count, 1.0)
                total += value * factor
                if count:
                    self._weigh_term(term, slope, of_kind, factor)  # while it is in the cache
        for term, value, slope, of_kind, share in found:
            factor = share / max(together, 1.0)
            total += value * factor
            if together:
                self._weigh_term(term, slope, of_kind, factor)
        return self.x.new_full((), total)

    def _of_term(self, term: Term, kind: Kind) -> tuple[float, Tensor, float]:
        """The sum of the values, their slopes, and how many pairs count."""
        begin = 0 if term.is_positive else 2
        scale, shift = self.given_numbers[begin : begin + 2]
        z = AFFINE.logits(kind.x, scale, shift, term.is_positive)
        value, active, slope = _of_few(term, z, kind) or _of_term(term, z, kind)
        if self.over == "kind" or active is None:
            return value, slope, kind.number()
        return value, slope, active.sum().item()

    def _weigh_term(self, term: Term, slope: Tensor, kind: Kind, factor: float) -> None:
        if not self.keeps:
            return
        begin = 0 if term.is_positive else 2
        if self.logit_grad is not None:
            moments = torch.stack([torch.linalg.vecdot(slope, kind.x).sum(), slope.sum()])
            self.logit_grad[begin : begin + 2].add_(moments, alpha=factor)
        self.weigh(slope, kind, factor * self.given_numbers[begin])


def _of_term(term: Term, z: Tensor, kind: Kind) -> tuple[float, Tensor | None, Tensor]:
    """The sum of f(z); which pairs are in the interval, as often as they count, None for all; and
    the slopes, as often.
    """
    values, active, slope = of_term(term, z)
    if kind.weights is not None:
        values.mul_(kind.weights)
        slope.mul_(kind.weights)
        if active is not None and active is not slope:
            active.mul_(kind.weights)
    return values.sum().item(), active, slope


def _of_few(term: Term, z: Tensor, kind: Kind) -> tuple[float, Tensor, Tensor] | None:
    """The same in fewer calls, where z are few and f is z in an interval; else None."""
    if z.numel() > _FEW or term.constant or not is_straight(term) or counts_all(term):
        return None
    if z.numel() > _FEWEST or term.floor or term.ceiling != math.inf:
        active = counted(term, z, torch.empty_like(z))
    else:
        active = torch.heaviside(z, ONES[z.dtype] if term.is_closed else z)
    if kind.weights is not None:
        active.mul_(kind.weights)
    value = (torch.dot(active, z) if z.ndim == 1 else torch.dot(active.view(-1), z.view(-1))).item()
    return None if math.isnan(value) else (value, active, active)  # NaN: 0 times inf
