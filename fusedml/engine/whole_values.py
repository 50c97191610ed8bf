"""What is measured of listed pairs, read from the matrix of a small problem."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fusedml.engine.pairs import PairProblem
from fusedml.engine.whole import SLOPES, Gradients, Needs
from fusedml.engine.whole_measures import WholeMeasures


class WholeValues(WholeMeasures):
    """Output: x of each listed pair, [num_pairs].  problem: its labels are ignored.

    place: of the pairs in the matrix.
    """

    kept: ClassVar[tuple[str, ...]] = ("place", "distances")
    constants: ClassVar[tuple[str, ...]] = ()

    def __init__(self, problem: PairProblem, rows: Tensor, columns: Tensor) -> None:
        super().__init__(problem, columns)  # there are no logits
        self.rows, self.columns = rows, columns

    def evaluate(self) -> tuple[Tensor] | None:
        if not self.measure_pairs():
            return None
        self.place = torch.add(self.columns, self.rows, alpha=self.x.shape[1])
        # which are divided by in the backward
        self.distances = self.x if self.measure == "euclidean" else None
        return (self.x.view(-1).index_select(0, self.place),)

    def gradient(self, grad: Tensor, needs: Needs) -> Gradients:
        n, m = self.anchors.rows.shape[0], self.references.rows.shape[0]
        slope = SLOPES[self.measure]
        weights = grad.new_zeros(n * m)
        weights.index_add_(0, self.place, grad, alpha=slope)
        if self.distances is not None:
            self.x = self.distances
        return *self.gradients(weights.view(n, m), needs), None, None
