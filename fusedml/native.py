"""The compiled CUDA kernels: whether they are loaded, and if not, why.

Importing this module loads the extension, which adds CUDA kernels to ``torch.ops.fusedml``.  It
loads beside a CPU-only torch, too, where nothing calls it.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import NamedTuple

import torch

from fusedml.engine.ops import use_threshold_kernels

OPERATORS = (
    "pair_extrema",
    "two_sided_statistics",
    "two_sided_gradient",
    "extreme_pairs",
    "window_counts",
    "window_pairs",
    "pair_statistics",
    "row_losses",
    "pair_gradient",
    "pair_sums",
    "pair_sums_gradient",
    "row_divergences",
    "row_divergences_gradient",
    "group_statistics",
    "group_gradient",
    "positive_pair_losses",
    "positive_pair_gradient",
    "threshold_sums",
    "threshold_gradient",
    "threshold_pairs",
    "pair_values",
    "pair_values_gradient",
    "normalize_rows",
    "normalize_rows_gradient",
)
"""The operators that have CUDA kernels."""

_NOT_BUILT = (
    "this source tree was not built: pip install --no-build-isolation -e . compiles the kernels"
)


class _Native(NamedTuple):
    module: ModuleType | None
    error: str | None
    architectures: tuple[str, ...] | None


def _load() -> _Native:
    try:
        info = importlib.import_module("fusedml._build_info")
    except ImportError:
        return _Native(None, _NOT_BUILT, None)
    if not info.native:
        return _Native(None, info.reason, None)
    try:
        module = importlib.import_module("fusedml._C")
    except ImportError as error:
        reason = (
            f"the kernels, built with torch {info.torch}, cannot be loaded by torch "
            f"{torch.__version__}: {error}"
        )
        return _Native(None, reason, None)
    return _Native(module, None, info.architectures)


_native = _load()
if _native.module is not None:
    use_threshold_kernels()

HAS_NATIVE: bool = _native.module is not None
"""Whether CUDA tensors are computed by compiled kernels; otherwise by the pure-PyTorch ones."""

NATIVE_ERROR: str | None = _native.error
"""Why there are no compiled kernels, or None."""


def cuda_version() -> str | None:
    """The CUDA runtime inside the kernels, as in "13.0"; None without kernels."""
    if _native.module is None:
        return None
    version = _native.module.cuda_version()
    return f"{version // 1000}.{version % 1000 // 10}"


def hopper_refusal(device: int = 0) -> str | None:
    """Why a GPU has no kernels of Hopper's own instructions; None if it has.

    device: its number.  See ``fusedml.engine.engines``.
    """
    if _native.module is None:
        return "there are no compiled kernels"
    reason: str | None = _native.module.hopper_refusal(device)
    return reason


def float32_matmul_precision() -> str | None:
    """torch.get_float32_matmul_precision() as the kernels see it; None without kernels."""
    return None if _native.module is None else _native.module.float32_matmul_precision()
