"""Embeddings divided by their norms by a backend's kernels: one forward, one backward."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from fusedml.engine.backends import has_kernels
from fusedml.engine.functions import Underived
from fusedml.engine.ops import operator
from fusedml.engine.precision import Normalizer
from fusedml.engine.row_order import RowOrder

_NARROWED = (torch.bfloat16, torch.float16)


class NormalizedRows(torch.autograd.Function):
    """The rows of x, [n, d], in another order, divided by their norms, in ``dtype``; the norms.

    Keeps x, not a copy of it.
    """

    @staticmethod
    def forward(
        backend: str, x: Tensor, order: Tensor | None, places: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        return operator("normalize_rows", backend)(x, order, dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        ctx.backend, x, _, places, _ = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(x, places, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[None, Tensor, None, None, None]:
        args = [*ctx.saved_tensors, grad.contiguous()]
        name = "normalize_rows_gradient"
        function = operator(name, ctx.backend)
        # only under create_graph=True is the gradient itself recorded
        is_recorded = torch.is_grad_enabled()
        x_grad = Underived.apply(name, function, *args) if is_recorded else function(*args)
        return None, x_grad, None, None, None


# found here once, not in each call, see ``engine.functions``
NormalizedRows.forward.__signature__ = inspect.signature(NormalizedRows.forward)  # type: ignore[attr-defined]


def row_normalizer(backend: str, embeddings: Tensor) -> Normalizer | None:
    """What normalises rows in one kernel, if a backend has it for the device of the embeddings."""
    if not has_kernels(backend, embeddings, "normalize_rows"):
        return None

    def normalizer(x: Tensor, dtype: torch.dtype, order: RowOrder | None) -> Tensor | None:
        is_narrowed = x.dtype == torch.float32 and dtype in _NARROWED
        if not (x.dtype == dtype or is_narrowed) or torch._C._are_functorch_transforms_active():
            return None
        return NormalizedRows.apply(backend, x, *(order or (None, None)), dtype)[0]

    return normalizer
