"""The C++ programs that only a GPU can run are accepted by the compiler; everywhere."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.mutations.mutant import find_compiler, find_cuda_include

ROOT = Path(__file__).parents[2]
COMPILER, CUDA_INCLUDE = find_compiler(), find_cuda_include()

pytestmark = pytest.mark.skipif(
    COMPILER is None or CUDA_INCLUDE is None, reason="no C++ compiler, or none of NVIDIA's headers"
)


@pytest.mark.parametrize("name", ["statistics", "gradient", "positive_pairs"])
def test_kernel_tests_for_a_gpu(name):
    folders = (ROOT / folder for folder in ("csrc", "tests/gpu/native", "tests/csrc"))
    result = subprocess.run(
        [
            *(COMPILER, "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"),
            *(f"-I{folder}" for folder in folders),
            *("-isystem", CUDA_INCLUDE, ROOT / "tests" / "csrc" / "kernels" / f"test_{name}.cpp"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
