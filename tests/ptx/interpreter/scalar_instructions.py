"""Moves, conversions and comparisons."""

import numpy as np

from .memory import Fault
from .number_types import (
    NUMPY,
    UNSIGNED,
    bf16_to_f32,
    f32_to_bf16,
    is_float,
    round_towards,
    unsigned,
    width,
)
from .operands import instruction, unpack

ROUNDINGS = ("rn", "rz", "rm", "rp")


@instruction("mov")
def move(op):
    destination, source = op.operands
    if destination.startswith("{"):
        return _unpack(op, unpack(destination), source)
    if source.startswith("{"):
        return _pack(op, unpack(source))
    read, write = op.reader(1), op.writer()
    return lambda team, mask: write(team, read(team), mask)


def _unpack(op, parts, source):
    read, part_bits = op.reader(source), width(op.type) // len(parts)
    writers = [op.writer(part) for part in parts]

    def execute(team, mask):
        value = read(team)
        for i, write in enumerate(writers):
            shifted = value >> value.dtype.type(i * part_bits)
            write(team, shifted.astype(UNSIGNED[part_bits]), mask)

    return execute


def _pack(op, parts):
    bits = unsigned(op.type)
    part_bits = width(op.type) // len(parts)
    readers, write = [op.reader(part, f"b{part_bits}") for part in parts], op.writer()

    def execute(team, mask):
        value = np.zeros(team.lanes, bits)
        for i, read in enumerate(readers):
            value |= read(team).astype(bits) << bits(i * part_bits)
        write(team, value, mask)

    return execute


@instruction("cvt")
def convert(op):
    if op.opcode[-2:] == ["tf32", "f32"]:
        return _convert_to_tf32(op)
    if op.opcode[-2] in ("bf16x2", "f16x2"):
        return _convert_to_pair(op)
    to, source = op.opcode[-2], op.opcode[-1]
    read, write = op.reader(1, source), op.writer()
    result = _conversion(op, to, source)
    return lambda team, mask: write(team, result(read(team)), mask)


def _conversion(op, to, source):
    """function(values) for a conversion of single numbers."""
    if source == "bf16":
        return bf16_to_f32
    if to == "bf16":
        return f32_to_bf16
    rounding = op.has(*_TO_INTEGRAL)
    if is_float(source) and is_float(to):
        return _between_floats(op, NUMPY[to], rounding)
    if is_float(source):
        return _to_integer(NUMPY[to], _TO_INTEGRAL[rounding])
    return lambda values: values.astype(NUMPY[to])


_TO_INTEGRAL = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def _between_floats(op, number_type, rounding):
    if rounding:
        return lambda values: _TO_INTEGRAL[rounding](values).astype(number_type)
    if op.has("sat"):
        return lambda values: np.where(np.isnan(values), 0, np.clip(values, 0, 1)).astype(
            number_type
        )
    mode = op.has(*ROUNDINGS) or "rn"
    return lambda values: round_towards(values, number_type, mode)


def _to_integer(number_type, round_to_integral):
    limits = np.iinfo(number_type)

    def convert_values(values):
        # longdouble holds every 64-bit integer; NaN becomes 0 and the rest saturates
        wide = np.nan_to_num(round_to_integral(values.astype(np.longdouble)), nan=0)
        return np.clip(wide, limits.min, limits.max).astype(number_type)

    return convert_values


def _convert_to_tf32(op):
    read, write = op.reader(1, "b32"), op.writer()
    if not op.has("rna"):
        raise Fault(f"unsupported PTX: {op.text}")

    def execute(team, mask):
        bits = read(team)
        rounded = (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
        exponent = bits & np.uint32(0x7F800000)
        special = exponent == np.uint32(0x7F800000)
        nan = special & ((bits & np.uint32(0x7FFFFF)) != 0)
        rounded = np.where(special, bits, rounded)
        write(team, np.where(nan, np.uint32(0x7FFFFFFF), rounded), mask)

    return execute


def _convert_to_pair(op):
    high, low, write = op.reader(1, "f32"), op.reader(2, "f32"), op.writer()

    def bits_of(values):
        if op.opcode[-2] == "bf16x2":
            return f32_to_bf16(values)
        return values.astype(np.float16).view(np.uint16)

    def execute(team, mask):
        upper, lower = bits_of(high(team)), bits_of(low(team))
        write(team, upper.astype(np.uint32) << np.uint32(16) | lower, mask)

    return execute


_COMPARISONS = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal,
    "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip
_COMBINATIONS = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def _comparison(name, floats):
    """function(a, b); equ, neu, ltu, leu, gtu, geu are also true for unordered operands."""

    def unordered(a, b):
        return np.isnan(a) | np.isnan(b)

    if name == "nan":
        return unordered
    if name == "num":
        return lambda a, b: ~unordered(a, b)
    if name.endswith("u"):
        return lambda a, b: _COMPARISONS[name[:-1]](a, b) | unordered(a, b)
    if name == "ne" and floats:
        return lambda a, b: (a != b) & ~unordered(a, b)
    return _COMPARISONS[name]


@instruction("setp")
def set_predicate(op):
    compare = _comparison(op.opcode[1], is_float(op.type))
    a, b = op.reader(1), op.reader(2)
    destinations = op.operands[0].split("|")
    write = op.writer(destinations[0])
    write_complement = op.writer(destinations[1]) if len(destinations) > 1 else None
    combine = _COMBINATIONS.get(op.opcode[2])
    other = op.reader(3, "pred") if combine else None

    def execute(team, mask):
        result = compare(a(team), b(team))
        if write_complement:
            inverse = ~result
            write_complement(team, combine(inverse, other(team)) if combine else inverse, mask)
        write(team, combine(result, other(team)) if combine else result, mask)

    return execute


@instruction("selp")
def select(op):
    a, b, condition, write = op.reader(1), op.reader(2), op.reader(3, "pred"), op.writer()
    return lambda team, mask: write(team, np.where(condition(team), a(team), b(team)), mask)
