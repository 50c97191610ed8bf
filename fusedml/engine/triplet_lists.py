"""Lists of a few triplets for each anchor, or positive pair: drawn, or found by what is hardest."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fusedml.distances import fused_measure, sign_of
from fusedml.engine.pairs import PairProblem, accumulation_dtype, measure_matrix
from fusedml.engine.precision import prepared, tile_dtype
from fusedml.engine.routes.blocks import row_blocks
from fusedml.engine.routes.distinct_pairs import PairIndices


def random_triplets(problem: PairProblem, per_anchor: int) -> PairIndices:
    """Of each anchor with both a positive and a negative so many, drawn from PyTorch's generator.

    Each positive is as likely as any other, and so is each negative; with replacement.
    """
    labels, device = problem.anchor_labels.contiguous(), problem.anchor_labels.device
    others = labels if problem.reference_labels is None else problem.reference_labels
    values, order = torch.sort(others, stable=True)
    first = torch.searchsorted(values, labels)
    size = torch.searchsorted(values, labels, right=True) - first
    own = torch.full_like(first, len(others))  # where the anchor itself is not to be drawn
    if problem.exclude_diagonal:
        places = torch.empty_like(order)
        places[order] = torch.arange(len(order), device=device)
        own = places[: len(labels)] - first
    is_excluded = own < size
    num_positive, num_negative = size - is_excluded.long(), len(others) - size
    rows = ((num_positive > 0) & (num_negative > 0)).nonzero().squeeze(1)
    rows = rows.repeat_interleave(per_anchor)

    def drawn(number: Tensor) -> Tensor:
        uniform = torch.rand(len(rows), device=device)
        return torch.minimum((uniform * number[rows]).long(), number[rows] - 1)

    p, n = drawn(num_positive), drawn(num_negative)
    p = p + (p >= own[rows]).long() + first[rows]
    n = n + (n >= first[rows]).long() * size[rows]
    return PairIndices(rows, order[p], rows, order[n])


def batch_hard(problem: PairProblem, distance: nn.Module) -> PairIndices:
    """Of each anchor that has both the least alike positive and the most alike negative.

    The first of several that are equal.
    """
    found = []
    for block, y, positive, negative in _hardnesses(problem, distance):
        p = y.masked_fill(~positive, math.inf).min(1).indices
        n = y.masked_fill(~negative, -math.inf).max(1).indices
        rows = (positive.any(1) & negative.any(1)).nonzero().squeeze(1)
        found.append(torch.stack([rows + block.start, p[rows], n[rows]]))
    return _of_rows(found, problem)


def nearest_semihard(problem: PairProblem, distance: nn.Module) -> PairIndices:
    """For each positive pair the hardest negative that is easier, or the easiest where none is."""
    found = []
    for block, y, positive, negative in _hardnesses(problem, distance):
        rows, p = (positive & negative.any(1, keepdim=True)).nonzero(as_tuple=True)
        most = max(1, y.numel() // max(1, y.shape[1]))
        for i, j in zip(rows.split(most), p.split(most), strict=True):
            of_row = y[i].masked_fill_(~negative[i], -math.inf)
            easier = of_row.masked_fill(of_row >= y[i, j][:, None], -math.inf)
            best, at = easier.max(1)
            easiest = of_row.masked_fill_(~negative[i], math.inf).min(1).indices
            n = torch.where(best == -math.inf, easiest, at)
            found.append(torch.stack([i + block.start, j, n]))
    return _of_rows(found, problem)


def _of_rows(found: list[Tensor], problem: PairProblem) -> PairIndices:
    none = torch.zeros((3, 0), dtype=torch.int64, device=problem.anchors.device)
    rows, p, n = torch.cat([none, *found], 1)
    return PairIndices(rows, p, rows, n)


def _hardnesses(
    problem: PairProblem, distance: nn.Module
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Blocks of rows: the hardness of their pairs, and which of them are of either kind."""
    measure, sign = fused_measure(distance), sign_of(distance)
    if measure is not None:
        problem = problem._replace(measure=measure.name, normalize=measure.normalize)
        problem = prepared(problem, tile_dtype(problem.anchors))
    a, labels = problem.anchors, problem.anchor_labels
    r = a if problem.references is None else problem.references
    others = labels if problem.reference_labels is None else problem.reference_labels
    dtype = accumulation_dtype(a.dtype)
    for block in row_blocks(len(a), len(r)):
        if measure is None:
            x = distance(a[block], r).to(dtype)
        else:
            x = measure_matrix(a[block].to(dtype), r.to(dtype), measure.name)
        positive = labels[block, None] == others
        negative = ~positive
        if problem.exclude_diagonal:
            positive.diagonal(block.start).fill_(False)
        yield block, sign * x, positive, negative
