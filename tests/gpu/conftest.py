"""These tests need a GPU and the compiled kernels; without them they are skipped, and say why."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.gpu.device import why_not
from tests.gpu.lost_device import LostDevice

HERE = Path(__file__).parent


def pytest_configure(config):
    if torch.cuda.is_available():
        config.pluginmanager.register(LostDevice(torch.cuda.synchronize))


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
