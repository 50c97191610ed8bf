"""The machine code of csrc/hopper: products that are not serialised, their operands' layouts, no
spills, and no more registers than a consuming warpgroup takes."""

import re
import subprocess
from collections import Counter
from itertools import groupby
from types import SimpleNamespace

import pytest
from budgets import extract, find_cuobjdump, parse_resource_usage, run_cuobjdump
from kernel_library import built_object
from sources import CSRC, run_nvcc

MOST_REGISTERS = 240
WIDTHS = {128, 192, 256}
# Kernels of mma.sync for the tiles outside plain squares: registers of one block of 256 threads, of
# two, and of two of 128.
SPECIAL = {"pair_sweep": 255, "pair_weights": 128, "gradient_rows": 255}
# Products that follow one another, of a slice of 64 dimensions: where ptxas waits for every single
# one, which it says in messages as C7510, they stand alone.
SLICE_PRODUCTS = 4


def _listings(text):
    """{mangled name: machine code} of cuobjdump -sass."""
    parts = re.split(r"Function : ([\w$.]+)", text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.fixture(scope="module", params=["bf16", "fp16"])
def compiled(request, nvcc, tmp_path_factory):
    cuobjdump = find_cuobjdump()
    if cuobjdump is None:
        pytest.skip("cuobjdump was not found")
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True)
    if "release 13.0" not in version.stdout:
        pytest.skip("what ptxas makes of wgmma is held to nvcc 13.0, with which wheels are built")
    folder = tmp_path_factory.mktemp("hopper")
    if built := built_object(request.param, "hopper"):
        (cubin,) = (path for path in extract(cuobjdump, built, folder) if path.suffix == ".cubin")
    else:
        cubin = folder / "kernels.cubin"
        run_nvcc(nvcc, CSRC / "hopper" / f"{request.param}.cu", cubin, "-cubin", "-arch=sm_90a")
    return SimpleNamespace(
        usages=parse_resource_usage(run_cuobjdump(cuobjdump, "-res-usage", cubin)),
        listings=_listings(run_cuobjdump(cuobjdump, "-sass", cubin)),
        number_type={"bf16": ".BF16", "fp16": ""}[request.param],
    )


def _products(listing):
    """[(columns, number type, operands that are transposed)] of the products, in order."""
    found = re.findall(r"HGMMA\.64x(\d+)x16\.F32(\.BF16)? ([^;]*);", listing)
    transposed = (tuple(re.findall(r"tnsp[AB]", operands)) for _, _, operands in found)
    return [(int(cols), kind, t) for (cols, kind, _), t in zip(found, transposed, strict=True)]


def _count(listing, opcode):
    return len(re.findall(rf"\b{opcode}\b", listing))


def test_products_are_not_serialised(compiled):
    with_products = [text for text in compiled.listings.values() if "HGMMA" in text]
    assert len(with_products) == 7
    for listing in with_products:
        order = re.findall(r"\b(HGMMA|WARPGROUP\.DEPBAR)\b", listing)
        runs = [len(list(run)) for opcode, run in groupby(order) if opcode == "HGMMA"]
        assert min(runs) >= SLICE_PRODUCTS


def test_operands_of_the_products(compiled):
    """Of each width: the first slice and the loop, 4 steps each, for H E and for H^T E."""
    widths = set()
    for name, listing in compiled.listings.items():
        if "hopper_product_kernel" not in name:
            continue
        products = _products(listing)
        assert {kind for _, kind, _ in products} == {compiled.number_type}
        widths |= {cols for cols, _, _ in products}
        majors = Counter(transposed for _, _, transposed in products)
        assert majors == {("tnspB",): 8, ("tnspA", "tnspB"): 8}
    assert widths == WIDTHS


def test_the_sweep_has_one_exponential_for_a_pair(compiled):
    """64 x 256 pairs of 128 threads; the sums of columns take 56 exchanges by halving, not 192."""
    (listing,) = (text for name, text in compiled.listings.items() if "hopper_sweep" in name)
    assert _products(listing) == [(256, compiled.number_type, ())] * 8
    assert _count(listing, r"MUFU\.EX2") == 128
    assert _count(listing, r"SHFL\.BFLY") == 56 + 4
    # the epilogue comes when nothing of its group is in flight any more
    assert listing.rindex("WARPGROUP.DEPBAR") < listing.index("MUFU.EX2")


def test_the_panel_has_one_exponential_for_a_pair(compiled):
    (listing,) = (text for name, text in compiled.listings.items() if "hopper_weights" in name)
    assert _products(listing) == [(256, compiled.number_type, ())] * 8
    assert _count(listing, r"MUFU\.EX2") == 128
    assert _count(listing, r"F2FP[.\w]*") == 64
    assert listing.rindex("WARPGROUP.DEPBAR") < listing.index("MUFU.EX2")


@pytest.mark.parametrize("dims", [64, 128])
def test_route_a_overlaps_weights_with_products(compiled, dims):
    """In the loop both products are under way, then all exponentials, then the second wait."""
    (listing,) = (text for name, text in compiled.listings.items() if f"RowsTileILi{dims}E" in name)
    assert {cols for cols, _, _ in _products(listing)} == {128, dims}
    order = re.findall(r"\b(HGMMA|WARPGROUP\.DEPBAR|MUFU\.EX2|F2FP)\b", listing)
    runs = [(opcode, len(list(run))) for opcode, run in groupby(order)]
    loop = [("HGMMA", dims // 16 + 8), ("WARPGROUP.DEPBAR", 1), ("MUFU.EX2", 64)]
    starts = [i for i in range(len(runs)) if runs[i : i + 3] == loop]
    assert len(starts) == 1
    assert [opcode for opcode, _ in runs[starts[0] + 3 : starts[0] + 5]] == [
        "WARPGROUP.DEPBAR",
        "F2FP",
    ]


def _special_kernel(name):
    """Which of SPECIAL it is an instance of, or None."""
    return next((kernel for kernel in SPECIAL if f"{kernel}_kernel" in name), None)


def test_kernels_for_the_other_tiles(compiled):
    """Of mma.sync, for the tiles outside plain squares; of none of csrc/kernels' own instances is
    there a second one."""
    found = Counter()
    for name, listing in compiled.listings.items():
        kernel = _special_kernel(name)
        if kernel is None:
            continue
        found[kernel] += 1
        assert name.count("ELb1EEEv") == 1
        usage = compiled.usages[name]
        assert usage.registers <= SPECIAL[kernel]
        assert usage.stack_bytes == _count(listing, "(?:STL|LDL)") == 0
        assert _count(listing, r"HMMA\.16816\.F32" + re.escape(compiled.number_type)) > 0
    assert found == {"pair_sweep": 1, "pair_weights": 1, "gradient_rows": 2}


def test_registers_and_spills(compiled):
    for name, listing in compiled.listings.items():
        if _special_kernel(name) is not None:
            continue
        assert max(map(int, re.findall(r"\bR(\d+)\b", listing))) < MOST_REGISTERS
        assert _count(listing, "(?:STL|LDL)") == 0
        assert compiled.usages[name].stack_bytes == 0
        if "row_ranges" not in name and "weight_factors" not in name:
            assert _count(listing, r"UTMALDG\.2D") > 0
            assert _count(listing, "USETMAXREG") == 2
