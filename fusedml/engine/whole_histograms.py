"""Soft histograms of small problems: in which cell each pair of one matrix lies."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fusedml.engine.labels import alike
from fusedml.engine.pairs import PairProblem
from fusedml.engine.positives import positives_of
from fusedml.engine.whole import SLOPES, Gradients, Needs
from fusedml.engine.whole_measures import WholeMeasures

# up to which comparing all costs less than the calls that list positives
_FEW_PAIRS = 1 << 14


class WholeHistograms(WholeMeasures):
    """Output: [2, n, num_edges], or of all rows [2, 1, num_edges]; see ``engine.tiled.histograms``.

    cells: [n, n], of each pair the number of its cell among those of all lines: the negatives' and
    then the positives'.  Behind these is one for what is left out.
    """

    kept: ClassVar[tuple[str, ...]] = ("distances", "cells")
    constants: ClassVar[tuple[str, ...]] = ("delta", "num_lines", "num_edges")

    def __init__(
        self, problem: PairProblem, lowest: float, delta: float, num_edges: int, per_row: bool
    ) -> None:
        super().__init__(problem, problem.anchors.new_empty(0))  # there is no logit
        self.lowest, self.delta, self.num_edges = lowest, delta, num_edges
        self.num_lines = problem.shape[0] if per_row else 1

    def evaluate(self) -> tuple[Tensor] | None:
        if not self.measure_pairs():
            return None
        self.distances = self.x if self.measure == "euclidean" else None
        z = (self.x - self.lowest).div_(self.delta)
        lower = torch.floor(z).clamp_(0, self.num_edges - 2)
        self.cells = self._numbered(lower.long())
        places, size = self.cells.view(-1), 2 * self.num_lines * self.num_edges
        upper = torch.bincount(places, z.sub_(lower).view(-1), size + 1)[:size]
        histograms = torch.bincount(places, minlength=size + 1)[:size] - upper
        # the upper edge of a cell is the lower one of the next; the last edge has no cell
        histograms[1:] += upper[:-1]
        negative, positive = histograms.view(2, self.num_lines, self.num_edges).to(z.dtype)
        return (torch.stack([positive, negative]),)

    def _numbered(self, cells: Tensor) -> Tensor:
        """``cells``, numbered over all lines, in place."""
        labels = self.problem.anchor_labels
        kind = self.num_lines * self.num_edges
        if self.num_lines > 1:
            lines = torch.arange(0, kind, self.num_edges, device=cells.device)
            cells += lines.unsqueeze(1)
        if labels.amin().item() >= 0 and cells.numel() <= _FEW_PAIRS:
            cells.add_(alike(labels, labels), alpha=kind)
        else:
            n = cells.shape[0]
            rows, columns = positives_of(self.problem).of_rows(0, n)
            places = rows * n + columns
            of_positives = cells.view(-1).index_select(0, places).add_(kind)
            of_positives.masked_fill_(labels.index_select(0, rows) < 0, 2 * kind)
            cells.view(-1).index_copy_(0, places, of_positives)
        cells.diagonal().fill_(2 * kind)
        return cells

    def gradient(self, grad: Tensor, needs: Needs) -> Gradients:
        slopes = grad.new_zeros(2 * self.num_lines * self.num_edges + 1)
        of_kinds = slopes[:-1].view(2, self.num_lines, self.num_edges)
        factor = SLOPES[self.measure] / self.delta
        torch.mul(grad.flip(0).diff(dim=2), factor, out=of_kinds[:, :, :-1])
        weights = slopes.index_select(0, self.cells.view(-1)).view(self.cells.shape)
        if self.distances is not None:
            self.x = self.distances
        return *self.gradients(weights, needs), None, None
