"""The choice of a backend: "auto", "cuda" or "torch" operators, or the "dense" formula."""

from __future__ import annotations

import torch
from torch import Tensor

from fusedml.engine.arguments import check_choice
from fusedml.engine.ops import BACKENDS

# the formula on the full matrix, in ordinary PyTorch: it has no operators
DENSE = "dense"


def check_backend(backend: str, needs_operators: bool = False) -> str:
    """``backend``, if it is one.  Raises ValueError otherwise.

    needs_operators: "dense" is none then.
    """
    names = [*BACKENDS] if needs_operators else [*BACKENDS, DENSE]
    checked: str = check_choice("backend", backend, names)
    return checked


def _has_kernel(operator: str, device: str) -> bool:
    key = torch._C._dispatch_key_for_device(device)
    return torch._C._dispatch_has_kernel_for_dispatch_key(operator, key)


# All that torch.compiler.assume_constant_result does, beside importing the whole compiler, which
# takes as long as importing torch.
_has_kernel._dynamo_marked_constant = True  # type: ignore[attr-defined]


def has_kernels(backend: str, embeddings: Tensor, operator: str = "row_losses") -> bool:
    """Whether a backend has kernels for the device of the embeddings, not the tiled operators."""
    return _has_kernel(f"{BACKENDS[backend]}::{operator}", embeddings.device.type)


def require_backend(backend: str, embeddings: Tensor, operator: str = "row_losses") -> None:
    """Raises if an explicitly chosen backend cannot compute on these embeddings.

    Raises ValueError for backend="cuda" with embeddings that are not on a CUDA device, and
    RuntimeError if the compiled kernels are not installed.
    """
    if backend != "cuda":
        return
    if embeddings.device.type != "cuda":
        raise ValueError(
            f"backend='cuda' needs embeddings on a CUDA device, got device {embeddings.device}"
        )
    if not has_kernels(backend, embeddings, operator):
        raise RuntimeError(
            f"backend='cuda' needs the compiled kernels, and {operator} has none in this "
            "installation; `python -m fusedml` says why"
        )
