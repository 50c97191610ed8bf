"""The mean over a few triplets of listed pairs, in Python: PyTorch's calls would take longer."""

from __future__ import annotations

import math
from collections import defaultdict

from torch import Tensor

from fusedml.engine.averaged import Interval
from fusedml.engine.pairs import PairProblem
from fusedml.engine.precision import is_free_to_read
from fusedml.engine.routes.distinct_pairs import PairIndices
from fusedml.engine.whole import SLOPES
from fusedml.engine.whole_kinds import WholeKinds

# triplets up to which the loop below takes less time than the calls of ``ListedTriplets``
MOST_TRIPLETS = 512
# listed pairs of which these are counted
_MOST_LISTED = 128


def number_of_triplets(indices: PairIndices, joins: bool) -> int | None:
    """How many triplets the list makes; None of a list that is not short, or costs a sync to read.

    joins: of all positives and negatives with the same anchor; else of the k-th of each kind.
    """
    rows, negative_rows = indices.positive_rows, indices.negative_rows
    if indices.lacks_a_kind:
        return 0
    if indices.num_listed > _MOST_LISTED or not is_free_to_read(rows):
        return None
    if not joins:
        return rows.shape[0]
    numbers: dict[int, int] = {}
    for row in negative_rows.tolist():
        numbers[row] = numbers.get(row, 0) + 1
    total = 0
    for row in rows.tolist():
        total += numbers.get(row, 0)
    return total


class FewTriplets(WholeKinds):
    """Output: the mean of max(0, u + margin) in the interval, 0-d, u the difference of two
    hardnesses; 0 of none.

    joins: see ``number_of_triplets``.  The margin and the interval are rounded to the dtype of the
    measures, as PyTorch rounds numbers; what is made of these is in float64.
    """

    def __init__(
        self,
        problem: PairProblem,
        margin: float,
        interval: Interval,
        indices: PairIndices,
        joins: bool,
        keeps: bool,
    ) -> None:
        super().__init__(problem, indices.positive_rows, indices, keeps)  # no logit is learnt
        self.margin, self.interval, self.listed, self.joins = margin, interval, indices, joins
        self.sign = 1.0 if problem.measure == "dot" else -1.0

    def evaluate(self) -> tuple[Tensor] | None:
        if not self.measure_pairs():
            return None
        x, (low, high) = self.listed_numbers(self.listed), self.interval
        given = self.margin, -math.inf if low is None else low, 0.0 if high is None else high
        margin, low, bound = self.as_measures(given)
        above, num_triplets = self._above_zero([self.sign * of_pair for of_pair in x], margin)
        counted = above
        if low > 0 or high is not None:
            counted = [of for of in above if low < of[0] and (high is None or of[0] < bound)]
        number = len(counted)
        if low < 0:  # the others' 0 counts, too
            number += num_triplets - len(above)
        share = 1 / max(number, 1)
        if self.keeps and counted:
            weights, factor = [0.0] * len(x), self.sign * SLOPES[self.measure] * share
            for _, own, other in counted:
                weights[own] -= factor
                weights[other] += factor
            self.weigh_each(weights)
        return (self.x.new_full((), sum(loss for loss, *_ in counted) * share),)

    def _above_zero(
        self, hardness: list[float], margin: float
    ) -> tuple[list[tuple[float, int, int]], int]:
        """(u + margin, positive pair, negative pair) of the triplets with more than 0, the pairs by
        their numbers among all listed ones; and the number of all triplets.
        """
        rows = self.listed.positive_rows.tolist()
        if not self.joins:
            size = len(rows)
            each = [(hardness[size + k] - hardness[k] + margin, k, size + k) for k in range(size)]
            return [of for of in each if of[0] > 0], size
        negatives = defaultdict(list)
        for k, row in enumerate(self.listed.negative_rows.tolist(), len(rows)):
            negatives[row].append((hardness[k], k))
        above, number = [], 0
        for own, row in enumerate(rows):
            if row not in negatives:
                continue
            rest = margin - hardness[own]
            for of_other, k in negatives[row]:
                if of_other + rest > 0:
                    above.append((of_other + rest, own, k))
            number += len(negatives[row])
        return above, number
