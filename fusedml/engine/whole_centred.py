"""Means over the pairs of a small problem whose logits are measured from their own mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fusedml.curves import AFFINE
from fusedml.engine.pairs import PairProblem
from fusedml.engine.reductions.sums import slopes
from fusedml.engine.routes.distinct_pairs import PairIndices
from fusedml.engine.whole_kinds import WholeKinds
from fusedml.terms import Term


class WholeCentredMeans(WholeKinds):
    """Output: sum_k mean f_k(z), 0-d, over all pairs of the term's kind.

    z = scale (x - share mean x), the mean over all pairs of the kind, too.  logit: the scales of
    positives and negatives, [2].  shares: theirs.
    """

    def __init__(
        self,
        problem: PairProblem,
        logit: Tensor,
        terms: Sequence[Term],
        shares: Sequence[float],
        indices: PairIndices | None,
        keeps: bool,
    ) -> None:
        super().__init__(problem, logit, indices, keeps)
        self.terms, self.shares = terms, shares

    def evaluate(self) -> tuple[Tensor, ...] | None:
        if not self.measure_pairs():
            return None
        scales, kinds, total = self.logit.tolist(), self.both_kinds(), self.x.new_zeros(())
        # exact: a small problem has no 2^24 pairs
        numbers = [max(kind.number(), 1.0) for kind in kinds]
        for term in self.terms:
            k = 0 if term.is_positive else 1
            kind, number, scale = kinds[k], numbers[k], scales[k]
            share = self.shares[k] / number
            centre = share * kind.total(kind.x).item()
            z = AFFINE.logits(kind.x, scale, -scale * centre, term.is_positive)
            total.add_(kind.total(term.values(z)), alpha=1 / number)
            if not self.keeps:
                continue
            slope = slopes(term, z, torch.empty_like(z), torch.empty_like(z))
            if kind.weights is None:
                slope.sub_(share * slope.sum().item())
            else:
                slope.mul_(kind.weights)
                slope.add_(kind.weights, alpha=-share * slope.sum().item())
            self.weigh(slope, kind, scale / number)
        return (total,)
