"""Settings of every test: one thread, so that parallel test processes do not fight for cores."""

from __future__ import annotations

import pytest
import torch

from fusedml import whole


@pytest.fixture(autouse=True)
def _one_thread_and_exact_products():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=["whole", "tiles"])
def whole_or_tiles(request, monkeypatch):
    """Small problems by whole matrices, and the same by the operators."""
    if request.param == "tiles":
        monkeypatch.setattr(whole, "MOST_PAIRS", -1)
