"""The launches of every kernel are those of the committed table, and fit every GPU that is meant.

They need the emulated library, but neither nvcc nor the interpreter.
"""

import kernel_library
import pytest
from kernel_api import KernelLibrary
from kernel_launches import find_library, read_table, recorded_launches

KIB = 1024
RESERVED = KIB  # of shared memory, by the system, per block
SMALLEST = 100 * KIB  # of a multiprocessor, of sm_86, sm_89 and sm_120, which run the code of sm_80


@pytest.fixture(scope="module")
def launches():
    path = find_library()
    if path is None:
        pytest.skip("the emulated kernels are not built: cmake -B build && cmake --build build")
    library = KernelLibrary(path)
    found = recorded_launches(library)
    library.close()
    return found


def test_launches_are_those_of_the_table(launches):
    assert launches == read_table(), "python tests/ptx/kernel_launches.py --write"


def test_every_compiled_kernel_is_launched():
    compiled = {(t, name) for a, t, name in kernel_library.read_table() if a == "80"}
    assert set(read_table()) == compiled


def test_shared_memory_fits():
    budgets = kernel_library.read_table()
    for (number_type, kernel), (threads, dynamic_bytes) in read_table().items():
        for architecture in ("80", "90a"):
            registers, static_bytes = budgets[architecture, number_type, kernel]
            total = static_bytes + dynamic_bytes + RESERVED
            assert total <= SMALLEST, f"sm_{architecture} {number_type} {kernel}: {total} bytes"
            assert registers * threads <= 65536
