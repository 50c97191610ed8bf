"""Operand text into functions that read and write a team's registers."""

import re

import numpy as np

from .memory import Fault
from .number_types import NUMPY, UNSIGNED, unsigned, width

INSTRUCTIONS = {}  # opcode's first part -> builder


def instruction(*names):
    """Registers builder(op) -> function(team, mask) for opcodes that start with one of `names`."""

    def register(builder):
        for name in names:
            INSTRUCTIONS[name] = builder
        return builder

    return register


def unpack(operand):
    """The parts of '{a, b}' or '(a, b)'; an ordinary operand is its own only part."""
    if operand[0] in "{(":
        return [part.strip() for part in operand[1:-1].split(",") if part.strip()]
    return [operand]


class Operation:
    """One instruction during compilation."""

    def __init__(self, program, routine, instruction_):
        self.program, self.routine = program, routine
        self.opcode = instruction_.opcode
        self.operands = instruction_.operands
        self.scope = instruction_.scope
        self.text = instruction_.text

    @property
    def type(self):
        return self.opcode[-1]

    def has(self, *modifiers):
        """The first of `modifiers` that the opcode carries, or None."""
        return next((m for m in modifiers if m in self.opcode), None)

    def register(self, name):
        """The register's name in the program, or None."""
        return self.program.register(self.routine, name, self.scope)

    def reader(self, operand, ptx_type=None):
        """function(team) -> array of the type; `operand` is an index or text."""
        text = self.operands[operand] if isinstance(operand, int) else operand
        ptx_type = ptx_type or self.type
        name = self.register(text)
        if name is not None:
            return self._register_reader(name, ptx_type)
        if text.startswith("!"):
            inner = self.reader(text[1:], "pred")
            return lambda team: ~inner(team)
        bits, number_type = width(ptx_type), NUMPY[ptx_type]
        constant = _constant(text, bits, number_type)
        if constant is not None:
            return _of_all_lanes(constant)
        as_bits = UNSIGNED[bits]
        if text.startswith("%"):
            return lambda team: team.special(text).astype(as_bits).view(number_type)
        symbol, _, offset = text.partition("+")
        address = self.program.symbol(symbol) + int(offset or 0)
        return lambda team: np.full(team.lanes, address, as_bits)

    def _register_reader(self, name, ptx_type):
        if ptx_type == "pred":
            return lambda team: team.registers[name]
        bits, number_type = width(ptx_type), NUMPY[ptx_type]
        if width(self.program.registers[name]) == bits:
            return lambda team: team.registers[name].view(number_type)
        as_bits = UNSIGNED[bits]
        return lambda team: team.registers[name].astype(as_bits).view(number_type)

    def writer(self, operand=0):
        """function(team, values, mask) that keeps the register's other lanes.

        No register's array is written to, so that several may be one: a move copies nothing.
        """
        text = self.operands[operand] if isinstance(operand, int) else operand
        if text == "_":
            return lambda team, values, mask: None
        name = self.register(text)
        if name is None:
            raise Fault(f"unknown register {text} in {self.text}")
        as_bits = unsigned(self.program.registers[name])
        size = np.dtype(as_bits).itemsize

        def write(team, values, mask):
            if values.dtype != as_bits:
                if values.dtype.itemsize == size and as_bits is not np.bool_:
                    values = np.ascontiguousarray(values).view(as_bits)
                else:
                    values = values.astype(as_bits)  # extends signed sources by their sign
            if not mask.all():
                values = np.where(mask, values, team.registers[name])
            team.registers[name] = values

        return write

    def address(self, operand, ptx_type="u64"):
        """function(team) -> int64 addresses of '[register+offset]' or '[symbol+offset]'."""
        inner = self.operands[operand].strip()[1:-1].strip()
        base, _, offset = inner.partition("+")
        distance = int(offset, 0) if offset else 0
        base = base.strip()
        name = self.register(base)
        if name is None:
            read = self.reader(base, ptx_type)
        else:
            bits = width(self.program.registers[name])
            read = self.reader(base, f"u{bits}")
        return lambda team: read(team).astype(np.int64) + distance


def _of_all_lanes(constant):
    """function(team) -> the constant in every lane, of one array for each number of lanes."""
    arrays = {}

    def read(team):
        lanes = team.lanes
        if lanes not in arrays:
            arrays[lanes] = np.full(lanes, constant)
            arrays[lanes].flags.writeable = False
        return arrays[lanes]

    return read


def _constant(text, bits, number_type):
    """A 0-d array of the literal's value in the given type, or None if it is no literal."""
    if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", text):
        value = np.frombuffer(bytes.fromhex(text[2:]), ">f4")[0].astype(np.float32)
        value = np.asarray(value)
        return value.view(number_type) if bits == 32 else value.astype(number_type)
    if re.fullmatch(r"0[dD][0-9a-fA-F]{16}", text):
        value = np.frombuffer(bytes.fromhex(text[2:]), ">f8")[0].astype(np.float64)
        return np.asarray(value).view(number_type)
    if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)U?", text):
        value = int(text.rstrip("U"), 0)
        if bits == 1:
            return np.array(value != 0)
        pattern = np.array(value & ((1 << bits) - 1), np.uint64).astype(UNSIGNED[bits])
        return pattern.view(number_type)
    return None
