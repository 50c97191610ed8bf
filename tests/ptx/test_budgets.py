"""The unit kernels' machine code: the instructions that are meant, no spills, no local memory."""

import pytest
from budgets import (
    Budget,
    find,
    find_cuobjdump,
    measure,
    parse_ptxas,
    parse_resource_usage,
    violations,
)
from machine_code import cheapest_path, parse_blocks
from sources import ARCHITECTURES, UNIT_KERNELS

# Part of the mangled name: budget.  The register counts leave a few spare for other compilers.
BUDGETS = {
    "cp_async_kernelILi4E": Budget(32, required={"LDGSTS.E": 1}),
    "cp_async_kernelILi16E": Budget(32, required={"LDGSTS.E.BYPASS.128": 1}),
    "cp_async_ring_kernel": Budget(64, shared_bytes=1024, required={"LDGSTS.E": 1, "LDGDEPBAR": 1}),
    "ldmatrix_kernelILi2ELb0E": Budget(32, shared_bytes=256, required={"LDSM.16.M88.2": 1}),
    "ldmatrix_kernelILi2ELb1E": Budget(32, shared_bytes=256, required={"LDSM.16.MT88.2": 1}),
    "ldmatrix_kernelILi4ELb0E": Budget(32, shared_bytes=512, required={"LDSM.16.M88.4": 1}),
    "ldmatrix_kernelILi4ELb1E": Budget(32, shared_bytes=512, required={"LDSM.16.MT88.4": 1}),
    "mma_16_bit_kernelILb0ELb0E": Budget(32, required={"HMMA.16816.F32": 1}),
    "mma_16_bit_kernelILb1ELb1E": Budget(32, required={"HMMA.16816.F32.BF16": 1}),
    "mma_tf32_kernel": Budget(40, required={"HMMA.1688.F32.TF32": 1}),
    "mma_f64_kernel": Budget(32, required={"DMMA": 1}),
    "scalar_kernel": Budget(24, required={"MUFU.EX2": 1, "MUFU.LG2": 1, "MUFU.RSQ": 1}),
    "shuffle_kernelIfE": Budget(32, required={"SHFL.IDX": 1, "SHFL.BFLY": 1}),
    "named_barrier_kernel": Budget(64, shared_bytes=256, required={"BAR.SYNC": 1, "BAR.ARV": 1}),
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def usages(request, nvcc):
    cuobjdump = find_cuobjdump()
    if cuobjdump is None:
        pytest.skip(
            "cuobjdump was not found: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"
        )
    return measure(nvcc, UNIT_KERNELS, request.param, cuobjdump)


@pytest.mark.parametrize("kernel", BUDGETS)
def test_unit_kernel_budget(usages, kernel):
    assert violations(find(usages, kernel), BUDGETS[kernel]) == []


def test_all_kernels_were_measured(usages):
    assert len(usages) == 21
    for usage in usages.values():
        assert usage.registers > 0
        assert usage.count("EXIT") >= 1


def test_excesses_are_reported(nvcc, tmp_path):
    source = tmp_path / "spilling.cu"
    source.write_text(
        """
__global__ void local_array_kernel(float* x, int step) {
  float local[64];
  for (int i = 0; i < 64; ++i) local[i * step & 63] = x[i];
  for (int i = 0; i < 64; ++i) x[i] = local[i * (step + 1) & 63];
}
__global__ void __launch_bounds__(1024, 2) spilling_kernel(float* x) {
  float y[96];
  __shared__ float staged[256];
#pragma unroll
  for (int i = 0; i < 96; ++i) y[i] = x[i * 128 + threadIdx.x];
  staged[threadIdx.x % 256] = y[0];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 96; ++i) x[i * 128 + threadIdx.x] = y[95 - i] * staged[i] + y[i];
}
"""
    )
    usages = measure(nvcc, source, "80", find_cuobjdump())
    local = violations(find(usages, "local_array_kernel"), Budget(8))
    assert any("registers, at most 8" in problem for problem in local)
    assert any("stack_bytes is 256" in problem for problem in local)
    spilling = violations(find(usages, "spilling_kernel"), Budget(255, required={"HMMA": 2}))
    assert any("spill_store_bytes" in problem for problem in spilling)
    assert any("1024 bytes of shared memory" in problem for problem in spilling)
    assert "0 instructions HMMA, at least 2 expected" in spilling
    if find_cuobjdump():
        assert any("instructions LDL, none is allowed" in problem for problem in spilling)


def test_parsers():
    usages = parse_ptxas(
        """ptxas info    : Compiling entry function '_Z1kPf' for 'sm_80'
ptxas info    : Function properties for _Z1kPf
    8 bytes stack frame, 16 bytes spill stores, 24 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 1024 bytes smem, 360 bytes cmem[0]
"""
    )
    usage = find(usages, "_Z1k")
    assert (usage.registers, usage.barriers, usage.shared_bytes) == (40, 1, 1024)
    assert (usage.stack_bytes, usage.spill_store_bytes, usage.spill_load_bytes) == (8, 16, 24)
    (block,) = parse_blocks(
        """\t\tFunction : _Z1kPf
        /*0000*/                   MOV R1, c[0x0][0x28] ;    /* 0x00000a0000017a02 */
                                                             /* 0x000fe40000000f00 */
        /*0010*/              @!P0 LDG.E.64 R2, [R2.64] ;    /* 0x0000000402027981 */
        /*0020*/              @P1  LDG.E R2, [R2.64] ;       /* 0x0000000402027981 */
"""
    )["_Z1kPf"]
    assert block.opcodes == {"MOV": 1, "LDG.E.64": 1, "LDG.E": 1}
    usages = parse_resource_usage(
        """ Function _Z1kPf:
  REG:40 STACK:8 SHARED:2048 LOCAL:0 CONSTANT[0]:360 TEXTURE:0 SURFACE:0 SAMPLER:0
""",
        reserved_bytes=1024,
    )
    usage = find(usages, "_Z1k")
    assert (usage.registers, usage.stack_bytes, usage.shared_bytes) == (40, 8, 1024)
    with pytest.raises(KeyError, match="0 kernels match"):
        find(usages, "other")


def test_blocks_and_paths():
    blocks = parse_blocks(
        """\t\tFunction : _Z1kPf
        /*0000*/                   MUFU.EX2 R1, R2 ;         /* 0x00000a0000017a02 */
        /*0010*/               @P1 BRA 0x40 ;                /* 0x0000000402027981 */
        /*0020*/                   FADD R1, R1, 0x3f800000 ; /* 0x0000000402027981 */
        /*0030*/                   FADD R1, R1, R2 ;         /* 0x0000000402027981 */
        /*0040*/                   FMUL R1, R1, R2 ;         /* 0x0000000402027981 */
        /*0050*/                   BRA.DIV ~URZ, 0x80 ;      /* 0x0000000402027981 */
        /*0060*/                   BRA P0, 0x0 ;             /* 0x0000000402027981 */
        /*0070*/                   EXIT ;                    /* 0x0000000402027981 */
        /*0080*/                   BRA 0x60 ;                /* 0x0000000402027981 */
"""
    )["_Z1kPf"]
    assert [block.opcodes for block in blocks] == [
        {"MUFU.EX2": 1, "BRA": 1},
        {"FADD": 2},
        {"FMUL": 1, "BRA.DIV": 1},
        {"BRA": 1},
        {"EXIT": 1},
        {"BRA": 1},
    ]
    assert [block.followers for block in blocks] == [(2, 1), (2,), (3,), (0, 4), (), (3,)]
    loop = {"MUFU.EX2": 1, "BRA": 2, "FMUL": 1, "BRA.DIV": 1}
    assert cheapest_path(blocks, 0, {"MUFU": 1}, end=0) == loop
    assert cheapest_path(blocks, 0, {"FADD": 1}, end=0) == {**loop, "FADD": 2}
    assert cheapest_path(blocks, 0, {"FADD": 3}) == {
        **{"MUFU.EX2": 2, "BRA": 3, "FMUL": 1, "BRA.DIV": 1},
        "FADD": 4,
    }
    assert cheapest_path(blocks, 2, {"MUFU": 1, "EXIT": 1}) == {
        **{"FMUL": 2, "BRA.DIV": 2, "BRA": 3},
        **{"MUFU.EX2": 1, "EXIT": 1},
    }
    assert not cheapest_path(blocks, 4, {"FADD": 1})
