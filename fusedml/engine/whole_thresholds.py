"""Triplets and ranks of small problems: of one matrix what the positives of each row make of its
negatives, and dL_i/dy_ij of all pairs for the backward.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from fusedml.engine.pairs import PairProblem, fill_excluded, widest_dtype
from fusedml.engine.positives import positive_pairs
from fusedml.engine.reductions.ranks import RankLosses, Ranks, RankWeights
from fusedml.engine.reductions.threshold_rows import ROWS, ThresholdRows
from fusedml.engine.reductions.thresholds import ABSENT, Window
from fusedml.engine.tiled.triplets import sums_of_rows
from fusedml.engine.whole import SLOPES, Gradients, Needs
from fusedml.engine.whole_measures import WholeMeasures
from fusedml.heads import softplus

# pairs times positives of a row whose steps stay from the values to the slopes: 8 MB in float32
_MOST_STEPS = 1 << 21
# positives times pairs of a row up to which these meet one by one, in fewer calls: 64 KB in float32
_FEW_TRIPLETS = 1 << 14


class WholeThresholds(WholeMeasures):
    """Losses L_i of rows whose negatives meet their positives.

    logit: in its place the operator's numbers.  keeps: whether a backward may follow.
    slopes: [n, m], dL_i/dy_ij.  of_numbers: [numbers, n], dL_i/d(numbers), if they are learnt.
    """

    slopes: Tensor | None
    kept: ClassVar[tuple[str, ...]] = ("distances", "slopes", "of_numbers")
    constants: ClassVar[tuple[str, ...]] = ("unit",)

    def __init__(self, problem: PairProblem, numbers: Tensor, form: str, keeps: bool) -> None:
        super().__init__(problem, numbers)
        self.form, self.keeps = form, keeps
        self.of_numbers: Tensor | None = None

    def load_hardnesses(self, unit: float = 1.0) -> Tensor | None:
        """y of all pairs, divided by the unit, -ABSENT of an excluded one; None as of
        ``measure_pairs``.
        """
        if not self.measure_pairs():
            return None
        x = self.x
        self.unit = unit
        # distances are divided by in the backward
        y = x.mul_(1 / unit) if self.measure == "dot" else x * (-1 / unit)
        self.distances = x if self.measure == "euclidean" else None
        if self.problem.exclude_diagonal:
            fill_excluded(y, self.problem, -ABSENT)
        self.slopes = torch.zeros_like(y) if self.keeps else None
        return y

    def set_rows(self, y: Tensor, rows: Tensor, columns: Tensor) -> None:
        """y: of ``load_hardnesses``.  rows, columns: the positive pairs."""
        n, m = self.problem.shape
        num_pairs: Tensor | int = m - int(self.problem.exclude_diagonal)
        if n > m:  # some rows have no own column
            num_pairs = self.problem.pairs_of_rows()
        self.rows = ThresholdRows(y, rows, columns, num_pairs)

    def load_rows(self, unit: float = 1.0) -> bool:
        """The rows, of hardnesses divided by the unit; False as of ``measure_pairs``."""
        y = self.load_hardnesses(unit)
        if y is not None:
            self.set_rows(y, *positive_pairs(self.problem))
        return y is not None

    def gradient(self, grad: Tensor | float, needs: Needs) -> Gradients:
        """grad: one number for all rows, too."""
        numbers_grad = None
        if needs[2]:
            assert self.of_numbers is not None
            if isinstance(grad, Tensor):
                numbers_grad = torch.mv(self.of_numbers, grad.to(self.of_numbers))
            else:
                numbers_grad = self.of_numbers.sum(1).mul_(grad)
        sign = 1.0 if self.measure == "dot" else -1.0
        factors = grad * (sign * SLOPES[self.measure] / self.unit)
        assert self.slopes is not None
        weights = self.slopes * (factors.unsqueeze(1) if isinstance(factors, Tensor) else factors)
        if self.distances is not None:
            self.x = self.distances
        return *self.gradients(weights, needs), numbers_grad, None


class WholeTriplets(WholeThresholds):
    """Outputs: V and the number of triplets that count, both [n]; see ``engine.tiled.triplets``."""

    def evaluate(self) -> tuple[Tensor, Tensor] | None:
        return self.sums_of_rows() if self.load_rows() else None

    def sums_of_rows(self) -> tuple[Tensor, Tensor]:
        """The outputs, from the rows."""
        rows = self.rows
        sums = sums_of_rows(rows, self.logit, self.form)
        sums.add(rows.y, ROWS, rows.buffer, self.slopes)
        if self.slopes is not None:
            rows.write_(self.slopes, -sums.met())
        if self.logit.requires_grad:
            self.of_numbers = self.logit.new_zeros(4, len(rows.y))
            self.of_numbers[0] = sums.of_margin()
        return sums.sums.to(rows.y.dtype), sums.numbers


class WholeMeanTriplet(WholeTriplets):
    """Output: the mean of the losses of the triplets that count, 0-d; for ``AveragedLosses``."""

    def evaluate(self) -> tuple[Tensor] | None:  # type: ignore[override]
        y = self.load_hardnesses()
        if y is None:
            return None
        rows, columns = positive_pairs(self.problem)
        if len(rows) * y.shape[1] <= _FEW_TRIPLETS:
            total, number = self._sum_of_few(y, rows, columns)
        else:
            self.set_rows(y, rows, columns)
            sums, numbers = self.sums_of_rows()
            total, number = sums.sum(), numbers.sum()
        self.share = 1 / max(number.item(), 1)
        return (total.mul_(self.share),)

    def _sum_of_few(self, y: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """The losses' sum and the number of triplets that count: each positive, a line of its own,
        meets all pairs of its row.
        """
        window, places = Window.of(self.logit), torch.add(columns, rows, alpha=y.shape[1])
        hardness = y.view(-1).index_select(0, places).unsqueeze(1)
        y.view(-1).index_fill_(0, places, -ABSENT)
        u = y.index_select(0, rows).sub_(hardness)
        counts = u > max(window.above, -ABSENT / 2)  # what is no negative never does
        if window.at_least > -math.inf:
            counts.logical_and_(u >= window.at_least)
        if window.below < math.inf:
            counts.logical_and_(u < window.below)
        u.add_(window.margin)
        slopes = counts.to(u.dtype)
        if self.form == "hinge":
            if window.above < -window.margin:
                slopes.mul_(u > 0)
            total = torch.dot(u.view(-1), slopes.view(-1))
        else:
            total = torch.dot(softplus(u).view(-1), slopes.view(-1))
            slopes.mul_(u.sigmoid_())
        if self.slopes is not None:
            of_positives = slopes.sum(1)
            self.slopes.index_add_(0, rows, slopes)
            self.slopes.view(-1).index_add_(0, places, of_positives, alpha=-1)
            if self.logit.requires_grad:
                self.of_numbers = self.logit.new_zeros(4, 1)
                self.of_numbers[0] = of_positives.sum()
        return total, counts.sum()

    def gradient(self, grad: Tensor | float, needs: Needs) -> Gradients:
        """grad: of the mean."""
        return super().gradient(grad * self.share, needs)


class WholeRanks(WholeThresholds):
    """Output: L, [n]; see ``engine.tiled.ranks``."""

    def evaluate(self) -> tuple[Tensor] | None:
        if not self.load_rows(self.logit[0].item()):
            return None
        rows, slopes = self.rows, self.slopes
        keeps_steps = self.keeps and rows.y.numel() * rows.t.shape[1] <= _MOST_STEPS
        ranks = Ranks(rows.t, widest_dtype(rows.y.device), keeps_steps)
        ranks.add(rows.y, ROWS, rows.buffer)
        found = ranks.sums.T.to(rows.t.dtype)
        losses = RankLosses(rows.t, found, self.logit, self.form, rows.is_full)
        if slopes is not None:
            if self.logit.requires_grad:
                ranks.moments = torch.zeros_like(ranks.t)
            lines = RankWeights(ranks, losses, None)
            ranks.weigh(rows.y, ROWS, lines.g, slopes, rows.buffer)
            rows.write_(slopes, lines.of_thresholds())
            if self.logit.requires_grad:
                self.of_numbers = lines.of_numbers(self.logit)
        return (losses.values(),)
