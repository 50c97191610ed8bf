"""The kernels' machine code: no spills, no local memory, no atomics, the tensor cores' instructions
that are meant, and no more registers or static shared memory than the table allows.

Looked at is what `make build` has compiled, or `make test`, which in a fresh clone makes machine
code of fp16 for sm_90a and of fp32 for sm_80 alone; what FUSEDML_BUDGET_ARCHITECTURES="80 90a" asks
for; and where nothing is built sm_80, which is compiled then.  kernel_library.DISASSEMBLED says of
which the instructions are looked at.
"""

import os

import pytest
from budgets import Budget, find_cuobjdump, violations
from kernel_launches import read_table as read_launches
from kernel_library import (
    NUMBER_TYPES,
    built_object,
    compiled_kernels,
    disassembler,
    has_machine_code,
    read_table,
    short_names,
)

ASKED_FOR = os.environ.get("FUSEDML_BUDGET_ARCHITECTURES", "").split()
ARCHITECTURES = list(dict.fromkeys([*ASKED_FOR, "80", "90a"]))

# The matrix products of each number type: the one instruction, and none of another kind.
PRODUCTS = {
    "bf16": "HMMA.16816.F32.BF16",
    "fp16": "HMMA.16816.F32",
    "tf32": "HMMA.1688.F32.TF32",
    "fp32": "HMMA.1688.F32.TF32",
    "fp64": "DFMA",
}
KIB = 1024
MULTIPROCESSOR_SHARED_BYTES = {"80": 164 * KIB, "90a": 228 * KIB}
WITH_PRODUCTS = (
    *("pair_sweep", "pair_weights", "gradient_rows", "weights_product"),
    *("threshold_sweep", "threshold_weights", "threshold_pairs", "window_sweep"),
)
# Tiles all of whose pairs are counted negatives are ordinary: their epilogue is one basic block.
# Kernel: pairs of a thread, of which each takes one exponential, and at most so many instructions.
EPILOGUES = {
    "pair_weights affine": (64, 5),
    "pair_weights euclidean": (64, 14.5),
    "gradient_rows affine d<=64": (32, 5.5),
    "gradient_rows affine d<=128": (32, 5.5),
    "gradient_rows euclidean d<=64": (32, 16),
    "gradient_rows euclidean d<=128": (32, 16),
}
# The forward sweep goes through several, from the largest logit of a thread's pairs to the sums of
# its rows and columns: pairs of a thread and, at most, instructions of a pair.
PLAIN_PATHS = {
    "pair_sweep affine statistics": (64, 7.5),
    "pair_sweep curved statistics": (64, 7.5),
    "pair_sweep euclidean statistics": (64, 7.5),
    "pair_sweep affine statistics small": (16, 11),
    "pair_sweep curved statistics small": (16, 11),
    "pair_sweep euclidean statistics small": (16, 11),
}
# Of a slice of the main loop: at most so many instructions, products and copies among them.
MAIN_LOOPS = {
    "pair_sweep affine statistics": 215,
    "pair_sweep curved statistics": 215,
    "pair_sweep euclidean statistics": 215,
    "pair_sweep affine extrema": 215,
    "pair_sweep euclidean extrema": 215,
    "pair_sweep affine positive_pairs": 150,
    "pair_sweep any measure sums": 150,
    "pair_sweep any measure extreme pairs": 150,
    "pair_weights any measure sums": 150,
    "pair_sweep two products divergences": 150,
    "pair_weights two products divergences": 150,
    "pair_sweep curved positive_pairs": 150,
    "pair_sweep euclidean positive_pairs": 150,
    "pair_weights affine": 215,
    "pair_weights curved": 215,
    "pair_weights euclidean": 215,
    "weights_product affine": 275,
    "weights_product euclidean": 305,
    "pair_sweep affine statistics small": 150,
    "pair_sweep curved statistics small": 150,
    "pair_sweep euclidean statistics small": 150,
    "pair_sweep affine extrema small": 150,
    "pair_sweep euclidean extrema small": 150,
    "pair_weights affine small": 150,
    "pair_weights curved small": 150,
    "pair_weights euclidean small": 150,
    "weights_product affine small": 150,
    "weights_product euclidean small": 175,
    "pair_sweep statistics grouped columns": 225,
    "pair_weights grouped columns": 225,
    "pair_weights grouped rows": 225,
}
# Doubles of a tile whose threads hold all vectors of a class do not fit in registers beside what
# the sweep keeps from tile to tile.  Float64 is for gradcheck, not for speed.
SPILLING = {("fp64", "pair_sweep statistics grouped columns")}
# Partial results have one writer each and are merged in a fixed order; but whole numbers, whose
# sums are the same in any order, may be added without a result.
ATOMICS = ("ATOM", "ATOMG", "ATOMS", "RED", "REDG")
COUNTING = ("threshold_sweep",)


@pytest.fixture(
    scope="module",
    params=[(a, t) for a in ARCHITECTURES for t in NUMBER_TYPES],
    ids="-".join,
)
def compiled(request, nvcc):
    """(architecture, number type, {short name: Usage})."""
    architecture, number_type = request.param
    built = built_object(number_type)
    is_there = architecture == "80" if built is None else has_machine_code(built, architecture)
    if not is_there and architecture not in ASKED_FOR:
        pytest.skip(
            f"sm_{architecture} takes a minute more: make build, then there is nothing to compile"
        )
    usages = compiled_kernels(nvcc, number_type, architecture)
    return architecture, number_type, short_names(usages)


def require_machine_code(architecture, number_type):
    """Skips the test where these kernels are not disassembled."""
    if find_cuobjdump() is None:
        pytest.skip(
            "cuobjdump was not found: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"
        )
    if disassembler(architecture, number_type) is None:
        pytest.skip("the instructions of these kernels are not looked at")


def required_opcodes(number_type, kernel):
    """What the kernel's machine code must hold, and how often at least."""
    if not kernel.startswith(WITH_PRODUCTS):
        return {}
    # wide copies past the registers and the first-level cache, in groups
    required = {"LDGSTS.E.BYPASS.128": 2, "LDGDEPBAR": 1, PRODUCTS[number_type]: 8}
    if number_type == "fp64":
        return required
    required["LDSM.16.M88.4"] = 2
    if number_type in ("bf16", "fp16") and kernel.startswith(("gradient_rows", "weights_product")):
        required["LDSM.16.MT88.4"] = 1  # embeddings, across the rows of a slice
    return required


def excesses(architecture, number_type, kernel, usage):
    registers, shared_bytes = read_table()[architecture, number_type, kernel]
    is_known = disassembler(architecture, number_type) is not None
    required = required_opcodes(number_type, kernel) if is_known else {}
    may_spill = (number_type, kernel) in SPILLING
    atomics = ATOMICS[:3] if kernel.startswith(COUNTING) else ATOMICS
    forbidden = atomics if may_spill else ("STL", "LDL", *atomics)
    budget = Budget(registers, shared_bytes, required, forbidden, may_spill)
    return violations(usage, budget)


def test_kernels_stay_within_their_budgets(compiled):
    architecture, number_type, usages = compiled
    problems = [
        f"{kernel}: {problem}"
        for kernel, usage in usages.items()
        for problem in excesses(architecture, number_type, kernel, usage)
    ]
    assert problems == [], "if it is meant: python tests/ptx/kernel_library.py --write"


def test_table_lists_these_kernels(compiled):
    architecture, number_type, usages = compiled
    listed = {name for a, t, name in read_table() if (a, t) == (architecture, number_type)}
    assert set(usages) == listed, "python tests/ptx/kernel_library.py --write"


def test_no_product_of_another_type(compiled):
    architecture, number_type, usages = compiled
    require_machine_code(architecture, number_type)
    for kernel, usage in usages.items():
        meant = usage.opcodes.get(PRODUCTS[number_type], 0)
        assert usage.count("HMMA") + usage.count("DMMA") == (0 if number_type == "fp64" else meant)
        assert meant > 0 or not kernel.startswith(WITH_PRODUCTS), kernel


def test_two_blocks_share_a_multiprocessor(compiled):
    """65536 registers: the gradient with 128 threads, the 16-bit weights with 256 and, where two
    blocks' shared memory fits, the 16-bit sweep of the dot product with 256."""
    architecture, number_type, usages = compiled
    if number_type not in ("bf16", "fp16"):
        return
    shared_bytes = read_launches()[number_type, "pair_sweep affine statistics"][1]
    fits = 2 * (shared_bytes + KIB) <= MULTIPROCESSOR_SHARED_BYTES[architecture]
    assert (usages["pair_sweep affine statistics"].registers <= 128) == fits
    for kernel, usage in usages.items():
        if kernel.startswith("gradient_rows"):
            assert usage.registers <= 256
        if kernel.startswith("pair_weights") and "grouped" not in kernel:
            assert usage.registers <= 128


@pytest.fixture
def sixteen_bit_usages(compiled):
    """{short name: Usage} of a number type of 16 bits, disassembled."""
    architecture, number_type, usages = compiled
    if number_type not in ("bf16", "fp16"):
        pytest.skip("instructions are counted for the number types of 16 bits")
    require_machine_code(architecture, number_type)
    return usages


def test_epilogues_have_few_instructions(sixteen_bit_usages):
    for kernel, (pairs, most) in EPILOGUES.items():
        epilogue = sixteen_bit_usages[kernel].epilogue
        assert epilogue["MUFU.EX2"] == pairs, kernel
        assert epilogue.total() <= most * pairs, kernel


def test_plain_parts_of_the_sweep_have_few_instructions(sixteen_bit_usages):
    for kernel, (pairs, most) in PLAIN_PATHS.items():
        path = sixteen_bit_usages[kernel].plain_path
        assert path["MUFU.EX2"] == pairs, kernel
        assert path.total() <= most * pairs, kernel


def test_main_loops_have_few_instructions(sixteen_bit_usages):
    with_loop = {kernel for kernel, usage in sixteen_bit_usages.items() if usage.main_loop}
    assert with_loop == set(MAIN_LOOPS)
    for kernel, most in MAIN_LOOPS.items():
        assert sixteen_bit_usages[kernel].main_loop.total() <= most, kernel
