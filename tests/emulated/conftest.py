"""The emulated kernels' tests need the module that CMake builds; without it they are skipped."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def emulated():
    """The backend module; importing it registers the operators of the backend "emulated"."""
    path = Path(__file__).parent / "backend.py"
    spec = importlib.util.spec_from_file_location("fusedml_emulated_backend", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        pytest.skip(str(error))
    return module


@pytest.fixture(params=["rows", "panel"])
def route(request, emulated):
    """Both routes of the backward; panels small enough that several add up."""
    emulated.OPTIONS.update(route=request.param, max_panel_bytes=128 * 128 * 4)
    yield request.param
    emulated.OPTIONS.update(route="auto", max_panel_bytes=0)


@pytest.fixture(params=["nearest", "truncate"])
def mma_rounding(request, emulated):
    """How the tensor cores round their sums; a TF32 operand that was not rounded is a fault."""
    emulated.kernels.set_mma_rounding(request.param)
    emulated.kernels.set_strict_tf32(True)
    yield request.param
    emulated.kernels.set_mma_rounding("nearest")
    emulated.kernels.set_strict_tf32(False)
