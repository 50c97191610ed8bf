"""Rows in another order, and back."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class RowOrder(NamedTuple):
    """A permutation of n rows, in both directions.

    rows: [n], int64: the row that comes k-th.  places: [n], int64: where row i comes.
    """

    rows: Tensor
    places: Tensor

    @classmethod
    def by_label(cls, labels: Tensor) -> RowOrder:
        """In which labels [n] ascend, and equal ones keep their order.  Needs no host sync."""
        return cls.of(torch.argsort(labels, stable=True))

    @classmethod
    def of(cls, rows: Tensor) -> RowOrder:
        """That of a permutation."""
        numbers = torch.arange(rows.shape[0], device=rows.device)
        return cls(rows, torch.empty_like(rows).scatter_(0, rows, numbers))

    def apply(self, x: Tensor) -> Tensor:
        """The rows of x, [n, ...], in this order."""
        return _Permute.apply(x, self.rows, self.places)

    def restore(self, x: Tensor) -> Tensor:
        """x, [n, ...] in this order, in the order of before."""
        return _Permute.apply(x, self.places, self.rows)


class _Permute(torch.autograd.Function):
    """x[rows].  ``inverse`` gathers the gradient: index_select's own adds it up, with atomics."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, rows: Tensor, inverse: Tensor) -> Tensor:
        return x.index_select(0, rows)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, *ctx.saved_tensors), None, None
