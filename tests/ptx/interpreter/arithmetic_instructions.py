"""Arithmetic and bit instructions."""

import numpy as np

from .memory import Fault
from .number_types import NUMPY, is_float, round_towards, width
from .operands import instruction
from .scalar_instructions import ROUNDINGS

_WIDER = {np.float16: np.float32, np.float32: np.float64, np.float64: np.longdouble}
_DOUBLE_WIDTH = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}


def _truncated_division(a, b):
    """Integer quotient towards zero; divisors of 0 count as 1 (undefined on the hardware)."""
    b = np.where(b == 0, b.dtype.type(1), b)
    quotient = a // b
    inexact = (quotient * b != a) & ((a < 0) != (b < 0))
    return quotient + inexact.astype(a.dtype)


def _minimum(a, b):
    return np.fmin(a, b) if a.dtype.kind == "f" else np.minimum(a, b)


def _maximum(a, b):
    return np.fmax(a, b) if a.dtype.kind == "f" else np.maximum(a, b)


_BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "min": _minimum, "max": _maximum,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
}  # fmt: skip


@instruction("add", "sub", "mul", "min", "max", "and", "or", "xor")
def binary(op):
    name = op.opcode[0]
    if op.type in ("f16x2", "bf16x2", "bf16"):
        raise Fault(f"unsupported PTX: {op.text}")
    if name == "mul" and op.has("wide", "hi"):
        return _wide_product(op)
    function = _BINARY[name]
    a, b, write = op.reader(1), op.reader(2), op.writer()
    mode = op.has(*ROUNDINGS)
    if is_float(op.type) and mode in ("rz", "rm", "rp"):
        number_type = NUMPY[op.type]
        wider = _WIDER[number_type]

        def rounded(team, mask):
            exact = function(a(team).astype(wider), b(team).astype(wider))
            write(team, round_towards(exact, number_type, mode), mask)

        return rounded
    flush = op.has("ftz") is not None
    saturate = op.has("sat") is not None and is_float(op.type)

    def execute(team, mask):
        result = function(a(team), b(team))
        if flush:
            result = _flush(result)
        write(team, np.clip(result, 0, 1) if saturate else result, mask)

    return execute


def _flush(values):
    """Subnormal fp32 results become zero."""
    return np.where(np.abs(values) < np.float32(2.0**-126), np.float32(0), values)


def _product(op):
    """function(team) -> a * b of integers: low, high or wide part."""
    a, b = op.reader(1), op.reader(2)
    if op.has("lo"):
        return lambda team: a(team) * b(team)
    bits = width(op.type)
    if op.has("hi") and bits == 64:
        # numpy has no 128-bit integers
        shift, number_type = 64, NUMPY[op.type]

        def high(team):
            products = (
                (int(x) * int(y) >> shift) & 0xFFFFFFFFFFFFFFFF
                for x, y in zip(a(team), b(team), strict=True)
            )
            return np.fromiter(products, np.uint64, team.lanes).view(number_type)

        return high
    wide = NUMPY[_DOUBLE_WIDTH[op.type]]
    if op.has("wide"):
        return lambda team: a(team).astype(wide) * b(team).astype(wide)
    narrow = NUMPY[op.type]
    return lambda team: (a(team).astype(wide) * b(team).astype(wide) >> wide(bits)).astype(narrow)


def _wide_product(op):
    product, write = _product(op), op.writer()
    return lambda team, mask: write(team, product(team), mask)


@instruction("mad", "fma")
def multiply_add(op):
    write = op.writer()
    if not is_float(op.type):
        product = _product(op)
        addend = op.reader(3, _DOUBLE_WIDTH[op.type] if op.has("wide") else op.type)
        return lambda team, mask: write(team, product(team) + addend(team), mask)
    if op.type not in ("f16", "f32", "f64"):
        raise Fault(f"unsupported PTX: {op.text}")
    number_type = NUMPY[op.type]
    wider = _WIDER[number_type]
    a, b, c = op.reader(1), op.reader(2), op.reader(3)
    mode = op.has(*ROUNDINGS) or "rn"
    flush = op.has("ftz") is not None

    def execute(team, mask):
        exact = a(team).astype(wider) * b(team).astype(wider) + c(team).astype(wider)
        result = round_towards(exact, number_type, mode)
        write(team, _flush(result) if flush else result, mask)

    return execute


@instruction("div", "rem")
def divide(op):
    a, b, write = op.reader(1), op.reader(2), op.writer()
    if is_float(op.type):
        return lambda team, mask: write(team, a(team) / b(team), mask)
    if op.opcode[0] == "div":
        return lambda team, mask: write(team, _truncated_division(a(team), b(team)), mask)

    def remainder(team, mask):
        dividend, divisor = a(team), b(team)
        write(team, dividend - _truncated_division(dividend, divisor) * divisor, mask)

    return remainder


_UNARY = {
    "neg": np.negative, "abs": np.abs, "not": np.invert,
    "ex2": np.exp2, "lg2": np.log2, "sqrt": np.sqrt,
    "rcp": lambda x: x.dtype.type(1) / x, "rsqrt": lambda x: x.dtype.type(1) / np.sqrt(x),
    "tanh": np.tanh,
}  # fmt: skip


@instruction(*_UNARY)
def unary(op):
    function, read, write = _UNARY[op.opcode[0]], op.reader(1), op.writer()
    if not op.has("ftz"):
        return lambda team, mask: write(team, function(read(team)), mask)
    return lambda team, mask: write(team, _flush(function(_flush(read(team)))), mask)


@instruction("shl", "shr")
def shift(op):
    left = op.opcode[0] == "shl"
    bits = width(op.type)
    value_type = op.type if op.type[0] == "s" and not left else f"u{bits}"
    value, distance, write = op.reader(1, value_type), op.reader(2, "u32"), op.writer()
    signed = value_type[0] == "s"

    def execute(team, mask):
        values, far = value(team), distance(team)
        near = np.minimum(far, bits - 1).astype(values.dtype)
        result = values << near if left else values >> near
        if not signed:
            result = np.where(far >= bits, values.dtype.type(0), result)
        write(team, result, mask)

    return execute


@instruction("shf")
def funnel_shift(op):
    low, high = op.reader(1, "u32"), op.reader(2, "u32")
    distance, write = op.reader(3, "u32"), op.writer()
    wraps, left = op.has("wrap"), op.has("l")

    def execute(team, mask):
        both = high(team).astype(np.uint64) << np.uint64(32) | low(team).astype(np.uint64)
        far = distance(team)
        far = (far & np.uint32(31) if wraps else np.minimum(far, 32)).astype(np.uint64)
        result = (both << far) >> np.uint64(32) if left else both >> far
        write(team, result.astype(np.uint32), mask)

    return execute


@instruction("bfe", "bfi")
def bit_field(op):
    inserts = op.opcode[0] == "bfi"
    bits = width(op.type)
    unsigned_type = NUMPY[f"u{bits}"]
    if op.type[0] == "s":
        raise Fault(f"unsupported PTX: {op.text}")
    source = op.reader(1)
    base = op.reader(2) if inserts else None
    begin, count = op.reader(2 + inserts, "u32"), op.reader(3 + inserts, "u32")
    write = op.writer()

    def execute(team, mask):
        first = (begin(team) & np.uint32(255)).astype(np.uint64)
        length = np.minimum(count(team) & np.uint32(255), bits).astype(np.uint64)
        ones = np.where(
            length >= 64, ~np.uint64(0), (np.uint64(1) << np.minimum(length, 63)) - np.uint64(1)
        )
        wide = source(team).astype(np.uint64)
        if inserts:
            kept = base(team).astype(np.uint64) & ~(ones << first)
            result = kept | (wide & ones) << first
        else:
            result = wide >> first & ones
        write(team, result.astype(unsigned_type), mask)

    return execute


@instruction("popc", "clz", "brev", "bfind")
def count_bits(op):
    name, bits = op.opcode[0], width(op.type)
    read, write = op.reader(1, f"u{bits}"), op.writer()
    functions = {
        "popc": int.bit_count,
        "clz": lambda x: bits - x.bit_length(),
        "brev": lambda x: int(f"{x:0{bits}b}"[::-1], 2),
        "bfind": lambda x: (x.bit_length() - 1) & 0xFFFFFFFF,
    }
    if name == "bfind" and op.type[0] == "s":
        raise Fault(f"unsupported PTX: {op.text}")
    function = functions[name]

    def execute(team, mask):
        results = (function(int(x)) for x in read(team))
        number_type = NUMPY[f"u{bits}"] if name == "brev" else np.uint32
        write(team, np.fromiter(results, number_type, team.lanes), mask)

    return execute


@instruction("prmt")
def permute_bytes(op):
    if len(op.opcode) > 2:
        raise Fault(f"unsupported PTX: {op.text}")
    a, b, selector, write = op.reader(1), op.reader(2), op.reader(3), op.writer()

    def execute(team, mask):
        both = b(team).astype(np.uint64) << np.uint64(32) | a(team).astype(np.uint64)
        choice, result = selector(team), np.zeros(team.lanes, np.uint32)
        for i in range(4):
            nibble = choice >> np.uint32(4 * i)
            byte = both >> ((nibble & np.uint32(7)) * np.uint32(8)).astype(np.uint64)
            byte = (byte & np.uint64(255)).astype(np.uint32)
            sign = np.where(byte >= 128, np.uint32(255), np.uint32(0))
            byte = np.where(nibble & np.uint32(8) != 0, sign, byte)
            result |= byte << np.uint32(8 * i)
        write(team, result, mask)

    return execute


@instruction("lop3")
def logic_of_three(op):
    readers, write = [op.reader(i) for i in (1, 2, 3)], op.writer()
    table = int(op.operands[4], 0)

    def execute(team, mask):
        a, b, c = (read(team) for read in readers)
        result = np.zeros(team.lanes, np.uint32)
        for row in range(8):
            if table >> row & 1:
                result |= (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
        write(team, result, mask)

    return execute


@instruction("copysign")
def copy_sign(op):
    sign, magnitude, write = op.reader(1), op.reader(2), op.writer()
    return lambda team, mask: write(team, np.copysign(magnitude(team), sign(team)), mask)


@instruction("testp")
def test_property(op):
    tests = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "notanumber": np.isnan,
        "number": lambda x: ~np.isnan(x),
    }
    test, read, write = tests[op.opcode[1]], op.reader(1), op.writer()
    return lambda team, mask: write(team, test(read(team)), mask)
