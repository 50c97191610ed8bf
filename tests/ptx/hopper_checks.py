"""One check per unit kernel of Hopper's own instructions, as unit_checks.py has for the others.

All numbers are small integers, so that results are exact.
"""

import struct

import numpy as np
from interpreter import GlobalMemory, tensor_map
from interpreter.number_types import f32_to_bf16

_NO_MISTAKE = np.int32(0)


def _integers(generator, *shape):
    return generator.integers(-8, 9, shape).astype(np.float32)


def _to_bits(numbers, is_fp16):
    return numbers.astype(np.float16).view(np.uint16) if is_fp16 else f32_to_bf16(numbers)


class _Launch:
    """Global memory, the parameters as they are added, and the run."""

    def __init__(self, module, **options):
        self.module, self.options = module, options
        self.memory, self.arguments = GlobalMemory(1 << 20), []

    def add(self, *arguments):
        self.arguments += arguments

    def put(self, array):
        address = self.memory.put(array)
        self.add(address)
        return address

    def map(self, bits, box_rows):
        self.add(tensor_map(self.memory.put(bits), *bits.shape, box_rows))

    def run(self, name, threads, dynamic_bytes):
        self.module.launch(
            name,
            1,
            threads,
            self.arguments,
            self.memory,
            dynamic_bytes=dynamic_bytes,
            **self.options,
        )


def check_box(module, generator, *, box_rows, row, col, late, **options):
    source = generator.integers(1, 1 << 16, (100, 72), np.uint16)
    launch = _Launch(module, **options)
    launch.map(source, box_rows)
    out = launch.put(np.zeros((box_rows, 64), np.uint16))
    launch.add(*(np.int32(value) for value in (box_rows, row, col, late)))
    launch.run("box_kernel", 128, 128 * box_rows)
    padded = np.pad(source, ((0, 256), (0, 64)))[row : row + box_rows, col : col + 64]
    chunks = padded.reshape(box_rows, 8, 8)
    rows, places = np.arange(box_rows)[:, None], np.arange(8)
    expected = chunks[rows, places ^ rows % 8].reshape(box_rows, 64)
    np.testing.assert_array_equal(launch.memory.get(out), expected)


def check_wgmma(module, generator, *, fp16, majors, cols, adds, **options):
    a, b = _integers(generator, 64, 64), _integers(generator, 64, cols)  # [line, k], [k, line]
    launch = _Launch(module, **options)
    launch.map(_to_bits(a.T if majors[0] else a, fp16), 64)
    launch.map(_to_bits(b if majors[1] else b.T, fp16), 64 if majors[1] else cols)
    before = _integers(generator, 64, cols)
    out = launch.put(before)
    launch.add(np.int32(adds), _NO_MISTAKE)
    name = (
        f"wgmma_kernelILNS_9WgmmaTypeE{int(fp16)}ELNS_5MajorE{majors[0]}ELS3_{majors[1]}ELi{cols}E"
    )
    launch.run(name, 128, 128 * (64 + cols))
    np.testing.assert_array_equal(launch.memory.get(out), a @ b + (before if adds else 0))


def check_wgmma_registers(module, generator, *, fp16, cols, **options):
    a, b = _to_bits(_integers(generator, 64, 64), fp16), _integers(generator, 64, cols)
    launch = _Launch(module, **options)
    launch.put(a)
    launch.map(_to_bits(b, fp16), 64)
    out = launch.put(np.zeros((64, cols), np.float32))
    launch.add(_NO_MISTAKE)
    name = f"wgmma_registers_kernelILNS_9WgmmaTypeE{int(fp16)}ELi{cols}E"
    launch.run(name, 128, 128 * cols)

    def numbers(bits):
        wide = bits.view(np.float16) if fp16 else (bits.astype(np.uint32) << 16).view(np.float32)
        return wide.astype(np.float64)

    expected = (numbers(a) + numbers(a + np.uint16(1))) @ b
    np.testing.assert_allclose(launch.memory.get(out), expected, rtol=0, atol=0.05)


def check_proxy(module, generator, **options):
    a = _integers(generator, 64, 16)
    launch = _Launch(module, **options)
    launch.put(_to_bits(a, False))
    out = launch.put(np.zeros((64, 64), np.float32))
    launch.add(_NO_MISTAKE)
    launch.run("proxy_kernel", 128, 128 * 64)
    np.testing.assert_array_equal(launch.memory.get(out), a @ a.T)


def check_ring(module, generator, *, slices, tiles, **options):
    depth, rows = 64 * slices - 24, 128 * tiles
    a, b = _integers(generator, rows, depth), _integers(generator, depth, 64)
    launch = _Launch(module, **options)
    launch.map(_to_bits(a, False), 128)
    launch.map(_to_bits(b, False), 64)
    product = launch.memory.put(np.zeros((rows, 64), np.float32))
    sums = launch.memory.put(np.zeros((tiles, 64), np.float32))
    launch.add(struct.pack("<iiQQi4x", slices, tiles, int(product), int(sums), 0))
    launch.run("ring_kernelILb0E", 384, 3 * 192 * 128)
    np.testing.assert_array_equal(launch.memory.get(product), a @ b)
    expected = (a @ b).reshape(tiles, 128, 64).sum(axis=1)
    np.testing.assert_array_equal(launch.memory.get(sums), expected)


CASES = {
    "box": (check_box, {"box_rows": 64, "row": 0, "col": 0, "late": False}),
    "box_outside": (check_box, {"box_rows": 128, "row": 40, "col": 8, "late": True}),
    "wgmma_depth_depth": (
        check_wgmma,
        {"fp16": False, "majors": (0, 0), "cols": 64, "adds": True},
    ),
    "wgmma_256": (check_wgmma, {"fp16": False, "majors": (0, 0), "cols": 256, "adds": False}),
    "wgmma_depth_lines": (
        check_wgmma,
        {"fp16": True, "majors": (0, 1), "cols": 128, "adds": False},
    ),
    "wgmma_192": (check_wgmma, {"fp16": False, "majors": (0, 1), "cols": 192, "adds": False}),
    "wgmma_lines_lines": (
        check_wgmma,
        {"fp16": False, "majors": (1, 1), "cols": 64, "adds": False},
    ),
    "wgmma_registers_bf16": (check_wgmma_registers, {"fp16": False, "cols": 64}),
    "wgmma_registers_fp16": (check_wgmma_registers, {"fp16": True, "cols": 128}),
    "proxy": (check_proxy, {}),
    "ring_short": (check_ring, {"slices": 1, "tiles": 3}),
    "ring_long": (check_ring, {"slices": 5, "tiles": 2}),
}
