"""Fragments of matrices in a warp's registers: ldmatrix and mma.

The layouts are the PTX ISA's, as in core/primitives.cuh, written down a second time on purpose.
"""

import numpy as np

from .memory import Fault
from .number_types import bf16_to_f32
from .operands import instruction, unpack


def _require_full_warps(team, mask, what):
    active = mask.reshape(-1, 32)
    if (active.any(axis=1) & ~active.all(axis=1)).any():
        raise Fault(f"{what} by a diverged or incomplete warp")


@instruction("ldmatrix")
def ldmatrix(op):
    count = int(op.has("x1", "x2", "x4")[1])
    transposed = op.has("trans")
    writers = [op.writer(part) for part in unpack(op.operands[0])]
    if len(writers) != count or not op.has("b16") or not op.has("m8n8"):
        raise Fault(f"unsupported PTX: {op.text}")
    address = op.address(1, "u32")

    def execute(team, mask):
        _require_full_warps(team, mask, "ldmatrix")
        gives_row = mask & (np.arange(team.lanes) % 32 < 8 * count)
        rows = np.zeros((team.lanes, 16), np.uint8)
        rows[gives_row] = team.block.shared.load(address(team)[gives_row], 16)
        matrices = rows.view(np.uint16).reshape(-1, 4, 8, 8)  # [warp, matrix, row, col]
        if transposed:
            matrices = matrices.transpose(0, 1, 3, 2)
        for matrix, write in enumerate(writers):
            pairs = np.ascontiguousarray(matrices[:, matrix]).reshape(team.lanes, 2)
            write(team, pairs.view(np.uint32)[:, 0], mask)

    return execute


def _halves(words, to_float):
    """[..., words] 32-bit words as [..., 2 * words] numbers, low half first."""
    halves = np.ascontiguousarray(words).view(np.uint16)
    return to_float(halves).astype(np.float64)


@instruction("mma")
def multiply_matrices(op):
    shape, types = op.opcode[3], op.opcode[-4:]
    if op.opcode[4:6] != ["row", "col"]:
        raise Fault(f"unsupported PTX: {op.text}")
    if shape == "m8n8k4" and types == ["f64"] * 4:
        return _multiply_f64(op)
    to_float = {
        ("m16n8k16", "bf16"): bf16_to_f32,
        ("m16n8k16", "f16"): lambda halves: halves.view(np.float16),
        ("m16n8k8", "tf32"): None,
    }
    kind = (shape, types[1])
    if kind not in to_float or types != ["f32", types[1], types[1], "f32"]:
        raise Fault(f"unsupported PTX: {op.text}")
    operand_words = _fragment_gatherer(op, 1, "b32"), _fragment_gatherer(op, 2, "b32")
    accumulator = _fragment_gatherer(op, 3, "f32")
    writers = [op.writer(part) for part in unpack(op.operands[0])]

    def execute(team, mask):
        _require_full_warps(team, mask, "mma")
        a, b = (_operand_numbers(words(team), to_float[kind]) for words in operand_words)
        product = np.matmul(_matrix_a(a), _matrix_b(b)) + _matrix_c(accumulator(team))
        rows = product.astype(np.float32)
        group, pair = np.arange(32) // 4, np.arange(32) % 4
        for r, write in enumerate(writers):
            values = rows[:, group + 8 * (r // 2), 2 * pair + r % 2]
            write(team, values.reshape(-1), mask)

    return execute


def _fragment_gatherer(op, operand, ptx_type):
    """function(team) -> [warp, lane, register]."""
    readers = [op.reader(part, ptx_type) for part in unpack(op.operands[operand])]

    def gather(team):
        stacked = np.stack([read(team) for read in readers], axis=-1)
        return stacked.reshape(-1, 32, len(readers))

    return gather


def _operand_numbers(words, to_float):
    """[warp, lane, register, elements of a register] as float64."""
    if to_float is None:  # tf32: the hardware ignores the low 13 bits
        truncated = (words & np.uint32(0xFFFFE000)).view(np.float32)
        return truncated.astype(np.float64)[..., None]
    return _halves(words, to_float).reshape(*words.shape, 2)


_GROUP, _POSITION = np.arange(32) // 4, np.arange(32) % 4


def _matrix_a(numbers):
    """[warp, 16, depth]: register r holds row g + 8 (r % 2), columns of group r / 2."""
    elements = numbers.shape[-1]
    matrix = np.zeros((len(numbers), 16, 8 * elements))
    for r in range(4):
        for e in range(elements):
            col = elements * _POSITION + e + 4 * elements * (r // 2)
            matrix[:, _GROUP + 8 * (r % 2), col] = numbers[:, :, r, e]
    return matrix


def _matrix_b(numbers):
    """[warp, depth, 8]: register r holds rows of group r, column g."""
    elements = numbers.shape[-1]
    matrix = np.zeros((len(numbers), 8 * elements, 8))
    for r in range(2):
        for e in range(elements):
            row = elements * _POSITION + e + 4 * elements * r
            matrix[:, row, _GROUP] = numbers[:, :, r, e]
    return matrix


def _matrix_c(registers):
    """[warp, 16, 8] as float64."""
    matrix = np.zeros((len(registers), 16, 8))
    for r in range(4):
        matrix[:, _GROUP + 8 * (r // 2), 2 * _POSITION + r % 2] = registers[:, :, r]
    return matrix


def _multiply_f64(op):
    a, b, c = (_fragment_gatherer(op, operand, "f64") for operand in (1, 2, 3))
    writers = [op.writer(part) for part in unpack(op.operands[0])]

    def execute(team, mask):
        _require_full_warps(team, mask, "mma")
        left, right = a(team)[:, :, 0], b(team)[:, :, 0]
        matrix_a = left.reshape(-1, 8, 4)
        matrix_b = right.reshape(-1, 8, 4).transpose(0, 2, 1)
        matrix_c = c(team).reshape(-1, 8, 8)
        result = (np.matmul(matrix_a, matrix_b) + matrix_c).reshape(-1, 2)
        for r, write in enumerate(writers):
            write(team, np.ascontiguousarray(result[:, r]), mask)

    return execute
