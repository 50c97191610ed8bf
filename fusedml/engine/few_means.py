"""Means over a few listed pairs, in Python: PyTorch's calls would take longer than the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from fusedml.engine.reductions.sums import is_straight
from fusedml.engine.routes.distinct_pairs import PairIndices
from fusedml.engine.whole import SLOPES
from fusedml.engine.whole_means import Over, WholeMeans
from fusedml.terms import Term

# pairs up to which the loops below take less time than the calls of ``WholeMeans``
MOST_PAIRS = 128


class FewMeans(WholeMeans):
    """``WholeMeans`` of at most MOST_PAIRS listed pairs, whose terms are z in an interval.

    Hyper-parameters and bounds are rounded to the dtype of the measures, as PyTorch rounds numbers,
    so that z is 0 where it is 0 there; what is made of them is in float64.
    """

    @staticmethod
    def serves(
        logit: Tensor, terms: Sequence[Term], over: Over, indices: PairIndices | None
    ) -> bool:
        """Whether the pairs are so few, the terms such ones, and the logit's numbers constants."""
        return (
            indices is not None
            and indices.num_listed <= MOST_PAIRS
            and over != "triplets"
            and not logit.requires_grad
            and all(is_straight(term) and not term.constant for term in terms)
        )

    def mean(self) -> Tensor:
        assert self.indices is not None  # serves
        x, num_positive = self.listed_numbers(self.indices), self.indices.positive_rows.shape[0]
        numbers, found = self.as_measures(self.logit.tolist()), []
        if not all(map(math.isfinite, numbers)):
            return super().mean()
        for term, share in zip(self.terms, self.shares, strict=True):
            scale, shift = numbers[:2] if term.is_positive else numbers[2:]
            of_kind = range(num_positive) if term.is_positive else range(num_positive, len(x))
            z = {k: scale * x[k] + shift for k in of_kind}
            floor, ceiling = self.as_measures([term.floor, term.ceiling])
            counted = _counted(z, floor, ceiling, term.is_closed)
            number = len(z) if self.over == "kind" else len(counted)
            found.append((sum(z[k] for k in counted), number, share, scale, counted))
        together = sum(number for _, number, *_ in found) if self.over == "together" else 0
        total, weights = 0.0, [0.0] * len(x)
        for value, number, share, scale, counted in found:
            factor = share / max(together or number, 1)
            total += value * factor
            for k in counted:
                weights[k] += factor * scale * SLOPES[self.measure]
        if self.keeps and any(counted for *_, counted in found):
            self.weigh_each(weights)
        return self.x.new_full((), total)


def _counted(z: dict[int, float], floor: float, ceiling: float, is_closed: bool) -> list[int]:
    """The pairs whose z is in the interval of a term."""
    if is_closed:
        return [k for k, of_pair in z.items() if floor <= of_pair < ceiling]
    return [k for k, of_pair in z.items() if floor < of_pair < ceiling]
