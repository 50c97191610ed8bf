"""What the interpreter itself promises, on PTX written by hand: no nvcc needed."""

import numpy as np
import pytest
from interpreter import Fault, GlobalMemory, Module


def module_of(body, registers="", shared=""):
    """A module with one kernel `test(u64 in, u64 out)`; %rd1 = &in[tid], %rd2 = &out[tid]."""
    return Module(
        f"""
.version 9.0
.target sm_90
.address_size 64
.extern .shared .align 16 .b8 dynamic[];
.visible .entry test(
    .param .u64 test_param_0,
    .param .u64 test_param_1
)
{{
    .reg .pred %p<9>;
    .reg .b32 %r<20>;
    .reg .f32 %f<9>;
    .reg .b64 %rd<20>;
    {registers}
    {shared}
    ld.param.u64 %rd1, [test_param_0];
    ld.param.u64 %rd2, [test_param_1];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd3, %r1, 4;
    add.s64 %rd1, %rd1, %rd3;
    add.s64 %rd2, %rd2, %rd3;
    {body}
    ret;
}}
"""
    )


def run(body, values, threads=32, shared="", **options):
    """The uint32 output array of the kernel for these inputs."""
    memory = GlobalMemory(1 << 16)
    source, out = memory.put(values.view(np.uint32)), memory.put(np.zeros(threads, np.uint32))
    module_of(body, shared=shared).launch("test", 1, threads, [source, out], memory, **options)
    return memory.get(out)


VALUES = np.random.default_rng(0).integers(0, 1 << 32, 64, np.uint32)
LOAD = "ld.global.u32 %r2, [%rd1]; "
STORE = " st.global.u32 [%rd2], %r3;"


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("prmt.b32 %r3, %r2, 0x11223344, 0x5410;", (VALUES & 0xFFFF) | np.uint32(0x33440000)),
        ("lop3.b32 %r3, %r2, 15, 240, 0x96;", VALUES ^ np.uint32(15) ^ np.uint32(240)),
        ("bfe.u32 %r3, %r2, 5, 9;", VALUES >> 5 & 511),
        (
            "bfi.b32 %r3, %r2, 0xffffffff, 8, 12;",
            np.uint32(0xFFF000FF) | (VALUES & 0xFFF) << 8,
        ),
        ("brev.b32 %r3, %r2;", [int(f"{v:032b}"[::-1], 2) for v in VALUES]),
        (
            "shf.l.wrap.b32 %r3, %r2, 7, 8;",
            (np.uint64(7) << np.uint64(8) | VALUES.astype(np.uint64) >> np.uint64(24)),
        ),
        ("shr.u32 %r3, %r2, 40;", np.zeros_like(VALUES)),
        ("shr.s32 %r3, %r2, 40;", (VALUES.view(np.int32) >> 31).view(np.uint32)),
        ("mul.hi.u32 %r3, %r2, %r2;", (VALUES.astype(np.uint64) ** 2) >> np.uint64(32)),
        ("cvt.s32.s8 %r3, %r2;", VALUES.astype(np.int8).astype(np.int32).view(np.uint32)),
        ("{ .reg .b16 a, b; mov.b32 {a, b}, %r2; mov.b32 %r3, {b, a}; }",
         VALUES >> 16 | VALUES << 16),
    ],
    ids=lambda value: value.split(".")[0].strip("{ ") if isinstance(value, str) else "",
)  # fmt: skip
def test_instruction(instruction, expected):
    out = run(LOAD + instruction + STORE, VALUES[:32])
    np.testing.assert_array_equal(out, np.asarray(expected)[:32].astype(np.uint32))


@pytest.mark.parametrize("instruction", ["red.global.add.u32", "atom.global.add.u32 %r4,"])
def test_atomics_of_several_lanes_add_up(instruction):
    shared_word = "mul.wide.u32 %rd4, %r1, 4; sub.s64 %rd5, %rd2, %rd4; "
    body = LOAD + shared_word + f"{instruction} [%rd5], %r2;"
    out = run(body, VALUES[:32])
    assert out[0] == VALUES[:32].sum(dtype=np.uint32)
    assert not out[1:].any()


def test_rounding_modes():
    x = np.array([1.0, -1.0] * 16, np.float32)
    for mode, positive, negative in (
        ("rn", 1.0, -1.0),
        ("rz", 1.0, -np.nextafter(np.float32(1), np.float32(0))),
        ("rm", 1.0, -1.0),
        ("rp", np.nextafter(np.float32(1), np.float32(2)), -np.nextafter(np.float32(1), 0)),
    ):
        body = f"ld.global.f32 %f1, [%rd1]; add.{mode}.f32 %f2, %f1, 0f2f800000;"  # 2^-32
        out = run(body + " st.global.f32 [%rd2], %f2;", x).view(np.float32)
        assert out[0] == np.float32(positive)
        assert out[1] == np.float32(negative)


def test_divergent_lanes_meet_again():
    body = """
    and.b32 %r4, %r1, 1;
    setp.eq.s32 %p1, %r4, 0;
    mov.u32 %r3, 1;
    @%p1 bra $EVEN;
    add.s32 %r3, %r3, %r1;
    bra.uni $JOIN;
$EVEN:
    mul.lo.s32 %r3, %r1, %r1;
$JOIN:
    shfl.sync.bfly.b32 %r3, %r3, 1, 31, -1;
"""
    out = run(body + STORE, VALUES)
    other = np.arange(32) ^ 1
    np.testing.assert_array_equal(out, np.where(other % 2 == 0, other**2, other + 1))


BARRIER_BODY = """
    mov.u32 %r4, tile;
    shl.b32 %r5, %r1, 2;
    add.s32 %r6, %r4, %r5;
    ld.global.u32 %r2, [%rd1];
    st.shared.u32 [%r6], %r2;
    bar.sync 0;
    sub.s32 %r7, 63, %r1;
    shl.b32 %r7, %r7, 2;
    add.s32 %r7, %r4, %r7;
    ld.shared.u32 %r3, [%r7];
"""
TILE = ".shared .align 4 .b8 tile[256];"


@pytest.mark.parametrize("warps_per_team", [None, 1])
def test_barrier(warps_per_team):
    for seed in range(4):
        options = {"shared": TILE, "warps_per_team": warps_per_team, "seed": seed}
        out = run(BARRIER_BODY + STORE, VALUES, 64, **options)
        np.testing.assert_array_equal(out, VALUES[::-1])


def test_missing_barrier_reads_poison():
    body = BARRIER_BODY.replace("bar.sync 0;", "")
    out = run(body + STORE, VALUES, 64, shared=TILE, warps_per_team=1)
    assert (out == 0xFFFBFFFB).any()


@pytest.mark.parametrize(
    ("body", "threads", "message"),
    [
        ("ld.global.u32 %r3, [%rd1+4];", 64, "global access out of bounds"),
        ("ld.global.u32 %r3, [%rd1+2];", 32, "not 4-byte aligned"),
        ("mov.u32 %r4, tile; ld.shared.u32 %r3, [%r4+256];", 32, "shared access out of bounds"),
        ("shfl.sync.bfly.b32 %r3, %r1, 1, 31, 0xfffe;", 32, "not in its member mask"),
        (
            "setp.lt.s32 %p1, %r1, 16; @%p1 bra $A; bar.sync 0; $A: mov.u32 %r3, 0;",
            32,
            "barrier by a diverged warp",
        ),
        (
            "setp.lt.s32 %p1, %r1, 16; @%p1 shfl.sync.bfly.b32 %r3, %r1, 1, 31, -1;",
            32,
            "shfl by a diverged warp",
        ),
        ("setp.lt.s32 %p1, %r1, 32; @%p1 bar.sync 1, 64;", 64, "deadlock"),
        (
            "mov.u32 %r4, tile; cp.async.ca.shared.global [%r4], [%rd1], 4; cp.async.commit_group;",
            32,
            "never waited for",
        ),
        ("mov.u32 %r4, tile; cp.async.cg.shared.global [%r4], [%rd1], 4;", 32, "copies 16 bytes"),
        ("activemask.b32 %r3;", 32, "unsupported PTX"),
        ("mov.u32 %r3, %clock;", 32, "unsupported special register"),
        ("add.s32 %r3, %nowhere, 1;", 32, "unsupported special register"),
    ],
    ids=lambda value: value if isinstance(value, str) and ";" not in value else "",
)
def test_fault(body, threads, message):
    with pytest.raises(Fault, match=message):
        run(body, VALUES, threads, shared=TILE)


def test_copy_lands_at_the_wait():
    body = """
    mov.u32 %r4, tile;
    shl.b32 %r5, %r1, 2;
    add.s32 %r4, %r4, %r5;
    cp.async.ca.shared.global [%r4], [%rd1], 4;
    cp.async.commit_group;
    cp.async.wait_group {pending};
    ld.shared.u32 %r3, [%r4];
    cp.async.wait_all;
"""
    landed = run(body.replace("{pending}", "0") + STORE, VALUES, shared=TILE)
    np.testing.assert_array_equal(landed, VALUES[:32])
    in_flight = run(body.replace("{pending}", "1") + STORE, VALUES, shared=TILE)
    assert (in_flight == 0xFFFBFFFB).all()


def test_uninitialised_registers_hold_noise():
    first = run("add.s32 %r3, %r9, 0;" + STORE, VALUES, seed=1)
    second = run("add.s32 %r3, %r9, 0;" + STORE, VALUES, seed=2)
    assert (first != second).any()


def test_kernel_names():
    module = module_of("")
    assert module.kernel("tes").name == "test"
    assert "mul.wide.u32" in module.opcodes("test")
    with pytest.raises(KeyError, match="0 kernels match 'other'"):
        module.kernel("other")
