"""Hopper's own instructions: nvcc's PTX for sm_90a, interpreted, against numpy."""

import numpy as np
import pytest
from hopper_checks import CASES
from interpreter import Module
from mutations import mutated, noticed
from sources import HOPPER_KERNELS

ARCHITECTURE = "90a"

# name: (file of core, its text, what replaces it, checks of which each must fail)
MUTATIONS = {
    "operands_swapped": (
        "wgmma_registers.h",
        '"}, " a_name ", " b_name ", adds, 1, 1, "',
        '"}, " b_name ", " a_name ", adds, 1, 1, "',
        ["wgmma_depth_depth", "wgmma_depth_lines"],
    ),
    "registers_of_a_swapped": (
        "wgmma_registers.h",
        '"}, {" a0 "," a1 ","',
        '"}, {" a1 "," a0 ","',
        ["wgmma_registers_bf16", "wgmma_registers_fp16"],
    ),
    "coordinates_swapped": (
        "hopper_primitives.cuh",
        "[%1, {%3, %4}]",
        "[%1, {%4, %3}]",
        ["box_outside"],
    ),
    "bytes_not_announced": (
        "hopper_primitives.cuh",
        '"mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\\n"',
        '"mbarrier.arrive.shared::cta.b64 _, [%0]; // %1\\n"',
        ["box", "ring_long"],
    ),
    "parity_ignored": (
        "hopper_primitives.cuh",
        "done, [%1], %2;",
        "done, [%1], 0; // %2",
        ["ring_long"],
    ),
}


@pytest.fixture(scope="module")
def hopper_kernels(compile_ptx):
    return Module(compile_ptx(HOPPER_KERNELS, ARCHITECTURE))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("warps_per_team", [None, 1], ids=["lockstep", "one_by_one"])
def test_unit_kernel(hopper_kernels, name, warps_per_team):
    check, options = CASES[name]
    generator = np.random.default_rng(3)
    check(hopper_kernels, generator, seed=3, warps_per_team=warps_per_team, **options)


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_noticed(compile_ptx, tmp_path, name):
    file, original, replacement, checks = MUTATIONS[name]
    include = mutated(tmp_path, file, original, replacement)
    module = Module(compile_ptx(HOPPER_KERNELS, ARCHITECTURE, include))
    assert noticed(module, CASES, checks) == checks
