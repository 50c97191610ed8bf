"""Means over the pairs of a small problem, whose gradient the forward finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fusedml.curves import AFFINE
from fusedml.engine.pairs import PairProblem
from fusedml.engine.reductions.sums import of_term
from fusedml.engine.routes.distinct_pairs import PairIndices
from fusedml.engine.whole_kinds import Kind, WholeKinds
from fusedml.terms import Term

Over = Literal["interval", "kind", "triplets"]
"""Of which pairs a term's mean is: of those in its interval, 0 of none; of all of its kind; or of
those in the interval, each as often as there are triplets with it, and then the mean is that of all
terms together.  A triplet is a positive and a negative pair of one row."""


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
        if not self.measure_pairs():
            return None
        self.given_numbers: list[float] = self.logit.tolist()
        self.logit_grad = self.x.new_zeros(4) if self.logit.requires_grad else None
        kinds = self.both_kinds(by_triplets=self.over == "triplets")
        parts, found, together = [], [], 0.0
        for term, share in zip(self.terms, self.shares, strict=True):
            of_kind = kinds[0 if term.is_positive else 1]
            value, slope, count = self._of_term(term, of_kind)
            if self.over == "triplets":
                together += count
                found.append((term, value, slope, of_kind, share))
            else:
                factor = share / max(count, 1.0)
                parts.append(value.mul_(factor))
                self._weigh_term(term, slope, of_kind, factor)  # while it is in the cache
        for term, value, slope, of_kind, share in found:
            factor = share / max(together, 1.0)
            parts.append(value.mul_(factor))
            self._weigh_term(term, slope, of_kind, factor)
        return (sum(parts[1:], start=parts[0]) if parts else self.x.new_zeros(()),)

    def _of_term(self, term: Term, kind: Kind) -> tuple[Tensor, Tensor, float]:
        """The sum of the values, 0-d, their slopes, and how many pairs count."""
        begin = 0 if term.is_positive else 2
        scale, shift = self.given_numbers[begin : begin + 2]
        z = AFFINE.logits(kind.x, scale, shift, term.is_positive)
        value, active, slope = of_term(term, z)
        counted = None if self.over == "kind" else active
        if kind.weights is not None:
            value.mul_(kind.weights)
            slope.mul_(kind.weights)
            if counted is not None and counted is not slope:
                counted.mul_(kind.weights)
        return value.sum(), slope, kind.number() if counted is None else counted.sum().item()

    def _weigh_term(self, term: Term, slope: Tensor, kind: Kind, factor: float) -> None:
        if not self.keeps:
            return
        begin = 0 if term.is_positive else 2
        if self.logit_grad is not None:
            moments = torch.stack([torch.linalg.vecdot(slope, kind.x).sum(), slope.sum()])
            self.logit_grad[begin : begin + 2].add_(moments, alpha=factor)
        self.weigh(slope, kind, factor * self.given_numbers[begin])
