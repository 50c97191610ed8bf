"""These tests need a GPU and the compiled kernels; without them they are skipped, and say why."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fusedml
from fusedml import ops
from tests.gpu.device import BACKEND, IS_EMULATED

HERE = Path(__file__).parent


def load_emulated_binding() -> str | None:
    """Registers the operators of the emulated binding; says why if that is not possible."""
    build = HERE.parents[1] / "build"
    found = sorted(build.rglob("fusedml_emulated_binding.abi3.so"), key=lambda p: p.stat().st_mtime)
    if not found:
        return "the emulated binding is not built: cmake -B build && cmake --build build"
    namespace = "fusedml_emulated_binding"
    ops._LIBRARIES.append(ops.register_backend(namespace, {}, "CompositeExplicitAutograd"))
    ops.BACKENDS[BACKEND] = namespace
    torch.ops.load_library(str(found[-1]))
    return None


REASON = load_emulated_binding() if IS_EMULATED else None


def why_not() -> str | None:
    if IS_EMULATED:
        return REASON
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    if not fusedml.HAS_NATIVE:
        return f"no compiled kernels: {fusedml.NATIVE_ERROR}"
    return None


def pytest_collection_modifyitems(items):
    reason = why_not()
    if reason is None:
        return
    for item in items:
        if HERE in Path(item.fspath).parents:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _no_memory_left_over():
    yield
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
