"""The choice of a backend: "auto", "cuda" or "torch"."""

from __future__ import annotations

import torch
from torch import Tensor

from fusedml.ops import BACKENDS


def check_backend(backend: str) -> str:
    """``backend``, if it is one.  Raises ValueError otherwise."""
    if backend not in BACKENDS:
        choices = ", ".join(repr(name) for name in BACKENDS)
        raise ValueError(f"backend must be one of {choices}, got {backend!r}")
    return backend


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
