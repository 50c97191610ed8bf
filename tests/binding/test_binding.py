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
# one number type of each size: the others differ in kernels, which other tests run
SIZES = "(bfloat16 or highest or float64)"
SELECTED = {
    "test_gpu_operators": "((opcheck or promises) and not dtype1) or errors or needed or scattered "
    "or empty or follows_torch or logit_on or extent or (positive_pairs and 129) or out_of "
    "or normalized or (sums and not 140) "
    f"or ({SIZES} and ((listed and euclidean) or groups or (windows and not 1300) "
    "or (extreme and not 1300 and not nearest)))",
    "test_gpu_engine": "test",
    "test_gpu_losses": "learnable or references or checkpoint or tuples or (value and medium)",
}


def test_gpu_tests_on_the_emulated_binding():
    """In one process, which imports torch once."""
    if not list((ROOT / "build").rglob("fusedml_emulated_binding.abi3.so")):
        pytest.skip("the emulated binding is not built: cmake -B build && cmake --build build")
    selected = " or ".join(f"({file} and ({tests}))" for file, tests in SELECTED.items())
    options = ["-v", "-p", "no:cacheprovider", "-o", "addopts=", "-k", selected]
    files = [str(ROOT / "tests" / "gpu" / f"{file}.py") for file in SELECTED]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *files],
        env={**os.environ, "FUSEDML_GPU_TESTS": "emulated"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-5000:]
    for file in SELECTED:
        assert len(re.findall(rf"{file}\.py::.* PASSED", result.stdout)) >= 20
    assert "skipped" not in result.stdout
