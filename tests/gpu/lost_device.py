"""Ends a test process whose GPU has faulted: whatever it ran next would fail as well.

After an illegal address every call of CUDA fails until the process ends.  So each test waits for
its kernels, which also makes a fault that of the test that has caused it; and after a fault a
worker of pytest-xdist ends, which starts another in its place, and a process without workers stops.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest


class LostDevice:
    """A plugin.  synchronize: waits for the GPU, and raises RuntimeError once it is lost."""

    def __init__(self, synchronize: Callable[[], None]) -> None:
        self.synchronize = synchronize

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self) -> None:
        self.synchronize()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item):
        yield
        # all that the test has to say has been said: under xdist it has been sent
        try:
            self.synchronize()
        except RuntimeError as error:
            capture = item.config.pluginmanager.getplugin("capturemanager")
            with capture.global_and_fixture_disabled():
                print(f"\n{item.nodeid}: the GPU is lost: {error}", flush=True)
            if hasattr(item.config, "workerinput"):
                os._exit(1)
            item.session.shouldstop = "the GPU is lost"
