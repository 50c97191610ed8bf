"""What the check runs on: GPU, clocks, versions, tools, and whether the kernels load."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import torch

import fusedml
from benchmarks.commit import current_commit
from scripts.gpu_check.tools import query, tool

_OF_THE_GPU = (
    *("name", "driver_version", "pstate", "clocks.sm", "clocks.max.sm", "clocks.mem"),
    *("power.draw", "power.limit", "temperature.gpu", "memory.total", "memory.used"),
)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "-"


def describe() -> list[str]:
    """Lines for a person."""
    lines = [", ".join(f"{name} {value}" for name, value in query(_OF_THE_GPU).items())]
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        lines.append(
            f"{found.multi_processor_count} multiprocessors, "
            f"L2 {found.L2_cache_size / 2**20:.0f} MiB, {found.total_memory / 1e9:.0f} GB"
        )
    packages = ("numpy", "triton", "pytest", "pytest-xdist", "pytest-timeout")
    return [
        *lines,
        f"python {platform.python_version()}, torch {torch.__version__}, "
        + ", ".join(f"{name} {_version(name)}" for name in packages),
        f"{os.cpu_count()} processors; commit {current_commit() or 'unknown'}",
        "tools: " + ", ".join(tool(name) for name in ("nvcc", "ncu", "compute-sanitizer")),
        f"HAS_NATIVE {fusedml.HAS_NATIVE} {fusedml.NATIVE_ERROR or ''}".rstrip(),
    ]


def main() -> int:
    """1 if there are no kernels."""
    print("\n".join(describe()))
    return 0 if fusedml.HAS_NATIVE else 1


if __name__ == "__main__":
    sys.exit(main())
