"""Measures of explicitly listed pairs, in memory proportional to the list and one bounded block.

Where a block of rows lists more than a small share of its pairs, they are read from the block's
product; elsewhere the d numbers of both sides are gathered for each pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fusedml.engine.pairs import accumulation_dtype
from fusedml.engine.reductions.entries import add_at

# Elements gathered at a time, 1 MB for each side in float32: half the time of 4 MB.
_CHUNK_ELEMENTS = 1 << 18
# Elements of a block of the product, 4 MB in float32; one row, if that has more.
_BLOCK_ELEMENTS = 1 << 20
# A block is multiplied out if it lists one of this many of its pairs: for d = 32, 128 and 512, 64
# to 2048 rows and 1024 to 16384 references both ways take the same time between one in 15 and one
# in 25, forward and backward.
_PAIRS_PER_LISTED = 20


class _Part(NamedTuple):
    """Consecutive pairs of the list; ``block`` has their rows if these are multiplied out."""

    pairs: slice
    block: slice | None


class _ListedPairs:
    """Listed pairs ordered by row, if they are many, and the parts they are measured in."""

    def __init__(
        self, anchors: Tensor, references: Tensor | None, rows: Tensor, columns: Tensor
    ) -> None:
        self.anchors = anchors
        self.references = anchors if references is None else references
        self.dtype = accumulation_dtype(anchors.dtype)
        self.rows, self.columns = rows.contiguous(), columns
        self.order: Tensor | None = None  # the given position of each pair, None if as given
        n, self.width = anchors.shape[0], self.references.shape[0]
        self.block_rows = min(n, max(1, _BLOCK_ELEMENTS // max(1, self.width)))
        self.has_blocks = self._is_dense(rows.shape[0], self.block_rows)
        if self.has_blocks and not bool((rows[1:] >= rows[:-1]).all()):
            self.order = torch.argsort(rows.to(torch.int32), stable=True)  # half the time of int64
            self.rows, self.columns = rows[self.order], columns[self.order]
        self._buffer: Tensor | None = None
        self._wide_references: Tensor | None = None

    def _is_dense(self, num_pairs: int, num_rows: int) -> bool:
        return 0 < num_rows * self.width <= num_pairs * _PAIRS_PER_LISTED

    def parts(self) -> Iterator[_Part]:
        """All pairs, in order."""
        begin = 0
        if self.has_blocks:
            n = self.anchors.shape[0]
            step, device = self.block_rows, self.rows.device
            starts = torch.arange(step, n + step, step, device=device)
            ends = torch.searchsorted(self.rows, starts).tolist()
            first = 0
            for row, end in zip(range(0, n, self.block_rows), ends, strict=True):
                block = slice(row, min(row + self.block_rows, n))
                if self._is_dense(end - first, block.stop - block.start):
                    yield from self._gathered(begin, first)
                    yield _Part(slice(first, end), block)
                    begin = end
                first = end
        yield from self._gathered(begin, self.rows.shape[0])

    def _gathered(self, begin: int, end: int) -> Iterator[_Part]:
        step = max(1, _CHUNK_ELEMENTS // max(1, self.anchors.shape[1]))
        for first in range(begin, end, step):
            yield _Part(slice(first, min(first + step, end)), None)

    def wide_references(self) -> Tensor:
        """The references in the dtype of sums."""
        if self._wide_references is None:
            self._wide_references = self.references.to(self.dtype)
        return self._wide_references

    def buffer(self, block: slice) -> Tensor:
        """The block's scratch memory, [rows of the block, m]."""
        if self._buffer is None:
            shape = self.block_rows, self.width
            self._buffer = self.anchors.new_empty(shape, dtype=self.dtype)
        return self._buffer[: block.stop - block.start]

    def entries(self, part: _Part, block: slice) -> Tensor:
        """Positions of the part's pairs in the flattened block."""
        return (self.rows[part.pairs] - block.start).mul_(self.width).add_(self.columns[part.pairs])

    def block_values(self, part: _Part, block: slice, entries: Tensor, measure: str) -> Tensor:
        """x of the part's pairs, read from the block's product."""
        a, r = self.anchors[block].to(self.dtype), self.wide_references()
        product = torch.mm(a, r.T, out=self.buffer(block)).view(-1).index_select(0, entries)
        if measure == "dot":
            return product
        square = product.mul_(-2)
        square += a.square().sum(1).index_select(0, self.rows[part.pairs] - block.start)
        square += r.square().sum(1).index_select(0, self.columns[part.pairs])
        square.clamp_(min=0)
        return square.sqrt_() if measure == "euclidean" else square

    def gathered(self, part: _Part) -> tuple[Tensor, Tensor]:
        """Anchor and reference of each pair of the part, [num_pairs, d]."""
        a = self.anchors.index_select(0, self.rows[part.pairs])
        r = self.references.index_select(0, self.columns[part.pairs])
        return a.to(self.dtype), r.to(self.dtype)


def pair_values(
    anchors: Tensor, references: Tensor | None, rows: Tensor, columns: Tensor, measure: str
) -> Tensor:
    """x of each pair (rows[k], columns[k]), [num_pairs]."""
    listed = _ListedPairs(anchors, references, rows, columns)
    values = anchors.new_empty(rows.shape, dtype=listed.dtype)
    for part in listed.parts():
        if part.block is not None:
            entries = listed.entries(part, part.block)
            values[part.pairs] = listed.block_values(part, part.block, entries, measure)
            continue
        a_k, r_k = listed.gathered(part)
        if measure == "dot":
            values[part.pairs] = a_k.mul_(r_k).sum(1)
            continue
        square = a_k.sub_(r_k).square_().sum(1)
        values[part.pairs] = square.sqrt_() if measure == "euclidean" else square
    if listed.order is None:
        return values
    return torch.empty_like(values).index_copy_(0, listed.order, values)


def pair_values_gradient(
    anchors: Tensor,
    references: Tensor | None,
    rows: Tensor,
    columns: Tensor,
    measure: str,
    values_grad: Tensor,
    needs: list[bool],
) -> tuple[Tensor, Tensor]:
    """Gradients of anchors and references from dL/dx of the listed pairs."""
    listed = _ListedPairs(anchors, references, rows, columns)
    if listed.order is not None:
        values_grad = values_grad[listed.order]
    a_grad = anchors.new_zeros(anchors.shape, dtype=listed.dtype) if needs[0] else None
    if references is None:
        r_grad = a_grad
    else:
        r_grad = references.new_zeros(references.shape, dtype=listed.dtype) if needs[1] else None
    for part in listed.parts():
        if part.block is None:
            _add_gathered_gradient(listed, part, measure, values_grad, a_grad, r_grad)
        else:
            _add_block_gradient(listed, part, part.block, measure, values_grad, a_grad, r_grad)
    empty = anchors.new_empty(0)
    return (
        empty if a_grad is None else a_grad.to(anchors.dtype),
        empty if references is None or r_grad is None else r_grad.to(references.dtype),
    )


def _slopes(distances: Tensor, values_grad: Tensor) -> Tensor:
    """dL/dx / x: the gradient of |a - r| is (a - r) times it, and 0 at coinciding points."""
    return torch.where(distances > 0, values_grad / distances, 0)


def _add_block_gradient(
    listed: _ListedPairs,
    part: _Part,
    block: slice,
    measure: str,
    values_grad: Tensor,
    a_grad: Tensor | None,
    r_grad: Tensor | None,
) -> None:
    """Adds the gradients of a block: its weights times the other side.

    For |a - r|^2 / 2 the gradient is the sum of the weights times a, minus the weights times r.
    """
    entries, weights = listed.entries(part, block), values_grad[part.pairs]
    if measure == "euclidean":
        weights = _slopes(listed.block_values(part, block, entries, measure), weights)
    elif measure == "squared_euclidean":
        weights = 2 * weights
    matrix = listed.buffer(block).zero_()
    add_at(matrix.view(-1), entries, weights)
    a, r = listed.anchors[block].to(listed.dtype), listed.wide_references()
    sign = 1 if measure == "dot" else -1
    if a_grad is not None:
        a_grad[block].addmm_(matrix, r, alpha=sign)
        if measure != "dot":
            a_grad[block].addcmul_(a, matrix.sum(1, keepdim=True))
    if r_grad is not None:
        r_grad.addmm_(matrix.T, a, alpha=sign)
        if measure != "dot":
            r_grad.addcmul_(r, matrix.sum(0)[:, None])


def _add_gathered_gradient(
    listed: _ListedPairs,
    part: _Part,
    measure: str,
    values_grad: Tensor,
    a_grad: Tensor | None,
    r_grad: Tensor | None,
) -> None:
    a_k, r_k = listed.gathered(part)
    weight = values_grad[part.pairs, None]
    if measure == "dot":
        a_step, r_step = r_k * weight, a_k * weight
    else:
        difference = a_k - r_k
        if measure == "euclidean":
            distances = difference.square().sum(1, keepdim=True).sqrt_()
            weight = _slopes(distances, weight)
        else:
            weight = 2 * weight
        a_step = difference.mul_(weight)
        r_step = -a_step
    if a_grad is not None:
        add_at(a_grad, listed.rows[part.pairs], a_step)
    if r_grad is not None:
        add_at(r_grad, listed.columns[part.pairs], r_step)
