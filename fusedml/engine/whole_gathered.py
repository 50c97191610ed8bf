"""Measures of few listed pairs, one by one: a matrix of all would be more work."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.precision import plain_norms
from fusedml.engine.routes.distinct_pairs import PairIndices
from fusedml.engine.whole import Needs, Side, inf_if_0
from fusedml.engine.whole_measures import WholeMeasures


class GatheredMeasures(WholeMeasures):
    """The measures of all pairs; or with ``gathers`` x of listed ones, [num_listed], positives
    first, whose gradient is asked for at once.

    copies: the rows of the anchors, and those of the references or, of distances, these less the
    anchors'.  lengths: of both, where the copies alone are normalised; see ``_measure_sides``.
    """

    def __init__(self, problem: PairProblem, logit: Tensor, indices: PairIndices | None) -> None:
        super().__init__(problem, logit)
        self.indices = indices
        self.gathers = indices is not None and indices.size(*problem[:2]).is_gathered
        self.lengths: list[Tensor] = []

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
        if self.gathers:
            self.lengths = self._lengths()
        if not self.lengths:
            return super()._measure_sides()
        self.anchors = self.references = Side(self.problem.anchors, None, None)
        if self.problem.references is not None:
            self.references = Side(self.problem.references, None, None)
        self.x = self._measures()
        return True

    def _lengths(self) -> list[Tensor]:
        """Of the rows of both sides, [n, 1] and [m, 1]; none unless these are all that cosines need
        of the other rows: known to be finite, and to divide by as they are.
        """
        if not self.problem.normalize or self.measure != "dot":
            return []
        lengths: list[Tensor] = []
        for side in self.problem[:2]:
            norms = lengths[0] if side is None else plain_norms(side)
            if norms is None or norms.dtype != accumulation_dtype(norms.dtype):
                return []
            lengths.append(norms)
        return lengths

    def _measures(self) -> Tensor:
        if not self.gathers:
            return super()._measures()
        assert self.indices is not None
        rows, columns, negative_rows, negative_columns = self.indices
        self.ends = torch.cat([rows, negative_rows]), torch.cat([columns, negative_columns])
        a = self.anchors.rows.index_select(0, self.ends[0])
        r = self.references.rows.index_select(0, self.ends[1])
        if self.lengths:
            each = zip(self.lengths, self.ends, strict=True)
            self.lengths = [norms.index_select(0, lines) for norms, lines in each]
            a.div_(self.lengths[0])
            r.div_(self.lengths[1])
        if self.measure == "dot":
            self.copies = a, r
            return torch.linalg.vecdot(a, r)
        self.copies = a, r.sub_(a)
        squares = torch.linalg.vecdot(r, r)
        return squares if self.measure == "squared_euclidean" else squares.sqrt_()

    def gradients(self, weights: Tensor, needs: Needs) -> tuple[Tensor | None, Tensor | None]:
        if not self.gathers:
            return super().gradients(weights, needs)
        if self.measure == "euclidean":
            weights = weights.div_(inf_if_0(self.x))
        weights = weights.unsqueeze(1)
        if self.is_self:
            of_rows = torch.zeros_like(self.anchors.rows)
            self._lead_to(0, weights, of_rows)
            self._lead_to(1, weights, of_rows)
            return self._led_back(of_rows, 0), None
        grads: list[Tensor | None] = [None, None]
        for side, rows in enumerate((self.anchors.rows, self.references.rows)):
            if needs[side]:
                of_rows = torch.zeros_like(rows)
                self._lead_to(side, weights, of_rows)
                grads[side] = self._led_back(of_rows, side)
        return grads[0], grads[1]

    def _lead_to(self, side: int, weights: Tensor, of_rows: Tensor) -> None:
        """Adds the gradient of one side's rows; weights: [num_listed, 1]."""
        a, r = self.copies
        if self.measure != "dot":
            of_pairs = r * (weights.neg() if side else weights)
        elif self.lengths:
            own, other = (r, a) if side else (a, r)
            weights = weights / self.lengths[side]
            along = weights * self.x.unsqueeze(1)
            of_pairs = (other * weights).addcmul_(own, along, value=-1)
        else:
            of_pairs = (a if side else r) * weights
        of_rows.index_add_(0, self.ends[side], of_pairs)

    def _led_back(self, grad: Tensor, side: int) -> Tensor:
        grad, dtype = (self.anchors, self.references)[side].gradient(grad), self.dtypes[side]
        return grad if grad.dtype == dtype else grad.to(dtype)
