"""Settings of the emulated kernels."""

from __future__ import annotations

import pytest


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
