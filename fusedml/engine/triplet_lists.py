"""Lists of a few triplets for each anchor, or positive pair: drawn, or found by what is hardest."""

from __future__ import annotations

import math

import torch
from torch import nn

from fusedml.engine.ops import namespace
from fusedml.engine.pairs import PairProblem
from fusedml.engine.positives import num_positives, positives_of
from fusedml.engine.reductions.extrema import NO_COLUMN
from fusedml.engine.routes.choice import all_rows, extremes, row_strips
from fusedml.engine.routes.distinct_pairs import PairIndices
from fusedml.engine.threshold_rows import semihard_triplets


def random_triplets(problem: PairProblem, per_anchor: int) -> PairIndices:
    """Of each anchor with both a positive and a negative so many, drawn from PyTorch's generator.

    Each positive is as likely as any other, and so is each negative; with replacement.
    """
    positives = positives_of(problem)
    number = num_positives(problem)
    (rows,) = torch.where((number > 0) & (number < problem.pairs_of_rows()))
    rows = rows.repeat_interleave(per_anchor)
    p = positives.drawn(rows, torch.rand(len(rows), device=rows.device))
    n = positives.drawn_negatives(rows, torch.rand(len(rows), device=rows.device))
    return PairIndices(rows, p, rows, n)


def batch_hard(
    problem: PairProblem, distance: nn.Module, owner: str, backend: str = "auto"
) -> PairIndices:
    """Of each anchor that has both the least alike positive and the most alike negative.

    The first of several that are equal.  owner: the name of the loss, as for ``labelled_pairs``.
    """
    pairs = row_strips(problem, distance, owner)
    p, n = extremes(pairs, (False, True), backend=backend)[1]
    (rows,) = torch.where((p != NO_COLUMN) & (n != NO_COLUMN))
    return PairIndices(rows, p[rows], rows, n[rows])


def nearest_semihard(
    problem: PairProblem, distance: nn.Module, owner: str, backend: str = "auto"
) -> PairIndices:
    """For each positive pair the hardest negative that is easier, or the easiest where none is.

    Of several that are equal the first.  owner: as for :func:`batch_hard`.
    """
    pairs = row_strips(problem, distance, owner)
    whole = all_rows(pairs, backend)
    if whole is not None:
        rows, p, n = semihard_triplets(namespace(whole.backend), whole.problem)
        return PairIndices(rows, p, rows, n)
    found = [torch.zeros((3, 0), dtype=torch.int64, device=pairs.device)]
    for strip in pairs.strips():
        y, negative = strip.y, strip.negative
        rows, p = torch.where(strip.positive & negative.any(1, keepdim=True))
        for i, j in zip(rows.split(pairs.height), p.split(pairs.height), strict=True):
            of_row = y[i].masked_fill_(~negative[i], -math.inf)
            easier = of_row.masked_fill(of_row >= y[i, j][:, None], -math.inf)
            best, at = easier.max(1)
            easiest = of_row.masked_fill_(~negative[i], math.inf).min(1).indices
            n = torch.where(best == -math.inf, easiest, at)
            found.append(torch.stack([strip.lines[i], j, n]))
    rows, p, n = torch.cat(found, 1)
    return PairIndices(rows, p, rows, n)
