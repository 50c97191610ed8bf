"""Settings of every test: one thread, so that parallel test processes do not fight for cores."""

from __future__ import annotations

import gc
import importlib.util
from pathlib import Path

import pytest
import torch

from fusedml.engine import few_positives, group_losses, ops, whole, whole_targets


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """A million objects of modules and tests live to the end: no collection looks at them.

    And few look at what the tests make: with Python's own numbers they take a tenth of the time.
    """
    gc.disable()
    result = yield
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)
    gc.enable()
    return result


def _seed(number):
    """``torch.manual_seed``, which keeps the stack of its call for each device that there is not:
    a tenth of the time of all tests.
    """
    if torch.cuda.is_available():
        torch.manual_seed(number)
    else:
        torch.default_generator.manual_seed(number)


@pytest.fixture(autouse=True)
def _one_thread_and_exact_products():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    _seed(0)
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _graphs_without_breaks(monkeypatch):
    """Older compilers break the graph at every call of a loss: nothing is promised of them."""
    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 10):
        return

    def skip(*_, **__):
        pytest.skip("graphs without breaks need PyTorch 2.10")

    monkeypatch.setattr(torch, "compile", skip)
    monkeypatch.setattr(torch.export, "export", skip)


def pytest_generate_tests(metafunc):
    if "whole_or_tiles" in metafunc.fixturenames:
        kernels = ["whole", "tiles"]
        if metafunc.definition.get_closest_marker("also_emulated"):
            kernels.append("emulated")
        metafunc.parametrize("whole_or_tiles", kernels, indirect=True)


@pytest.fixture
def whole_or_tiles(request, monkeypatch):
    """Small problems by whole matrices, or groups by strips, and the same by the operators.

    With the mark ``also_emulated`` as well by the operators whose kernels the emulator executes.
    """
    if request.param != "whole":
        monkeypatch.setattr(whole, "MOST_PAIRS", -1)
        monkeypatch.setattr(whole_targets, "MOST_PAIRS", -1)
        monkeypatch.setattr(group_losses, "STRIP_ELEMENTS", -1)
        monkeypatch.setattr(few_positives, "MOST_PER_ROW", -1)
    if request.param == "emulated":
        backend = request.getfixturevalue("emulated")
        monkeypatch.setitem(ops.BACKENDS, "auto", backend.NAMESPACE)
    return request.param


@pytest.fixture(scope="session")
def _emulated_backend():
    path = Path(__file__).parent / "emulated" / "backend.py"
    spec = importlib.util.spec_from_file_location("fusedml_emulated_backend", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        return str(error)
    return module


@pytest.fixture
def emulated(_emulated_backend, monkeypatch):
    """The module of the backend "emulated", which there is during the test.

    It needs the kernels that CMake builds for the emulator; without them the test is skipped.
    """
    if isinstance(_emulated_backend, str):
        pytest.skip(_emulated_backend)
    monkeypatch.setitem(ops.BACKENDS, "emulated", _emulated_backend.NAMESPACE)
    return _emulated_backend
