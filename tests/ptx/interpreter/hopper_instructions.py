"""mbarrier, copies of boxes, wgmma and setmaxnreg.

Operand layouts and descriptors are the PTX ISA's (9.7.15.5), written down a second time on purpose.
A product is computed when it is issued: that its operands and sums stay untouched until the wait is
for the emulator to see.
"""

import numpy as np

from .async_units import swizzled
from .memory import Fault
from .memory_instructions import WINDOWS
from .number_types import bf16_to_f32
from .operands import instruction, unpack
from .parser import split_operands


@instruction("mbarrier")
def memory_barrier(op):
    kind = op.opcode[1]
    if kind == "init":
        address, count = op.address(0, "u32"), op.reader(1, "u32")
        return _for_each_lane(
            lambda units, lane, at, arrivals: units.initialise(at[lane], int(arrivals[lane])),
            address,
            count,
        )
    if kind == "arrive":
        expected = op.reader(2, "u32") if op.has("expect_tx") else None
        return _for_each_lane(
            lambda units, lane, at, size: units.arrive(at[lane], int(size[lane])),
            op.address(1, "u32"),
            expected or (lambda team: np.zeros(team.lanes, np.uint32)),
        )
    if kind == "try_wait" and op.has("parity"):
        return _try_wait(op)
    raise Fault(f"unsupported PTX: {op.text}")


def _for_each_lane(function, *readers):
    def execute(team, mask):
        values = [read(team) for read in readers]
        for lane in np.flatnonzero(mask):
            function(team.block.units, lane, *values)

    return execute


def _try_wait(op):
    """A lane whose phase is not over tries again when a phase of its barrier has ended."""
    address, parity, write = op.address(1, "u32"), op.reader(2, "u32"), op.writer()

    def execute(team, mask):
        addresses, parities = address(team), parity(team)
        has_ended = np.zeros(team.lanes, np.bool_)
        for at, odd in {(int(addresses[i]), int(parities[i])) for i in np.flatnonzero(mask)}:
            lanes = mask & (addresses == at) & (parities == odd)
            if team.block.units.has_ended(at, odd):
                has_ended |= lanes
            else:
                team.try_again_after(("mbarrier", at), lanes)
        write(team, has_ended, has_ended)

    return execute


def copy_box(op):
    """cp.async.bulk.tensor.2d from global memory; `cp` comes here."""
    wanted = ["tensor", "2d", "shared::cluster", "global", "tile", "mbarrier::complete_tx::bytes"]
    if op.opcode[3:] != wanted:
        raise Fault(f"unsupported PTX: {op.text}")
    destination, barrier = op.address(0, "u32"), op.address(2, "u32")
    source, coordinates = split_operands(op.operands[1][1:-1])
    map_address = op.reader(source, "u64")
    col, row = (op.reader(part, "s32") for part in unpack(coordinates))

    def execute(team, mask):
        for lane in np.flatnonzero(mask):
            at = int(map_address(team)[lane]) - WINDOWS["param"]
            map_bytes = team.block.parameters.load(np.array([at]), 128, 64).tobytes()
            values = (int(read(team)[lane]) for read in (destination, barrier, row, col))
            team.block.units.copy_box(map_bytes, *values)

    return execute


@instruction("prefetch")
def prefetch(op):
    return lambda team, mask: None


@instruction("setmaxnreg")
def set_registers(op):
    registers = int(op.operands[0])
    if registers % 8 or not 24 <= registers <= 256:
        raise Fault(f"a multiple of 8 from 24 to 256: {op.text}")
    return lambda team, mask: None


@instruction("wgmma")
def warpgroup_product(op):
    kind = op.opcode[1]
    if kind == "mma_async":
        return _multiply(op)
    pending = int(op.operands[0]) if kind == "wait_group" else None

    def execute(team, mask):
        products = team.products
        for warp in _whole_warps(mask, kind):
            if kind == "fence":
                products.fenced[warp] = True
            elif kind == "commit_group":
                products.groups[warp] += 1
                products.is_open[warp] = products.fenced[warp] = False
            else:
                products.groups[warp] = min(products.groups[warp], pending)

    return execute


class WarpProducts:
    """Of each warp of a team: is a group open, how many are in flight, was the open one fenced."""

    def __init__(self, warps):
        self.is_open = np.zeros(warps, np.bool_)
        self.groups = np.zeros(warps, np.int64)
        self.fenced = np.zeros(warps, np.bool_)

    def check_exit(self, mask):
        ends = mask.reshape(-1, 32).any(axis=1)
        if (ends & (self.is_open | (self.groups > 0))).any():
            raise Fault("exit with wgmma that were never waited for")


def _whole_warps(mask, what):
    warps = mask.reshape(-1, 32)
    if (warps.any(axis=1) & ~warps.all(axis=1)).any():
        raise Fault(f"wgmma.{what} by a diverged warp")
    return np.flatnonzero(warps.any(axis=1))


def _multiply(op):
    shape, types = op.opcode[4], op.opcode[5:]
    to_float = {"bf16": bf16_to_f32, "f16": lambda halves: halves.view(np.float16)}.get(types[1])
    sums = unpack(op.operands[0])
    cols = 2 * len(sums)
    in_registers = op.operands[1].startswith("{")
    majors = [int(text) for text in op.operands[6:]]
    is_known = (
        shape == f"m64n{cols}k16"
        and types == ["f32", types[1], types[1]]
        and to_float is not None
        and op.operands[4:6] == ["1", "1"]
        and len(majors) == (1 if in_registers else 2)
    )
    if not is_known:
        raise Fault(f"unsupported PTX: {op.text}")
    sum_readers, writers = ([make(s) for s in sums] for make in (_f32(op), op.writer))
    adds, b_descriptor = op.reader(3, "pred"), op.reader(2, "b64")
    a_parts = [op.reader(p, "b32" if in_registers else "b64") for p in unpack(op.operands[1])]

    def execute(team, mask):
        registers = np.stack([read(team) for read in sum_readers], axis=-1)
        a_values = np.stack([read(team) for read in a_parts], axis=-1)
        descriptors, added = b_descriptor(team), adds(team)
        for warp in _whole_warps(mask, "mma_async"):
            if not team.products.fenced[warp]:
                raise Fault("the group of a wgmma has no wgmma.fence")
            team.products.is_open[warp] = True
            lanes = slice(32 * warp, 32 * warp + 32)
            b = _operand(team, _uniform(descriptors[lanes]), np.arange(cols), majors[-1], to_float)
            if in_registers:
                a = _from_registers(a_values[lanes], to_float)
            else:
                lines = 16 * ((team.first_warp + warp) % 4) + np.arange(16)
                a = _operand(team, _uniform(a_values[lanes, 0]), lines, majors[0], to_float)
            before = _as_tile(registers[lanes]) if _uniform(added[lanes]) else 0
            registers[lanes] = _as_registers((a @ b.T + before).astype(np.float32))
        for i, write in enumerate(writers):
            write(team, np.ascontiguousarray(registers[:, i]), mask)

    return execute


def _f32(op):
    return lambda text: op.reader(text, "f32")


def _uniform(values):
    if (values != values[0]).any():
        raise Fault("the lanes of a wgmma have different operands")
    return int(values[0])


def _operand(team, descriptor, lines, is_by_lines, to_float):
    """[lines, 16] numbers of an operand in shared memory."""
    start, leading, stride = ((descriptor >> begin & 0x3FFF) << 4 for begin in (0, 16, 32))
    known = 0x3FFF | 0x3FFF << 16 | 0x3FFF << 32 | 3 << 62
    if descriptor >> 62 != 1 or descriptor & ~known:
        raise Fault(f"wgmma descriptor {descriptor:#x}: another swizzle, or unknown bits")
    line, k = lines[:, None], np.arange(16)
    if is_by_lines:  # 64 lines to a row of 128 bytes, 8 of k to an atom
        plain = start + line // 64 * leading + line % 64 * 2 + k // 8 * stride + k % 8 * 128
    else:  # 8 lines to an atom, k along its rows
        plain = start + line // 8 * stride + line % 8 * 128 + 2 * k
    halves = team.block.shared.load(swizzled(plain).reshape(-1), 2).view(np.uint16)
    return to_float(halves.reshape(len(lines), 16)).astype(np.float64)


def _from_registers(words, to_float):
    """[16, 16] numbers of A in a warp's registers [lane, 4]."""
    lane = np.arange(32)
    halves = np.ascontiguousarray(words).view(np.uint16).reshape(32, 4, 2)
    numbers, tile = to_float(halves).astype(np.float64), np.zeros((16, 16))
    for r in range(4):
        for half in range(2):
            col = 2 * (lane % 4) + 8 * (r // 2) + half
            tile[lane // 4 + 8 * (r % 2), col] = numbers[:, r, half]
    return tile


def _places(num_sums):
    """Row and column of D for each lane and register."""
    lane, r = np.arange(32)[:, None], np.arange(num_sums)
    return lane // 4 + 8 * (r // 2 % 2), r // 4 * 8 + 2 * (lane % 4) + r % 2


def _as_tile(registers):
    tile = np.zeros((16, 2 * registers.shape[1]))
    tile[_places(registers.shape[1])] = registers
    return tile


def _as_registers(tile):
    return tile[_places(tile.shape[1] // 2)]
