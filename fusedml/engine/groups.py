"""Several vectors of a class become one measure: reductions of groups, and their slopes.

A group is the measures y_k of a row with the vectors of one class.  Each reduction is a function of
ordinary PyTorch, and the same with its slope for tiles, [rows, K, classes]: passes over contiguous
numbers, in place.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fusedml.engine.batches import one_by_one
from fusedml.engine.precision import (
    gradient_of_normalized,
    is_recorded,
    normalize_,
    normalized,
    norms_dtype,
    prepare,
)

# Vectors whose gradients are computed at a time: 2 MB of 128 numbers each in float32.
_ROWS = 1 << 12


def maximum(y: Tensor, dim: int) -> Tensor:
    """max_k y_k; the gradient goes to the first of equal ones."""
    return y.max(dim).values


def soft_maximum(y: Tensor, dim: int) -> Tensor:
    """S = sum_k p_k y_k with p = softmax(y)."""
    return (torch.softmax(y, dim) * y).sum(dim)


REDUCTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    function.__name__: function for function in (maximum, soft_maximum)
}


def prepare_vectors(vectors: Tensor, dtype: torch.dtype, normalize: bool) -> Tensor:
    """Vectors [C, K, d] as the tiles see them, see :func:`fusedml.engine.precision.prepare`.

    In the order in which a strip reads them, the first of each class, the second of each, ...: so
    no strip needs a copy.
    """
    if normalize and not torch.compiler.is_compiling():
        return NormalizeVectors.apply(vectors, dtype)[0]
    by_number = vectors.transpose(0, 1)
    rows = prepare(by_number.reshape(-1, vectors.shape[2]), dtype, normalize)
    return rows.view(by_number.shape).transpose(0, 1)


def unit_vectors(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Vectors [C, K, d] divided by their norms, and the norms, [K C, 1], in that order."""
    by_number = x.transpose(0, 1).to(norms_dtype(x.dtype, dtype))
    y = by_number.clone(memory_format=torch.contiguous_format)
    norms = normalize_(y.view(-1, x.shape[2]))
    return y.to(dtype).transpose(0, 1), norms


def to_gradient_of_normalized_(grad: Tensor, y: Tensor, norms: Tensor) -> None:
    """dL/dx from dL/dy in its place, of rows y = x / |x|; as few at a time as matter."""
    for begin in range(0, grad.shape[0], _ROWS):
        part = slice(begin, begin + _ROWS)
        grad[part] = gradient_of_normalized(grad[part], y[part], norms[part])


class NormalizeVectors(torch.autograd.Function):
    """:func:`unit_vectors`.  Keeps x, too, so that PyTorch raises if it is overwritten."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return unit_vectors(x, dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output, inputs[0])

    @staticmethod
    @one_by_one
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None]:
        y, norms, x = ctx.saved_tensors
        # where only the gradient is one of a batch, nothing made of x can hold it
        if is_recorded() or torch._C._are_functorch_transforms_active():
            y, norms = normalized(x.to(norms.dtype).flatten(0, 1))
            x_grad = gradient_of_normalized(grad.to(y.dtype).flatten(0, 1), y, norms)
            return x_grad.view(x.shape).to(x.dtype), None
        norms = norms.view(x.shape[1], x.shape[0], 1).transpose(0, 1)
        x_grad = x.new_empty(x.shape)
        step = max(1, _ROWS // max(1, x.shape[1]))
        for begin in range(0, x.shape[0], step):
            part = slice(begin, begin + step)
            g, unit, norm = (z[part].to(norms.dtype).flatten(0, 1) for z in (grad, y, norms))
            x_grad[part] = gradient_of_normalized(g, unit, norm).view(x_grad[part].shape)
        return x_grad, None


# found here once, not in each call, see ``engine.functions``
NormalizeVectors.forward.__signature__ = inspect.signature(NormalizeVectors.forward)  # type: ignore[attr-defined]


class Scratch:
    """Memory that one tile after the other uses: fresh memory costs more than the arithmetic."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """The buffer of that name, what is in it being undefined."""
        size = torch.Size(shape).numel()
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[name] = self._like.new_empty(size)
        return buffer[:size].view(shape)


class TileMaximum:
    """S = max_k y_k; dS/dy_k = 1 for the first largest k, else 0."""

    def __init__(self, scratch: Scratch, is_bounded: bool) -> None:
        """is_bounded: whether exp(y) neither overflows nor underflows."""
        self.scratch = scratch

    def reduced(self, y: Tensor) -> Tensor:
        """S, [rows, classes], in memory of the next tile, too."""
        s = self.scratch("reduced", y.shape[0], y.shape[2])
        if y.shape[1] == 1:
            return s.copy_(y[:, 0])
        torch.maximum(y[:, 0], y[:, 1], out=s)
        for k in range(2, y.shape[1]):
            torch.maximum(s, y[:, k], out=s)
        return s

    def room(self, y: Tensor) -> Tensor:
        """Memory for dL/dS, [rows, classes]: y, which ``reduced`` has seen, may lose a slice."""
        return y[:, -1]

    def slope_(self, y: Tensor, s: Tensor, grad: Tensor) -> Tensor:
        """dL/dy from dL/dS, which is in its ``room``, in the place of both."""
        for k in range(y.shape[1] - 1):
            is_largest = torch.eq(y[:, k], s, out=y[:, k])
            # what an earlier one of equal vectors has taken is gone, the last takes what is left
            grad.sub_(is_largest.mul_(grad))
        return y


class TileSoftMaximum:
    """S = sum_k p_k y_k with p = softmax(y); dS/dy_k = p_k (1 + y_k - S)."""

    def __init__(self, scratch: Scratch, is_bounded: bool) -> None:
        """is_bounded: whether exp(y) neither overflows nor underflows."""
        self.scratch, self.is_bounded = scratch, is_bounded

    def reduced(self, y: Tensor) -> Tensor:
        """S, [rows, classes], in memory of the next tile, too; y becomes y exp(y)."""
        shape = y.shape[0], y.shape[2]
        self.exp = self.scratch("exp", *y.shape)
        if self.is_bounded:
            torch.exp(y, out=self.exp)
        else:
            torch.sub(y, y.amax(1, keepdim=True), out=self.exp).exp_()
        self.total = torch.sum(self.exp, 1, out=self.scratch("total", *shape))
        return torch.sum(y.mul_(self.exp), 1, out=self.scratch("reduced", *shape)).div_(self.total)

    def room(self, y: Tensor) -> Tensor:
        """Memory for dL/dS, [rows, classes]."""
        return self.scratch("grad", y.shape[0], y.shape[2])

    def slope_(self, y: Tensor, s: Tensor, grad: Tensor) -> Tensor:
        """dL/dy from dL/dS, which is in its ``room``, in the place of y; destroys both."""
        y.mul_(grad.div_(self.total).unsqueeze(1))
        grad.addcmul_(grad, s, value=-1)
        return y.addcmul_(self.exp, grad.unsqueeze(1))


TileReduction = TileMaximum | TileSoftMaximum

TILE_REDUCTIONS: dict[str, type[TileReduction]] = {
    "maximum": TileMaximum,
    "soft_maximum": TileSoftMaximum,
}
