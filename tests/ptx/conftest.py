"""Fixtures: nvcc, and kernels as PTX."""

import gc
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for `interpreter`, `sources`, ...

from interpreter import Module
from sources import ARCHITECTURES, CSRC, UNIT_KERNELS, run_nvcc


@pytest.fixture(autouse=True, scope="module")
def _no_collections():
    """Compiled instructions are objects by the hundred thousand, of which none is garbage before
    the end of a test: looking for it takes almost as long as the tests themselves."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="session")
def nvcc():
    """Path of nvcc, or a skip."""
    found = shutil.which("nvcc")
    if found is None:
        pytest.skip("nvcc was not found: there is no PTX to interpret")
    return found


@pytest.fixture(scope="session")
def compile_ptx(nvcc, tmp_path_factory):
    """function(source, architecture, include=csrc) -> the PTX text that nvcc emits."""

    def compile_source(source, architecture, include=CSRC):
        output = tmp_path_factory.mktemp("ptx") / "kernels.ptx"
        run_nvcc(nvcc, source, output, "-ptx", f"-arch=compute_{architecture}", include=include)
        return output.read_text()

    return compile_source


@pytest.fixture(scope="session", params=ARCHITECTURES)
def unit_kernels(request, compile_ptx):
    """The unit kernels of tests/csrc as an interpreter.Module, for each architecture."""
    return Module(compile_ptx(UNIT_KERNELS, request.param))
