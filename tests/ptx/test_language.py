"""Ordinary C++ as nvcc compiles it, interpreted, against numpy."""

import struct

import numpy as np
import pytest
from interpreter import GlobalMemory, Module
from interpreter.number_types import bf16_to_f32, f32_to_bf16
from sources import ARCHITECTURES, TESTS


@pytest.fixture(scope="module", params=ARCHITECTURES)
def kernels(request, compile_ptx):
    return Module(compile_ptx(TESTS / "ptx" / "language_kernels.cu", request.param))


def _launch(kernels, name, inputs, num_outputs, number_type):
    memory = GlobalMemory(1 << 20)
    count = len(inputs[0])
    addresses = [memory.put(x) for x in inputs]
    out = memory.put(np.zeros((num_outputs, count), number_type))
    blocks = (count + 63) // 64
    kernels.launch(name, blocks, 64, [*addresses, out, np.int32(count)], memory)
    return memory.get(out)


@pytest.mark.parametrize(
    ("number_type", "letter", "tolerance"), [(np.float32, "f", 5e-7), (np.float64, "d", 1e-14)]
)
def test_functions(kernels, number_type, letter, tolerance):
    generator = np.random.default_rng(0)
    x = (5 * generator.standard_normal(150)).astype(number_type)
    y = (5 * generator.standard_normal(150)).astype(number_type)
    x[:5] = [0, np.nan, np.inf, -np.inf, 88]
    y[5] = np.inf
    out = _launch(kernels, f"functions_kernelI{letter}E", [x, y], 18, number_type)
    a, b = x.astype(np.longdouble), y.astype(np.longdouble)
    with np.errstate(all="ignore"):
        expected = [
            np.exp(a),
            np.log(abs(a)),
            np.log1p(abs(a)),
            np.logaddexp(0, a),
            1 / (1 + np.exp(-a)),
            np.sqrt(abs(a)),
            1 / np.sqrt(abs(a)),
            a / b,
            a * b + 1,
            np.fmin(a, b),
            np.fmax(a, b),
            np.where(a < b, a, -b),
            np.copysign(a, b),
            np.rint(a),
            np.floor(a),
            np.trunc(a),
            np.isnan(a) | np.isinf(b),
            np.tanh(a),
        ]
        # int() of NaN and inf is what the hardware makes of it: not compared
        expected[15] = np.where(np.isfinite(a), expected[15], out[15])
        expected = np.array(expected).astype(number_type)
        np.testing.assert_allclose(out, expected, rtol=tolerance, atol=tolerance)


def test_conversions(kernels):
    x = np.random.default_rng(1).standard_normal(100).astype(np.float32)
    x[:3] = [np.nan, np.inf, 1e-30]
    out = _launch(kernels, "conversions_kernel", [x], 4, np.float32)
    bfloat = bf16_to_f32(f32_to_bf16(x))
    half = x.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(out, [bfloat, half, 3 * bfloat, 3 * half])


def test_integers(kernels):
    generator = np.random.default_rng(2)
    x = generator.integers(-(1 << 62), 1 << 62, 100)
    y = generator.integers(1, 1 << 40, 100) * generator.choice([-1, 1], 100)
    x[:3], y[:3] = [5, -7, 0], [3, 3, 5]
    out = _launch(kernels, "integers_kernel", [x, y], 14, np.int64)
    c, d = x.astype(np.int32), y.astype(np.int32)

    def quotient(a, b):
        return np.array([abs(int(p)) // abs(int(q)) * (1 if (p < 0) == (q < 0) else -1)
                         for p, q in zip(a, b, strict=True)])  # fmt: skip

    with np.errstate(all="ignore"):
        expected = [
            x * y,
            quotient(x, y),
            x - quotient(x, y) * y,
            x >> 5,
            (x.view(np.uint64) >> np.uint64(7)).view(np.int64),
            x << 3,
            np.minimum(x, y),
            c.astype(np.int64) * d,
            quotient(c, d | 1),
            c - quotient(c, np.full_like(c, 7)) * 7,
            c.view(np.uint32) // 10,
            [int(v).bit_count() + 32 - int(v).bit_length() for v in c.view(np.uint32)],
            c.astype(np.int16).astype(np.int64) + d.astype(np.uint8),
            (x == y) | (c > d),
        ]
    np.testing.assert_array_equal(out, np.array(expected, np.int64))


def test_struct_vectors_and_loops(kernels):
    x = np.random.default_rng(3).random((150, 4), np.float32)
    memory = GlobalMemory(1 << 20)
    source, out = memory.put(x), memory.put(np.zeros((64, 4), np.float32))
    parameters = struct.pack("<QQqf4x", source, out, len(x), 2.0)
    kernels.launch("vectors_kernel", 1, 64, [parameters], memory)
    expected = np.zeros((64, 4))
    for thread in range(64):
        rows = np.concatenate(
            [np.arange(b + thread % 5, min(b + 64, 150), 1 + thread % 3) for b in range(0, 150, 64)]
        )
        part = x[rows].astype(np.float64)
        expected[thread] = [part[:, 0].sum(), 2 * part[:, 1].max(), -part[:, 2].sum(), len(rows)]
    np.testing.assert_allclose(memory.get(out), expected, rtol=1e-5)


def test_calls_and_local_memory(kernels):
    x = np.random.default_rng(4).integers(1, 60, 50).astype(np.int32)
    memory = GlobalMemory(1 << 20)
    out = memory.put(np.zeros((2, 50), np.float32))
    kernels.launch("calls_kernel", 1, 64, [memory.put(x), out, np.int32(50)], memory)

    def walk(value, count):
        total = steps = 0
        while value > 1 and steps < count:
            total += (value % 5 + int(x[0])) * (value % 8)
            steps += 1
            value = value // 2 if value % 2 == 0 else 3 * value + 1
        return np.array([total, steps])

    walks = [walk(int(v), 40) + (walk(int(v) + 1, 20) if i % 2 else 0) for i, v in enumerate(x)]
    np.testing.assert_array_equal(memory.get(out), np.transpose(walks))
    opcodes = kernels.opcodes("calls_kernel")
    assert any(opcode.startswith("call") for opcode in opcodes)
    assert any(opcode.startswith("st.local") for opcode in opcodes)
