"""Means over the pairs of a small problem whose logits are measured from their own mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fusedml.curves import AFFINE
from fusedml.engine.pairs import PairProblem
from fusedml.engine.reductions.sums import slopes
from fusedml.engine.whole import SLOPES, Gradients, Needs
from fusedml.engine.whole_measures import WholeMeasures
from fusedml.terms import Term


class WholeCentredMeans(WholeMeasures):
    """Output: sum_k mean f_k(z), 0-d, over all pairs of the term's kind; for ``AveragedLosses``.

    z = scale (x - share mean x), the mean over all pairs of the kind, too.  logit: the scales of
    positives and negatives, [2].  shares: theirs.  keeps: whether a gradient is asked for.
    """

    def __init__(
        self,
        problem: PairProblem,
        logit: Tensor,
        terms: Sequence[Term],
        shares: Sequence[float],
        keeps: bool,
    ) -> None:
        super().__init__(problem, logit)
        self.terms, self.shares, self.keeps = terms, shares, keeps

    def evaluate(self) -> tuple[Tensor, ...] | None:
        if not self.measure_pairs():
            return None
        x, scales, masks = self.x, self.logit.tolist(), self._masks()
        total, weights = x.new_zeros(()), None
        # exact: a small problem has no 2^24 pairs
        numbers = [max(number, 1.0) for number in masks.sum((1, 2)).tolist()]
        for term in self.terms:
            kind = 0 if term.is_positive else 1
            mask, number, scale = masks[kind], numbers[kind], scales[kind]
            share = self.shares[kind] / number
            centre = share * torch.dot(x.view(-1), mask.view(-1)).item()
            z = AFFINE.logits(x, scale, -scale * centre, term.is_positive)
            total.add_(torch.dot(term.values(z).view(-1), mask.view(-1)), alpha=1 / number)
            if not self.keeps:
                continue
            slope = slopes(term, z, torch.empty_like(z), torch.empty_like(z)).mul_(mask)
            slope.add_(mask, alpha=-share * slope.sum().item())
            factor = scale * SLOPES[self.measure] / number
            weights = slope.mul_(factor) if weights is None else weights.add_(slope, alpha=factor)
        self.weights_of_pairs = torch.zeros_like(x) if weights is None else weights
        return (total,)

    def gradient(self, grad: Tensor | float, needs: Needs) -> Gradients:
        """grad: 1."""
        return *self.gradients(self.weights_of_pairs, needs), None, None
