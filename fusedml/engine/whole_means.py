"""Means over the pairs of a small problem, whose gradient the forward finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fusedml.curves import AFFINE
from fusedml.engine.pairs import PairProblem
from fusedml.engine.reductions.sums import of_term
from fusedml.engine.routes.distinct_pairs import PairIndices
from fusedml.engine.whole import SLOPES, Gradients, Needs
from fusedml.engine.whole_measures import WholeMeasures
from fusedml.terms import Term

Over = Literal["interval", "kind", "triplets"]
"""Of which pairs a term's mean is: of those in its interval, 0 of none; of all of its kind; or of
those in the interval, each as often as there are triplets with it, and then the mean is that of all
terms together.  A triplet is a positive and a negative pair of one row."""


class _Pairs(NamedTuple):
    """The measures of pairs of one kind, how often each counts, and where it is in the matrix.

    weights, places: None for once, and for the matrix itself.
    """

    x: Tensor
    weights: Tensor | None
    places: Tensor | None


class WholeMeans(WholeMeasures):
    """Output: sum_k weights[k] mean_k, 0-d, of terms of affine logits; for ``AveragedLosses``.

    indices: the pairs, each as often as it is listed; None for all by label.
    keeps: whether a gradient is asked for.
    """

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
        super().__init__(problem, logit)
        self.terms, self.shares, self.over, self.indices = terms, weights, over, indices
        self.keeps = keeps

    def evaluate(self) -> tuple[Tensor, ...] | None:
        if not self.measure_pairs():
            return None
        x = self.x
        self.given_numbers: list[float] = self.logit.tolist()
        pairs = self._by_label() if self.indices is None else self._listed(self.indices)
        self.of_pairs = None if self.indices is None else torch.zeros_like(x).view(-1)
        self.logit_grad = x.new_zeros(4) if self.logit.requires_grad else None
        total, found, together = x.new_zeros(()), [], 0.0
        for term, share in zip(self.terms, self.shares, strict=True):
            kind = 0 if term.is_positive else 1
            value, slope, count = self._of_term(term, pairs[kind])
            if self.over == "triplets":
                together += count
                found.append((value, slope, pairs[kind], kind, share))
            else:
                factor = share / max(count, 1.0)
                total.add_(value, alpha=factor)
                self._weigh(slope, pairs[kind], kind, factor)  # while it is in the cache
        for value, slope, of_kind, kind, share in found:
            factor = share / max(together, 1.0)
            total.add_(value, alpha=factor)
            self._weigh(slope, of_kind, kind, factor)
        return (total,)

    def _of_term(self, term: Term, pairs: _Pairs) -> tuple[Tensor, Tensor, float]:
        """The sum of the values, 0-d, their slopes, and how many pairs count."""
        kind = 0 if term.is_positive else 1
        scale, shift = self.given_numbers[2 * kind : 2 * kind + 2]
        z = AFFINE.logits(pairs.x, scale, shift, term.is_positive)
        value, active, slope = of_term(term, z)
        counted = None if self.over == "kind" else active
        if pairs.weights is not None:
            value.mul_(pairs.weights)
            slope.mul_(pairs.weights)
            if counted is not slope:
                counted = pairs.weights if counted is None else counted.mul_(pairs.weights)
        count = float(z.numel()) if counted is None else counted.sum().item()
        return value.sum(), slope, count

    def _weigh(self, slope: Tensor, pairs: _Pairs, kind: int, factor: float) -> None:
        """Adds what the values, times the factor, weigh the pairs."""
        if not self.keeps:
            return
        if self.logit_grad is not None:
            moments = torch.stack([torch.linalg.vecdot(slope, pairs.x).sum(), slope.sum()])
            self.logit_grad[2 * kind : 2 * kind + 2].add_(moments, alpha=factor)
        factor *= self.given_numbers[2 * kind] * SLOPES[self.measure]
        if self.of_pairs is None:
            self.of_pairs = slope.mul_(factor)
        elif pairs.places is None:
            self.of_pairs.add_(slope, alpha=factor)
        else:
            self.of_pairs.index_add_(0, pairs.places, slope, alpha=factor)

    def _by_label(self) -> list[_Pairs]:
        masks = self._masks()
        if self.over == "triplets":
            masks.mul_(masks.sum(2).flip(0).unsqueeze(2))
        return [_Pairs(self.x, mask, None) for mask in masks.unbind()]

    def _listed(self, indices: PairIndices) -> list[_Pairs]:
        x, (n, m), pairs = self.x.view(-1), self.x.shape, []
        for kind in (0, 1):
            rows, columns = indices[2 * kind : 2 * kind + 2]
            places = torch.add(columns, rows, alpha=m)
            weights = None
            if self.over == "triplets":
                others = torch.bincount(indices[2 - 2 * kind], minlength=n)
                weights = others.to(x.dtype).index_select(0, rows)
            pairs.append(_Pairs(x.index_select(0, places), weights, places))
        return pairs

    def gradient(self, grad: Tensor | float, needs: Needs) -> Gradients:
        """grad: 1."""
        weights = torch.zeros_like(self.x) if self.of_pairs is None else self.of_pairs
        return *self.gradients(weights.view_as(self.x), needs), self.logit_grad, None
