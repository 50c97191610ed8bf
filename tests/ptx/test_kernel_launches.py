"""The launches of every kernel are those of the committed table, and fit every GPU that is meant.

They need the emulated library, but neither nvcc nor the interpreter.
"""

import kernel_library
import pytest
from kernel_api import KernelLibrary
from kernel_launches import find_library, read_table, recorded_launches

KIB = 1024
RESERVED = KIB  # of shared memory, by the system, per block


@pytest.fixture(scope="module")
def launches():
    path = find_library()
    if path is None:
        pytest.skip("the emulated kernels are not built: cmake -B build && cmake --build build")
    library = KernelLibrary(path)
    found = recorded_launches(library)
    library.module = None
    return found


def test_launches_are_those_of_the_table(launches):
    assert launches == read_table(), "python tests/ptx/kernel_launches.py --write"


def test_every_compiled_kernel_is_launched():
    compiled = {(t, name) for a, t, name in kernel_library.read_table() if a == "80"}
    launched = set(read_table())
    # only fp16 scales its weights, but every type's file holds the kernel
    unused = {(number_type, "weight_scale") for number_type in ("bf16", "tf32", "fp32", "fp64")}
    assert launched <= compiled
    assert compiled - launched <= unused


def test_shared_memory_fits():
    budgets = kernel_library.read_table()
    for (number_type, kernel), (threads, dynamic_bytes) in read_table().items():
        registers, static_bytes = budgets["80", number_type, kernel]
        total = static_bytes + dynamic_bytes + RESERVED
        assert total <= 164 * KIB, f"{number_type} {kernel}: {total} bytes, sm_80 has 164 KiB"
        assert registers * threads <= 65536
