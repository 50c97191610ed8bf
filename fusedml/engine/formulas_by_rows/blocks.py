"""Rows in blocks: how the other files here come by the pairs of a problem, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fusedml.engine.labels import alike
from fusedml.engine.pairs import PairProblem, accumulation_dtype, measure_matrix
from fusedml.engine.precision import normalized
from fusedml.engine.recorded import BlockFunction, Tensors, by_blocks
from fusedml.engine.reductions.differentiable import Masks
from fusedml.engine.reductions.entries import MatrixSide

# Pairs of a block, of which two derivatives hold a few dozen matrices: 1 MB each in float32.
BLOCK_PAIRS = 1 << 18

ROWS = MatrixSide(slice(None), 1)


def sides_of(problem: PairProblem) -> tuple[Tensor, Tensor]:
    """The rows and the columns as they are measured, in the dtype of the statistics."""
    dtype = accumulation_dtype(problem.anchors.dtype)

    def measured(x: Tensor) -> Tensor:
        wide = x.to(dtype)
        return normalized(wide)[0].to(x.dtype).to(dtype) if problem.normalize else wide

    a = measured(problem.anchors)
    return a, a if problem.references is None else measured(problem.references)


def _masks(problem: PairProblem, rows: slice) -> Masks:
    """The positive and the negative pairs of some rows, [rows, m]."""
    columns = problem.reference_labels
    columns = problem.anchor_labels if columns is None else columns
    positive = alike(problem.anchor_labels[rows], columns)
    numbers = torch.arange(rows.start, rows.stop, device=positive.device)[:, None]
    of_columns = torch.arange(columns.shape[0], device=positive.device)
    counted = torch.ones_like(positive)
    if problem.exclude_diagonal:
        counted &= problem.own_columns(numbers) != of_columns
    if problem.extent is not None:
        counted &= (numbers < problem.extent[0]) & (of_columns < problem.extent[1])
    return positive & counted, ~positive & counted


def slices_of(size: int, width: int) -> Callable[[], Iterator[slice]]:
    """Blocks of that many rows of that many pairs, or numbers; one of none."""
    step = max(1, BLOCK_PAIRS // max(1, width))

    def slices() -> Iterator[slice]:
        for begin in range(0, max(1, size), step):
            yield slice(begin, min(begin + step, size))

    return slices


def by_rows(
    problem: PairProblem,
    reduce: Callable[..., Tensor],
    shared: Tensors,
    of_rows: Tensors = (),
    masks_of: Callable[[slice], Masks] | None = None,
) -> Tensor:
    """Numbers of the rows, [..., n]: reduce(x, masks, *shared, *of_rows), block by block.

    shared, of_rows: what may require a gradient, of all blocks and of each row, [..., n].
    masks_of: which pairs there are, instead of those by labels.
    """
    a, r = sides_of(problem)

    def of_block(rows: slice, own: Tensors, shared: Tensors) -> tuple[Tensors, Tensors]:
        masks = _masks(problem, rows) if masks_of is None else masks_of(rows)
        x = measure_matrix(own[0], shared[0], problem.measure)
        numbers = reduce(x, masks, *shared[1:], *(y.movedim(0, -1) for y in own[1:]))
        return [numbers.movedim(-1, 0)], []

    n, m = a.shape[0], r.shape[0]
    function = BlockFunction(of_block, slices_of(n, m), n)
    (numbers,), _ = by_blocks(function, [a, *(y.movedim(-1, 0) for y in of_rows)], [r, *shared])
    return numbers.movedim(0, -1)


def summed(function: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    """function(*operands), in one block."""
    one = BlockFunction(lambda _, rows, shared: ([], [function(*shared)]), lambda: (None,))
    return by_blocks(one, (), operands)[1][0]
