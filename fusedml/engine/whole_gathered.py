"""Measures of few listed pairs, one by one: a matrix of all would be more work."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.precision import are_finite, plain_norms
from fusedml.engine.routes.distinct_pairs import PairIndices
from fusedml.engine.whole import Needs, Side, inf_if_0
from fusedml.engine.whole_measures import WholeMeasures

# elements: up to so many are copied in less time than a call takes
_FEW_COPIED = 1 << 16
# up to so many are added one after the other in less time than index_add_ takes to share them out
_FEW_ROWS = 1 << 6


class GatheredMeasures(WholeMeasures):
    """The measures of all pairs; or with ``gathers`` x of listed ones, [num_listed], positives
    first, whose gradient is asked for at once.

    ends: the rows of the pairs, and then their columns.  copies: the rows at both ends, [2
    num_listed, d], or of distances their differences, [num_listed, d].  both: those at each end.
    norms: of the rows at both ends, [2, num_listed], where the copies alone are normalised; else
        None.
    """

    def __init__(self, problem: PairProblem, logit: Tensor, indices: PairIndices | None) -> None:
        super().__init__(problem, logit)
        self.indices = indices
        self.gathers = indices is not None and indices.size(*problem[:2]).is_gathered
        self.norms: Tensor | None = None

    def measure_pairs(self) -> bool:
        if not self.gathers:
            return super().measure_pairs()
        if 0 in self.problem.shape:
            return False
        self.are_unit = self._measure_sides()
        if self.are_unit:
            return True
        looked_at = self.x, self.anchors.rows, self.references.rows
        return all(
            math.isfinite(end.item()) for x in looked_at if x.numel() for end in torch.aminmax(x)
        )

    def _measure_sides(self) -> bool:
        return (self.gathers and self._measure_cosines()) or super()._measure_sides()

    def _measure_cosines(self) -> bool:
        """Those of the pairs, whose rows alone are normalised; False unless all rows are known to
        be finite, and these to divide by their norms as they are.
        """
        problem, dtype = self.problem, self.problem.anchors.dtype
        if not problem.normalize or self.measure != "dot" or dtype != accumulation_dtype(dtype):
            return False
        sides = [side for side in problem[:2] if side is not None]
        if not are_finite(*sides):
            return False
        anchors, references = (Side(side, None, None) for side in (sides[0], sides[-1]))
        copies = self._at_ends(anchors.rows, references.rows)
        norms = plain_norms(copies)
        if norms is None:
            return False
        self.anchors, self.references, self.norms = anchors, references, norms.view(2, -1)
        self.x = self._products(copies.div_(norms))
        return True

    def _measures(self) -> Tensor:
        if not self.gathers:
            return super()._measures()
        copies = self._at_ends(self.anchors.rows, self.references.rows)
        if self.measure == "dot":
            return self._products(copies)
        self.both = a, r = copies.chunk(2)
        self.copies = r.sub_(a)
        squares = torch.linalg.vecdot(self.copies, self.copies)
        return squares if self.measure == "squared_euclidean" else squares.sqrt_()

    def _products(self, copies: Tensor) -> Tensor:
        self.copies, self.both = copies, copies.chunk(2)
        return torch.linalg.vecdot(*self.both)

    def _at_ends(self, anchors: Tensor, references: Tensor) -> Tensor:
        """The rows at the ends, [2 num_listed, d]."""
        assert self.indices is not None
        self.ends = self.indices.ends()
        if anchors is references:
            return anchors.index_select(0, self.ends)
        copies = anchors.new_empty(self.ends.shape[0], anchors.shape[1])
        sides = anchors, references
        for of, ends, out in zip(sides, self.ends.chunk(2), copies.chunk(2), strict=True):
            torch.index_select(of, 0, ends, out=out)
        return copies

    def gradients(self, weights: Tensor, needs: Needs) -> tuple[Tensor | None, Tensor | None]:
        if not self.gathers:
            return super().gradients(weights, needs)
        if self.measure == "euclidean":
            weights = weights.div_(inf_if_0(self.x))
        if self.is_self:
            # in fewer calls, unless a copy takes longer than these
            together = self.measure == "dot" and self.copies.numel() <= _FEW_COPIED
            ends = (None,) if together else (0, 1)
            return self._led_to(weights, self.anchors, *ends), None
        anchors_grad = self._led_to(weights, self.anchors, 0) if needs[0] else None
        return anchors_grad, self._led_to(weights, self.references, 1) if needs[1] else None

    def _led_to(self, weights: Tensor, side: Side, *ends: int | None) -> Tensor:
        """The gradient of a side's rows, which are at these ends of the pairs; None is both."""
        grad, dtype = torch.zeros_like(side.rows), self.dtypes[ends[0] or 0]
        differences = None if self.measure == "dot" else self.copies * weights.unsqueeze(1)
        for end in ends:
            rows = self.ends if end is None else self.ends.chunk(2)[end]
            if differences is None:
                of_pairs = self._of_products(weights, end)
            else:
                of_pairs = differences.neg_() if end else differences
            if rows.shape[0] <= _FEW_ROWS:
                grad.index_put_((rows,), of_pairs, accumulate=True)
            else:
                grad.index_add_(0, rows, of_pairs)
        grad = side.gradient(grad)
        return grad if grad.dtype == dtype else grad.to(dtype)

    def _of_products(self, weights: Tensor, end: int | None) -> Tensor:
        """What the products of the pairs send to the rows at that end; None for both."""
        a, r = self.both
        if self.norms is not None:
            weights = weights / (self.norms if end is None else self.norms[end])
        elif end is None:
            weights = weights.expand(2, -1)
        column = weights.reshape(-1, 1)
        own = self.copies
        if end is None:
            of_pairs = torch.cat([r, a]).mul_(column)
        else:
            own, other = (r, a) if end else (a, r)
            of_pairs = other * column
        if self.norms is None:
            return of_pairs
        return of_pairs.addcmul_(own, (weights * self.x).view(-1, 1), value=-1)
