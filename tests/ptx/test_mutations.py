"""Faults inside the inline assembly, which the g++ emulator cannot see: each must be noticed."""

import pytest
from interpreter import Module
from mutations import mutated, noticed
from sources import UNIT_KERNELS
from unit_checks import CASES

# name: (text of core/primitives.cuh, what replaces it, unit checks of which one must fail)
MUTATIONS = {
    "mma_b_registers_swapped": (
        "{%8,%9}, {%0,%1,%2,%3}",
        "{%9,%8}, {%0,%1,%2,%3}",
        ["mma_bf16", "mma_tf32_rounded"],
    ),
    "mma_f64_operands_swapped": ("{%2}, {%3}, {%0,%1}", "{%3}, {%2}, {%0,%1}", ["mma_f64"]),
    "mma_bf16_is_f16": ('("m16n8k16", "bf16")', '("m16n8k16", "f16")', ["mma_bf16"]),
    "ldmatrix_loses_trans": ("m8n8.x4.trans.shared", "m8n8.x4.shared", ["ldmatrix_x4_trans"]),
    "ldmatrix_registers_swapped": (
        "m8n8.x2.shared.b16 {%0,%1}",
        "m8n8.x2.shared.b16 {%1,%0}",
        ["ldmatrix_x2"],
    ),
    "wait_group_off_by_one": ('"n"(kPending)', '"n"(kPending + 1)', ["cp_async_ring_2"]),
    "commit_lost": ('"cp.async.commit_group;\\n"', '""', ["cp_async_16"]),
    "zero_fill_forgotten": ("[%0], [%1], 16, %2;", "[%0], [%1], 16;", ["cp_async_16"]),
    "short_zero_fill_forgotten": ("[%0], [%1], %2, %3;", "[%0], [%1], %2;", ["cp_async_4"]),
    "arrive_waits": ('"bar.arrive %0, %1;', '"bar.sync %0, %1;', ["named_barriers"]),
    "tf32_not_rounded": (
        "cvt.rna.tf32.f32 %0, %1;",
        "mov.b32 %0, %1;",
        ["mma_tf32_rounded", "scalars"],
    ),
    "wrong_logarithm": ("lg2.approx.ftz.f32", "ex2.approx.ftz.f32", ["scalars"]),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_noticed(compile_ptx, tmp_path, name):
    original, replacement, checks = MUTATIONS[name]
    include = mutated(tmp_path, "primitives.cuh", original, replacement)
    module = Module(compile_ptx(UNIT_KERNELS, "80", include))
    assert noticed(module, CASES, checks) == checks
