"""Batches: gradients of ``torch.autograd.grad(..., is_grads_batched=True)``, labels of vmap.

PyTorch runs a backward once with all of them, in tensors that only some of its operators take.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

# PyTorch nests no more of them
_MOST_LEVELS = 64


def one_by_one(backward: Callable[..., Any]) -> Callable[..., Any]:
    """The backward of a Function, called with each gradient of a batch."""

    @functools.wraps(backward)
    def of_batch(ctx: Any, *grads: Tensor | None) -> Any:
        if torch.compiler.is_compiling():
            return backward(ctx, *grads)
        batched = [x for x in grads if x is not None and _is_batched(x)]
        if not batched:
            return backward(ctx, *grads)
        level = _level(batched[0])
        size = torch._remove_batch_dim(batched[0], level, 1, 0).shape[0]
        each = [
            x
            if x is None or not _is_batched(x)
            else torch._remove_batch_dim(x, level, size, 0).unbind()
            for x in grads
        ]
        results = [
            backward(ctx, *(x[k] if isinstance(x, tuple) else x for x in each)) for k in range(size)
        ]
        return tuple(
            torch._add_batch_dim(torch.stack(of), 0, level) if isinstance(of[0], Tensor) else of[0]
            for of in zip(*results, strict=True)
        )

    return of_batch


@contextmanager
def batches_explained(
    owner: str, labels: Tensor | None, others: Tensor | None, indices: Sequence[Tensor] | None
) -> Iterator[None]:
    """Says what vmap cannot do where PyTorch says which of its operators could not.

    owner: the loss.  labels, others, indices: what it was called with, each perhaps a batch.
    """
    if indices is not None and any(map(_is_in_vmap, indices)):
        raise NotImplementedError(
            f"indices_tuple must be the same for all of the batch under vmap, got {owner} of one "
            "whose tensors are batches: call it in a loop"
        )
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, NotImplementedError) or not any(map(_is_in_vmap, (labels, others))):
            raise
        raise NotImplementedError(
            f"{owner} lists pairs by their labels here, and of labels that differ in the batch of "
            "vmap there may be more of one than of another: call it in a loop, or with a reducer "
            "that takes no list, such as MeanReducer"
        ) from error


def _is_in_vmap(x: Tensor | None) -> bool:
    """Whether it differs within a batch, at whatever level of the transforms."""
    functorch = torch._C._functorch
    while isinstance(x, Tensor) and not functorch.is_batchedtensor(x):
        if not functorch.is_gradtrackingtensor(x):
            return False
        x = functorch.get_unwrapped(x)
    return x is not None


def _is_batched(x: Tensor) -> bool:
    return bool(torch._C._functorch.is_legacy_batchedtensor(x))


def _level(x: Tensor) -> int:
    """The number of the batch that PyTorch knows it by."""
    for level in range(1, _MOST_LEVELS + 1):
        if not _is_batched(torch._remove_batch_dim(x, level, 1, 0)):
            return level
    raise NotImplementedError("fusedml: a batch of batches of gradients is not supported")
