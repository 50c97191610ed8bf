"""Loads, stores and address spaces."""

import numpy as np

from .memory import Fault
from .number_types import NUMPY, unsigned, width
from .operands import instruction, unpack

# The generic address of a byte in one of these spaces is its window plus its address there.
WINDOWS = {"shared": 0x7E0000000000, "local": 0x7D0000000000, "param": 0x7C0000000000}
_WINDOW_BYTES = 1 << 32


@instruction("cvta")
def convert_address(op):
    read, write = op.reader(1), op.writer()
    space = op.has(*WINDOWS)
    if not space:
        return lambda team, mask: write(team, read(team), mask)
    window = NUMPY[op.type](WINDOWS[space])
    if op.has("to"):
        return lambda team, mask: write(team, read(team) - window, mask)
    return lambda team, mask: write(team, read(team) + window, mask)


@instruction("ld", "ldu")
def load(op):
    count = width(op.type) // 8
    parts = unpack(op.operands[0])
    writers = [op.writer(part) for part in parts]
    bits = unsigned(op.type)
    fetch = _parameter(op, 1) if op.has("param") else _memory(op, 1)

    def execute(team, mask):
        data = np.zeros((team.lanes, count * len(parts)), np.uint8)
        data[mask] = fetch(team, mask).load(count * len(parts))
        for i, write in enumerate(writers):
            part = np.ascontiguousarray(data[:, i * count : (i + 1) * count])
            write(team, part.view(bits)[:, 0], mask)

    return execute


@instruction("st")
def store(op):
    parts = unpack(op.operands[1])
    readers = [op.reader(part) for part in parts]
    count = width(op.type) // 8
    target = _parameter(op, 0) if op.has("param") else _memory(op, 0)

    def execute(team, mask):
        pieces = [
            np.ascontiguousarray(read(team)).view(np.uint8).reshape(team.lanes, count)
            for read in readers
        ]
        target(team, mask).store(np.concatenate(pieces, axis=1)[mask])

    return execute


@instruction("atom", "red")
def atomic_add(op):
    if not op.has("add") or op.type not in ("u32", "s32"):
        raise Fault(f"unsupported PTX: {op.text}")
    target = len(op.operands) - 2  # atom has a result before it
    write = op.writer() if target else None
    read, place = op.reader(target + 1, "u32"), _memory(op, target)

    def execute(team, mask):
        addends, before = read(team), np.zeros(team.lanes, np.uint32)
        for lane in np.flatnonzero(mask):  # one after the other
            alone = np.zeros_like(mask)
            alone[lane] = True
            word = place(team, alone)
            before[lane] = word.load(4).copy().view(np.uint32)[0, 0]
            with np.errstate(over="ignore"):
                after = np.array([[before[lane] + addends[lane]]], np.uint32)
            word.store(after.view(np.uint8))
        if write is not None:
            write(team, before.view(NUMPY[op.type]), mask)

    return execute


class _Place:
    """Where the active lanes' addresses lead."""

    def __init__(self, memory, addresses):
        self.memory, self.addresses = memory, addresses

    def load(self, count):
        return self.memory.load(self.addresses, count)

    def store(self, values):
        self.memory.store(self.addresses, values)


class _LocalPlace:
    """Each active lane's own memory."""

    def __init__(self, memory, lanes, addresses):
        self.memory, self.lanes, self.addresses = memory, lanes, addresses

    def load(self, count):
        return self.memory.load(self.lanes, self.addresses, count)

    def store(self, values):
        self.memory.store(self.lanes, self.addresses, values)


class _VariablePlace:
    """Bytes of a .param variable of a call, one row per lane."""

    def __init__(self, rows, begin, mask):
        self.rows, self.begin, self.mask = rows, begin, mask

    def load(self, count):
        return self.rows[self.mask, self.begin : self.begin + count]

    def store(self, values):
        self.rows[self.mask, self.begin : self.begin + values.shape[1]] = values


def _parameter(op, operand):
    name, _, offset = op.operands[operand].strip()[1:-1].partition("+")
    begin = int(offset or 0)
    key = op.program.variable(op.routine, name.strip(), op.scope)
    if key is None:  # a kernel's parameter, or an address of one
        address = op.address(operand)
        return lambda team, mask: _Place(team.block.parameters, address(team)[mask])
    return lambda team, mask: _VariablePlace(team.variables[key], begin, mask)


def _memory(op, operand):
    """function(team, mask) -> place of the address in the opcode's space, or in the generic one."""
    if op.has("const"):
        raise Fault(f"unsupported PTX: {op.text}")
    address = op.address(operand)
    space = op.has("shared", "global", "local")

    def place(team, mask):
        addresses = address(team)[mask]
        return _in_space(team, mask, space, addresses) if space else _generic(team, mask, addresses)

    return place


def _in_space(team, mask, space, addresses):
    if space == "local":
        return _LocalPlace(team.local, np.flatnonzero(mask), addresses)
    block = team.block
    memories = {"shared": block.shared, "global": block.global_memory, "param": block.parameters}
    return _Place(memories[space], addresses)


def _generic(team, mask, addresses):
    for space, window in WINDOWS.items():
        inside = (addresses >= window) & (addresses < window + _WINDOW_BYTES)
        if inside.all():
            return _in_space(team, mask, space, addresses - window)
        if inside.any():
            raise Fault("one generic access of a warp to several address spaces is not modelled")
    return _in_space(team, mask, "global", addresses)
