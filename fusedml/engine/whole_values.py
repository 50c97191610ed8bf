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

    def __init__(self, problem: PairProblem, logit: Tensor, rows: Tensor, columns: Tensor) -> None:
        """logit: what is learnt beside the embeddings; any tensor if nothing is."""
        super().__init__(problem, logit)
        self.rows, self.columns = rows, columns

    def evaluate(self) -> tuple[Tensor, ...] | None:
        x = self.listed()
        return None if x is None else (x,)

    def listed(self) -> Tensor | None:
        """x of each listed pair; None without pairs of the problem, or if not all is finite."""
        if not self.measure_pairs():
            return None
        self.place = torch.add(self.columns, self.rows, alpha=self.x.shape[1])
        # which are divided by in the backward
        self.distances = self.x if self.measure == "euclidean" else None
        return self.x.view(-1).index_select(0, self.place)

    def gradient(self, grad: Tensor, needs: Needs) -> Gradients:
        weights = self.no_weights(grad)
        weights.index_add_(0, self.place, grad, alpha=SLOPES[self.measure])
        return *self.led_back(weights, needs), None, None

    def no_weights(self, like: Tensor) -> Tensor:
        """A zero for each pair of the problem, [n m]."""
        return like.new_zeros(self.anchors.rows.shape[0] * self.references.rows.shape[0])

    def led_back(self, weights: Tensor, needs: Needs) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of both sides from SLOPES dL/dx, [n m], which is overwritten."""
        if self.distances is not None:
            self.x = self.distances
        return self.gradients(weights.view(-1, self.references.rows.shape[0]), needs)
