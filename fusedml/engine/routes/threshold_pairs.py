"""Of each threshold of a row the hardest negative below it: what ``threshold_pairs`` computes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fusedml.engine.pairs import PairProblem
from fusedml.engine.reductions.extrema import NO_COLUMN
from fusedml.engine.reductions.thresholds import ABSENT
from fusedml.engine.routes.row_strips import RowStrips, fused_measures


def threshold_pairs(problem: PairProblem, thresholds: Tensor) -> Tensor:
    """Columns [n, k], int64, see ``threshold_pairs`` of csrc/kernels/api.h.

    thresholds: [n, k], hardnesses, those of a row ascending and padded with ABSENT.
    """
    measures = fused_measures(*problem[:2], problem.measure, normalize=False)
    pairs = RowStrips(problem, measures, 1.0 if problem.measure == "dot" else -1.0)
    columns = torch.full_like(thresholds, NO_COLUMN, dtype=torch.int64)
    for strip in pairs.strips():
        y = strip.y.masked_fill(strip.y.isnan() | ~strip.negative, -math.inf)
        for k in range(thresholds.shape[1]):
            t = thresholds[strip.lines, k]
            easier = y.masked_fill(~(y < t[:, None]), -math.inf)
            at = easier.argmax(1)  # the first of equal ones
            # float32's number, in float64, is not quite that of float64
            is_found = (t < ABSENT / 2) & (easier.amax(1) > -math.inf)
            columns[strip.lines, k] = at.masked_fill(~is_found, NO_COLUMN)
    return columns
