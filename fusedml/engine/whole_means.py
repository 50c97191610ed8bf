"""Means over the pairs of a small problem by label, whose gradient the forward finds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fusedml.curves import AFFINE
from fusedml.engine.pairs import PairProblem
from fusedml.engine.reductions.sums import of_term
from fusedml.engine.whole import SLOPES, Gradients, Needs
from fusedml.engine.whole_measures import WholeMeasures
from fusedml.terms import Term


class WholeMeans(WholeMeasures):
    """Output: sum_k weights[k] mean_k, 0-d, of terms of affine logits; for ``AveragedLosses``.

    mean_k is that of the pairs in the interval of term k, 0 of none; or of all pairs of its kind.
    keeps: whether a gradient is asked for.
    """

    def __init__(
        self,
        problem: PairProblem,
        logit: Tensor,
        terms: Sequence[Term],
        weights: Sequence[float],
        of_all: bool,
        keeps: bool,
    ) -> None:
        super().__init__(problem, logit)
        self.terms, self.shares, self.of_all, self.keeps = terms, weights, of_all, keeps

    def evaluate(self) -> tuple[Tensor, ...] | None:
        if not self.measure_pairs():
            return None
        x, numbers, masks = self.x, self.logit.tolist(), self._masks()
        self.logit_grad = x.new_zeros(2, 2) if self.logit.requires_grad else None
        total, weights = x.new_zeros(()), None
        for term, weight in zip(self.terms, self.shares, strict=True):
            kind = 0 if term.is_positive else 1
            scale, shift = numbers[2 * kind : 2 * kind + 2]
            value, active, slope = of_term(term, AFFINE.logits(x, scale, shift, term.is_positive))
            counted = masks[kind]
            if active is not None and not self.of_all:
                counted = active.mul_(counted)
            number = int(counted.sum().item())  # exact: a small problem has no 2^24 pairs
            factor = weight / max(number, 1)
            total.add_(value.mul_(masks[kind]).sum(), alpha=factor)
            if not self.keeps:
                continue
            if slope is not counted:
                slope.mul_(masks[kind])
            if self.logit_grad is not None:
                moments = torch.stack([torch.linalg.vecdot(slope, x).sum(), slope.sum()])
                self.logit_grad[kind].add_(moments, alpha=factor)
            factor *= scale * SLOPES[self.measure]
            weights = slope.mul_(factor) if weights is None else weights.add_(slope, alpha=factor)
        self.weights_of_pairs = torch.zeros_like(x) if weights is None else weights
        return (total,)

    def gradient(self, grad: Tensor | float, needs: Needs) -> Gradients:
        """grad: 1."""
        logit_grad = None
        if needs[2]:
            assert self.logit_grad is not None
            logit_grad = self.logit_grad.view(4)
        return *self.gradients(self.weights_of_pairs, needs), logit_grad, None
