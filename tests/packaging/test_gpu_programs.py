"""The C++ programs that only a GPU can run: compiled, linked and started, everywhere with nvcc."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.gpu_check.binaries import BINARIES, EXTENSION, KERNELS

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "build" / "native" / "libfusedml_kernels.a"
NVCC = shutil.which("nvcc")
# what each is compiled from, beside the headers, and whether it needs the kernels' library
SOURCES = {
    **{
        f"gpu_{test}": (f"tests/csrc/kernels/test_{test}.cpp", ["tests/gpu/native", "tests/csrc"])
        for test in (
            "statistics",
            "gradient",
            "engine",
            "groups",
            "sums",
            "divergences",
            "extreme_pairs",
            "two_sided",
            "positive_pairs",
            "thresholds",
            "listed_pairs",
            "windows",
            "normalize",
        )
    },
    "gpu_timer": ("benchmarks/native/timer.cpp", ["benchmarks/native"]),
    **{
        f"test_{test}_gpu": (f"tests/csrc/test_{test}.cpp", ["tests/csrc"])
        for test in (
            *("primitives", "hopper"),
            *("hopper_product", "hopper_sweep", "hopper_weights", "hopper_special"),
        )
    },
}
# those that load no library, but have kernels of their own
OWN_KERNELS = {name for name in SOURCES if name.startswith("test_")}
# what a test program ends with where there is no GPU, so that ctest says "skipped"
SKIPPED = 77

pytestmark = pytest.mark.skipif(NVCC is None, reason="nvcc was not found")


def is_current(library):
    """Whether `make build` has made it from the sources as they are."""
    folders = (ROOT / "csrc" / name for name in ("core", "heads", "logits", "kernels", "hopper"))
    newest = max(path.stat().st_mtime_ns for folder in folders for path in folder.iterdir())
    return library.exists() and library.stat().st_mtime_ns > newest


@functools.cache
def quickly():
    """How nvcc is told to compile a quarter as long: what it makes of kernels is not run here."""
    listed = subprocess.run([NVCC, "--help"], capture_output=True, text=True, check=True).stdout
    return ["--Ofast-compile=max"] if "--Ofast-compile" in listed else []


def flags_of(name):
    if name in OWN_KERNELS:
        return ["-x", "cu", "-gencode=arch=compute_90a,code=sm_90a", *quickly()]
    return ["-Xcompiler", "-Wall,-Wextra,-Werror"]


@pytest.mark.parametrize("name", SOURCES)
def test_links_and_says_that_there_is_no_gpu(tmp_path, name):
    source, folders = SOURCES[name]
    libraries = []
    if name not in OWN_KERNELS:
        if not is_current(LIBRARY):
            pytest.skip("the kernels are not built from these sources: make build")
        libraries = ["-Xlinker", LIBRARY]
    program = tmp_path / name
    includes = [f"-I{ROOT / folder}" for folder in ["csrc", *folders]]
    result = subprocess.run(
        [NVCC, "-std=c++17", *flags_of(name), *includes, ROOT / source, *libraries, "-o", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    done = subprocess.run([program, "1"], capture_output=True, text=True, check=False)
    assert done.returncode in (0, SKIPPED), done.stdout
    if done.returncode == SKIPPED:
        assert (
            "no CUDA-capable device" in done.stdout
            or "no GPU" in done.stdout
            or ("driver version is insufficient" in done.stdout)
        )


def test_all_programs_are_those_that_the_check_carries():
    assert set(SOURCES) == set(BINARIES) - {EXTENSION, KERNELS}
    for name, (source, _) in SOURCES.items():
        listed = BINARIES[name].sources
        assert any(source == other or source.startswith(f"{other}/") for other in listed), name
