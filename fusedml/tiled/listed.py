"""Measures of explicitly listed pairs, in memory proportional to the list."""

from __future__ import annotations

import torch
from torch import Tensor

from fusedml.pairs import accumulation_dtype

# Elements gathered at a time: 4 MB for each side in float32.
_CHUNK_ELEMENTS = 1 << 20


def _chunks(rows: Tensor, dim: int) -> range:
    return range(0, rows.shape[0], max(1, _CHUNK_ELEMENTS // max(1, dim)))


def add_at(sums: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """``sums`` with values[k] added at index[k], in place, with the same bits on every run."""
    if sums.is_cuda:  # where index_add_ is made of atomics, and this sorts
        return sums.index_put_((index,), values, accumulate=True)
    return sums.index_add_(0, index, values)


def pair_values(
    anchors: Tensor, references: Tensor | None, rows: Tensor, columns: Tensor, measure: str
) -> Tensor:
    """x of each pair (rows[k], columns[k]), [num_pairs]."""
    dtype = accumulation_dtype(anchors.dtype)
    r = anchors if references is None else references
    values = anchors.new_empty(rows.shape, dtype=dtype)
    chunks = _chunks(rows, anchors.shape[1])
    for begin in chunks:
        where = slice(begin, begin + chunks.step)
        a_k = anchors.index_select(0, rows[where]).to(dtype)
        r_k = r.index_select(0, columns[where]).to(dtype)
        if measure == "dot":
            values[where] = a_k.mul_(r_k).sum(1)
            continue
        square = a_k.sub_(r_k).square_().sum(1)
        values[where] = square.sqrt_() if measure == "euclidean" else square
    return values


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
    dtype = accumulation_dtype(anchors.dtype)
    r = anchors if references is None else references
    a_grad = anchors.new_zeros(anchors.shape, dtype=dtype) if needs[0] else None
    if references is None:
        r_grad = a_grad
    else:
        r_grad = r.new_zeros(r.shape, dtype=dtype) if needs[1] else None
    chunks = _chunks(rows, anchors.shape[1])
    for begin in chunks:
        where = slice(begin, begin + chunks.step)
        i, j = rows[where], columns[where]
        a_k, r_k = anchors.index_select(0, i).to(dtype), r.index_select(0, j).to(dtype)
        weight = values_grad[where, None]
        if measure == "dot":
            a_step, r_step = r_k * weight, a_k * weight
        else:
            difference = a_k - r_k
            if measure == "euclidean":
                # the slope (a - r)/|a - r| is 0 at coinciding points
                distance = difference.square().sum(1, keepdim=True).sqrt_()
                weight = torch.where(distance > 0, weight / distance, 0)
            else:
                weight = 2 * weight
            a_step = difference.mul_(weight)
            r_step = -a_step
        if a_grad is not None:
            add_at(a_grad, i, a_step)
        if r_grad is not None:
            add_at(r_grad, j, r_step)
    empty = anchors.new_empty(0)
    return (
        empty if a_grad is None else a_grad.to(anchors.dtype),
        empty if references is None or r_grad is None else r_grad.to(references.dtype),
    )
