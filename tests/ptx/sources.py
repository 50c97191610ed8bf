"""Where the kernels' sources are, and how nvcc turns them into PTX."""

import subprocess
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
CSRC = ROOT / "csrc"
UNIT_KERNELS = TESTS / "csrc" / "unit_kernels.cu"
HOPPER_KERNELS = TESTS / "csrc" / "hopper_kernels.cu"
ARCHITECTURES = ("80", "90")


def run_nvcc(nvcc, source, output, *flags, include=CSRC):
    """Runs nvcc; returns what it printed.  AssertionError with its messages if it fails."""
    language = ["-std=c++17", "--expt-relaxed-constexpr"]  # as cmake/Native.cmake
    command = [nvcc, *language, "-O3", f"-I{include}", f"-I{TESTS / 'csrc'}", *flags]
    result = subprocess.run(
        [*command, str(source), "-o", str(output)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr
