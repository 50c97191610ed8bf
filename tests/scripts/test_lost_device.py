"""What becomes of a test run whose GPU faults; a flag stands for the fault, as there is no GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CONFTEST = """
import pytest
from tests.gpu.lost_device import LostDevice

FAULTS = []  # of this process, as a context of CUDA is

def synchronize():
    if FAULTS:
        raise RuntimeError("an illegal memory access was encountered")

def pytest_configure(config):
    config.pluginmanager.register(LostDevice(synchronize))

@pytest.fixture
def fault():
    return lambda: FAULTS.append(1)
"""
TESTS = """
import pytest

@pytest.mark.parametrize("k", range(12))
def test_one(k, fault):
    if k == 3:
        fault()  # nothing waits for the kernel here: the test itself sees no error
    if k == 7:
        fault()
        assert k < 0, "error 0.5 > 0.1"
"""


def run(folder, *options):
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_faults.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rfE", *options]
    return subprocess.run(
        [*command, "--rootdir", str(folder), str(folder / "test_faults.py")],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    ).stdout


def test_a_worker_whose_gpu_is_lost_is_replaced(tmp_path):
    pytest.importorskip("xdist")
    output = run(tmp_path, "-n", "2", "--maxschedchunk=1")
    # both faults are the error of their own test, and the others run elsewhere
    assert "11 passed" in output, output
    for k, text in ((3, "an illegal memory access"), (7, "error 0.5 > 0.1")):
        assert f"test_one[{k}]" in output
        assert text in output
    assert output.count("node down") == 2
    for k in (0, 1, 2, 4, 5, 6, 8, 9, 10, 11):
        assert f"test_one[{k}]" not in output.partition("short test summary")[2]


def test_a_process_whose_gpu_is_lost_stops(tmp_path):
    output = run(tmp_path, "-p", "no:xdist")
    assert "test_one[3]: the GPU is lost: an illegal memory access" in output
    assert "4 passed" in output and "1 error" in output, output
    assert "test_one[7]" not in output
