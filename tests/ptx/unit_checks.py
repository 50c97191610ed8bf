"""One check per unit kernel: draws inputs, runs the kernel, compares with numpy.

Each check takes (module, generator, **options) and raises AssertionError.  test_primitives.py runs
them on what nvcc makes of the sources, test_mutations.py on sources with a fault inside.
"""

import numpy as np
from interpreter import GlobalMemory
from interpreter.number_types import bf16_to_f32, f32_to_bf16

LANE = np.arange(32)


def _run(module, name, grid, block, buffers, scalars=(), **options):
    """Launches with the arrays' addresses, then the scalars; returns the arrays' new contents."""
    memory = GlobalMemory(1 << 20)
    addresses = [memory.put(buffer) for buffer in buffers]
    module.launch(name, grid, block, [*addresses, *scalars], memory, **options)
    return [memory.get(address) for address in addresses]


def check_cp_async(module, generator, *, count, **options):
    threads = 96
    source = generator.integers(0, 256, (threads, count), np.uint8)
    sizes = generator.integers(0, count + 1, threads).astype(np.int32)
    buffers = [source, sizes, np.zeros_like(source)]
    name = f"cp_async_kernelILi{count}E"
    *_, out = _run(module, name, 1, threads, buffers, dynamic_bytes=source.nbytes, **options)
    kept = np.arange(count) < sizes[:, None]
    np.testing.assert_array_equal(out, np.where(kept, source, 0))


def check_cp_async_ring(module, generator, *, num_tiles, **options):
    source = generator.random((num_tiles, 128), np.float32)
    buffers = [source, np.zeros_like(source)]
    _, out = _run(module, "cp_async_ring_kernel", 1, 128, buffers, [np.int32(num_tiles)], **options)
    np.testing.assert_array_equal(out, source[:, ::-1])


def check_ldmatrix(module, generator, *, matrices, transposed, **options):
    source = generator.integers(0, 1 << 16, (matrices, 8, 8), np.uint16)
    buffers = [source, np.zeros((matrices, 32), np.uint32)]
    name = f"ldmatrix_kernelILi{matrices}ELb{int(transposed)}E"
    _, out = _run(module, name, 1, 32, buffers, **options)
    expected = source.transpose(0, 2, 1) if transposed else source
    pairs = expected.reshape(matrices, 32, 2).astype(np.uint32)
    np.testing.assert_array_equal(out, pairs[..., 0] | pairs[..., 1] << 16)


def check_mma_16_bit(module, generator, *, bfloat16, transposed, **options):
    def to_bits(x):
        return f32_to_bf16(x) if bfloat16 else x.astype(np.float16).view(np.uint16)

    def to_numbers(bits):
        numbers = bf16_to_f32(bits) if bfloat16 else bits.view(np.float16)
        return numbers.astype(np.float64)

    a = to_bits(generator.standard_normal((16, 16), np.float32))
    b = to_bits(generator.standard_normal((16, 8), np.float32))
    c = generator.standard_normal((16, 8), np.float32)
    buffers = [a, b if transposed else np.ascontiguousarray(b.T), c]
    name = f"mma_16_bit_kernelILb{int(bfloat16)}ELb{int(transposed)}E"
    *_, out = _run(module, name, 1, 32, buffers, dynamic_bytes=768, **options)
    np.testing.assert_allclose(out, to_numbers(a) @ to_numbers(b) + c, rtol=0, atol=1e-5)


def check_mma_tf32(module, generator, *, rounds, **options):
    a = generator.standard_normal((16, 8), np.float32)
    b = generator.standard_normal((8, 8), np.float32)
    c = generator.standard_normal((16, 8), np.float32)
    *_, out = _run(module, "mma_tf32_kernel", 1, 32, [a, b, c], [np.int32(rounds)], **options)

    def operand(x):
        bits = x.view(np.uint32) + np.uint32(0x1000 if rounds else 0)
        return (bits & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)

    np.testing.assert_allclose(out, operand(a) @ operand(b) + c, rtol=0, atol=3e-6)


def check_mma_f64(module, generator, **options):
    a, b, c = (generator.standard_normal(shape) for shape in ((8, 4), (4, 8), (8, 8)))
    *_, out = _run(module, "mma_f64_kernel", 1, 32, [a, b, c], **options)
    np.testing.assert_allclose(out, a @ b + c, rtol=0, atol=1e-14)


def check_scalars(module, generator, **options):
    x = (20 * generator.standard_normal(200)).astype(np.float32)
    x[:8] = [0, np.inf, -np.inf, np.nan, 1, -130, 1e-40, 128]
    buffers = [x, np.zeros((4, len(x)), np.uint32)]
    _, out = _run(module, "scalar_kernel", 4, 64, buffers, [np.int32(len(x))], **options)
    tf32, power, logarithm, inverse_root = out.view(np.float32)
    smallest = np.float32(2.0**-126)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(tf32, x, rtol=2.0**-11, atol=smallest)
        exact_power = np.exp2(x.astype(np.float64)).astype(np.float32)
        exact_power[exact_power < smallest] = 0
        np.testing.assert_allclose(power, exact_power, rtol=2.4e-7)
        flushed = np.where(np.abs(x) < smallest, 0, x).astype(np.float64)
        np.testing.assert_allclose(logarithm, np.log2(flushed), rtol=2.4e-7, atol=2.4e-7)
        np.testing.assert_allclose(inverse_root, 1 / np.sqrt(flushed), rtol=2.4e-7)
    finite = np.isfinite(x)
    assert not (out[0][finite] & 0x1FFF).any()


def check_shuffles(module, generator, *, letter, number_type, width, **options):
    x = (generator.integers(0, 100, 32) / 2).astype(number_type)
    buffers = [x, np.zeros((4, 32), number_type)]
    name = f"shuffle_kernelI{letter}E"
    _, out = _run(module, name, 1, 32, buffers, [np.int32(width)], **options)
    first = LANE // width * width
    last = first + width - 1

    def own_unless(valid, source):
        return np.where(valid, source, LANE)

    up, down, other = LANE - 3, LANE + 3, LANE ^ 5
    sources = [
        first + 7 * LANE % width,
        own_unless(up >= first, up),
        own_unless(down <= last, down),
        own_unless(other <= last, other),  # an earlier segment may be read
    ]
    np.testing.assert_array_equal(out, np.stack([x[source] for source in sources]))


def check_votes(module, generator, **options):
    x = generator.integers(0, 40, 32).astype(np.int32)
    _, out = _run(module, "vote_kernel", 1, 32, [x, np.zeros(176, np.uint32)], **options)
    bits = np.uint64(1) << LANE.astype(np.uint64)
    assert (out[:32] == bits[x % 2 == 1].sum()).all()
    assert (out[32:64] == (x == 3).any()).all()
    assert (out[64:96] == 1).all()
    np.testing.assert_array_equal(out[96:128], [bits[x % 3 == value % 3].sum() for value in x])
    assert (out[128:160] == x.sum()).all()
    np.testing.assert_array_equal(out[160:], x[LANE[:16] ^ 1])


def check_named_barriers(module, generator, **options):
    num_tiles = 9
    x = generator.integers(0, 1000, (num_tiles, 32)).astype(np.int32)
    buffers = [x, np.zeros_like(x)]
    _, out = _run(module, "named_barrier_kernel", 1, 128, buffers, [np.int32(num_tiles)], **options)
    np.testing.assert_array_equal(out, x * (1 + 2 + 3))


def check_last_block(module, generator, **options):
    x = generator.integers(0, 17, 1000).astype(np.float32)
    memory = GlobalMemory(1 << 20)
    zeros = [np.zeros(7, np.float32), np.zeros(1, np.uint32), np.zeros(1, np.float32)]
    parts, tickets, total = (memory.put(array) for array in zeros)
    largest = memory.put(np.zeros(1, np.int32))
    arguments = [memory.put(x), np.int32(len(x)), parts, tickets, total, largest]
    module.launch("last_block_kernel", 7, 64, arguments, memory, **options)
    assert memory.get(total)[0] == x.sum()
    assert memory.get(largest)[0] == len(x) - 1


CASES = {
    **{f"cp_async_{n}": (check_cp_async, {"count": n}) for n in (4, 8, 16)},
    **{f"cp_async_ring_{n}": (check_cp_async_ring, {"num_tiles": n}) for n in (1, 2, 5)},
    **{
        f"ldmatrix_x{n}{'_trans' * t}": (check_ldmatrix, {"matrices": n, "transposed": t})
        for n in (2, 4)
        for t in (False, True)
    },
    **{
        f"mma_{'bf16' if b else 'f16'}{'_trans' * t}": (
            check_mma_16_bit,
            {"bfloat16": b, "transposed": t},
        )
        for b in (False, True)
        for t in (False, True)
    },
    "mma_tf32_truncated": (check_mma_tf32, {"rounds": False}),
    "mma_tf32_rounded": (check_mma_tf32, {"rounds": True}),
    "mma_f64": (check_mma_f64, {}),
    "scalars": (check_scalars, {}),
    **{
        f"shuffle_{name}_{w}": (
            check_shuffles,
            {"letter": letter, "number_type": number_type, "width": w},
        )
        for letter, number_type, name in (
            ("f", np.float32, "float"),
            ("d", np.float64, "double"),
            ("x", np.int64, "int64"),
        )
        for w in (2, 4, 8, 16, 32)
    },
    "votes": (check_votes, {}),
    "named_barriers": (check_named_barriers, {}),
    "last_block": (check_last_block, {}),
}
