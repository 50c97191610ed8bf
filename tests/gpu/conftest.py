"""These tests need a GPU and the compiled kernels; without them they are skipped, with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fusedml

HERE = Path(__file__).parent


def why_not() -> str | None:
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
