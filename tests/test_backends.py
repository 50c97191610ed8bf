"""The choice of a backend: an explicit one never falls back."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fusedml.engine.backends import check_backend, require_backend


def has_cuda_kernel(operator: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"fusedml::{operator}", "CUDA")


def test_names() -> None:
    for name in ("auto", "cuda", "torch", "dense"):
        assert check_backend(name) == name
    with pytest.raises(ValueError, match=r"backend must be one of .*, 'dense', got 1"):
        check_backend(1)


def test_cuda_needs_cuda_embeddings() -> None:
    with pytest.raises(ValueError, match="embeddings on a CUDA device, got device cpu"):
        require_backend("cuda", torch.zeros(1, 1))


@pytest.mark.skipif(has_cuda_kernel("row_losses"), reason="the compiled kernels are installed")
def test_cuda_needs_the_compiled_kernels() -> None:
    embeddings = SimpleNamespace(device=torch.device("cuda"))
    with pytest.raises(RuntimeError, match="backend='cuda' needs the compiled kernels, and row_lo"):
        require_backend("cuda", embeddings)


def test_the_others_take_everything() -> None:
    embeddings = SimpleNamespace(device=torch.device("cuda"))
    require_backend("auto", embeddings)
    require_backend("torch", embeddings)
