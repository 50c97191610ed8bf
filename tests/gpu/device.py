"""What the tests run on.

FUSEDML_GPU_TESTS=emulated runs the tests that need no more than the operators without a GPU, on the
same binding around the emulated kernels; tests/binding does so.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fusedml
from fusedml.engine import ops
from fusedml.engine.pairs import PairProblem

IS_EMULATED = os.environ.get("FUSEDML_GPU_TESTS") == "emulated"
DEVICE = "cpu" if IS_EMULATED else "cuda"
BACKEND = "emulated_binding" if IS_EMULATED else "cuda"
# where numbers of a loss may lie, once each
DEVICES = tuple(dict.fromkeys(("cpu", DEVICE)))

BUILD = Path(__file__).resolve().parents[2] / "build"


def why_not() -> str | None:
    """Why nothing can run on BACKEND here; None if it can."""
    if IS_EMULATED:
        return _WHY_NOT_EMULATED
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    if not fusedml.HAS_NATIVE:
        return f"no compiled kernels: {fusedml.NATIVE_ERROR}"
    return None


def _load_emulated_binding() -> str | None:
    """Registers the operators of the emulated binding; says why if that is not possible."""
    found = sorted(BUILD.rglob("fusedml_emulated_binding.abi3.so"), key=lambda p: p.stat().st_mtime)
    if not found:
        return "the emulated binding is not built: cmake -B build && cmake --build build"
    namespace = "fusedml_emulated_binding"
    ops._LIBRARIES.append(ops.register_backend(namespace, {}, "CompositeExplicitAutograd"))
    ops.BACKENDS[BACKEND] = namespace
    torch.ops.load_library(str(found[-1]))
    return None


_WHY_NOT_EMULATED = _load_emulated_binding() if IS_EMULATED else None

needs_gpu = pytest.mark.skipif(IS_EMULATED, reason="needs more of a GPU than its operators")


def operator(name: str) -> Callable[..., Any]:
    return ops.operator(name, BACKEND)


def on_device(problem: PairProblem) -> PairProblem:
    """The problem on the GPU, with embeddings that are leaves as before."""

    def move(x: Tensor | None) -> Tensor | None:
        if x is None or not x.requires_grad:
            return None if x is None else x.to(DEVICE)
        return x.detach().to(DEVICE).requires_grad_()

    return problem._replace(
        anchors=move(problem.anchors),
        references=move(problem.references),
        anchor_labels=move(problem.anchor_labels),
        reference_labels=move(problem.reference_labels),
        extent=move(problem.extent),
    )


def spread(x: Tensor) -> Tensor:
    """The same values with gaps between them in memory."""
    wide = x.new_zeros(*x.shape[:-1], 2 * x.shape[-1] + 1)
    view = wide[..., ::2][..., : x.shape[-1]]
    view.copy_(x)
    return view
