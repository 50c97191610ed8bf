"""The extension as a file, and what it registers; everywhere where it is built, without a GPU."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch

import fusedml
from fusedml import native

pytestmark = pytest.mark.skipif(
    not fusedml.HAS_NATIVE, reason=f"no kernels here: {fusedml.NATIVE_ERROR}"
)

# the C shims of LibTorch's stable ABI, Python's limited API, and what every C++ program needs
ALLOWED = r"(aoti_torch_|torch_|Py|_Py|_ITM_|__gmon_start__|__cxa_finalize|_Z[A-Za-z0-9]*St)"


@pytest.fixture(scope="module")
def path():
    from fusedml import _C  # noqa: PLC0415  only where it is built

    return _C.__file__


def output_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_needs_nothing_but_the_stable_abi(path):
    symbols = [
        line.split()[-1] for line in output_of("nm", "-D", "--undefined-only", path).splitlines()
    ]
    # versioned symbols are those of libc and libstdc++
    assert [s for s in symbols if "@" not in s and not re.match(ALLOWED, s)] == []


def test_needs_no_cuda_library_and_no_fixed_path(path):
    dynamic = output_of("readelf", "-d", path)
    for name in ("libtorch_cuda", "libc10", "libcudart", "RUNPATH", "RPATH"):
        assert name not in dynamic


def test_exports_nothing_of_its_own_but_its_entry(path):
    lines = output_of("nm", "-D", "--defined-only", path).splitlines()
    symbols = [line.split()[-1] for line in lines]
    # weak symbols of libstdc++'s templates, and the linker's own
    own = [s for s in symbols if "St" not in s and s not in ("_end", "_edata", "__bss_start")]
    assert own == ["PyInit__C"]


def test_names_no_path_of_the_build(path):
    assert str(native.__file__).rsplit("/fusedml/", 1)[0].encode() not in Path(path).read_bytes()


@pytest.mark.parametrize("name", native.OPERATORS)
def test_registers_cuda_kernels(name):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fusedml::{name}", "CUDA")
    # nowhere else: the backend "torch" is pure PyTorch on every device
    assert not torch._C._dispatch_has_kernel_for_dispatch_key(f"fusedml_torch::{name}", "CUDA")


def test_operators_on_the_cpu_are_still_the_tiled_ones():
    x = torch.randn(5, 3, dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 1, 2])
    logit = torch.tensor([-1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    arguments = (x, None, labels, None, logit, "dot", 0, None, None)
    for ours, theirs in zip(
        torch.ops.fusedml.pair_statistics(*arguments),
        torch.ops.fusedml_torch.pair_statistics(*arguments),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_kernels_see_the_precision_of_float32_products(precision):
    torch.set_float32_matmul_precision(precision)
    assert native.float32_matmul_precision() == precision


def test_kernels_see_the_newer_setting_of_the_precision():
    # mixed with the older one: torch itself refuses to name the precision then
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        assert native.float32_matmul_precision() == "high"
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        assert native.float32_matmul_precision() == "highest"
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
        torch.set_float32_matmul_precision("highest")


def test_cuda_version_is_that_of_the_compiler():
    assert re.fullmatch(r"\d+\.\d", native.cuda_version())
