"""The binding around the emulated kernels: what the tests of the GPU ask of it, without a GPU.

Of tests/gpu those run here that look at the binding: what becomes of the arguments, which outputs
there are, what is said of mistakes.  All of them: FUSEDML_GPU_TESTS=emulated pytest tests/gpu
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SELECTED = {
    "test_gpu_operators.py": "opcheck or promises or errors or needed or scattered or empty "
    "or follows_torch or logit_on or extent or (positive_pairs and 129) "
    "or (listed and (euclidean or out_of)) or normalized or groups or sums "
    "or (extreme and not 1300 and not nearest) or (windows and not 1300)",
    "test_gpu_engine.py": "",
    "test_gpu_losses.py": "learnable or references or checkpoint "
    "or tuples or (value and (highest or medium))",
}


@pytest.mark.parametrize("file", SELECTED)
def test_gpu_tests_on_the_emulated_binding(file):
    if not list((ROOT / "build").rglob("fusedml_emulated_binding.abi3.so")):
        pytest.skip("the emulated binding is not built: cmake -B build && cmake --build build")
    options = ["-q", "-p", "no:cacheprovider", "-o", "addopts=", "-k", SELECTED[file]]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(ROOT / "tests" / "gpu" / file)],
        env={**os.environ, "FUSEDML_GPU_TESTS": "emulated"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-5000:]
    passed = int(re.search(r"(\d+) passed", result.stdout)[1])
    assert passed >= 20
    assert "skipped" not in result.stdout
