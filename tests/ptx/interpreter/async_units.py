"""Hopper's memory barriers and copies of boxes, as a block has them.

The layout of a box is the PTX ISA's, written down a second time on purpose: the emulator's C++ code
has its own.  A box lands when no thread can run any more; until then its place holds poison.
"""

import struct
from dataclasses import dataclass

import numpy as np

from .memory import Fault

_MAP = struct.Struct("<5Q2I")  # emulation::TensorMapTwin
_MAGIC = 0x70616D726F736E65
ROW_BYTES = 128


def tensor_map(address, rows, cols, box_rows):
    """The 128 bytes of a map of a row-major matrix of 16-bit elements."""
    fields = _MAP.pack(_MAGIC, int(address), cols, rows, 2 * cols, ROW_BYTES // 2, box_rows)
    return fields.ljust(128, b"\0")


def swizzled(addresses):
    """Of each 128-byte row the 16-byte chunks change places: chunk number xor row number."""
    chunk, row = addresses // 16 % 8, addresses // 128 % 8
    return addresses + 16 * ((chunk ^ row) - chunk)


@dataclass
class MemoryBarrier:
    """phases: completed.  pending, bytes: what the present phase lacks."""

    arrivals: int
    pending: int
    bytes: int = 0
    phases: int = 0


@dataclass
class _Box:
    map: bytes
    destination: int
    barrier: int
    row: int
    col: int

    def addresses(self):
        """[rows, 64] of the elements in shared memory."""
        rows = _MAP.unpack_from(self.map)[6]
        plain = self.destination + ROW_BYTES * np.arange(rows)[:, None] + 2 * np.arange(64)
        return swizzled(plain)

    def values(self, memory):
        """[rows, 64] bit patterns, zero outside the matrix."""
        _, data, cols, rows, row_bytes, box_cols, box_rows = _MAP.unpack_from(self.map)
        row = self.row + np.arange(box_rows)[:, None]
        col = self.col + np.arange(box_cols)
        exists = (row >= 0) & (row < rows) & (col >= 0) & (col < cols)
        values = np.zeros((box_rows, box_cols), np.uint16)
        addresses = (data + row * row_bytes + 2 * col)[exists]
        values[exists] = memory.load(addresses, 2).view(np.uint16)[:, 0]
        return values


class AsyncUnits:
    """A block's."""

    def __init__(self, block):
        self._block, self._barriers, self._boxes = block, {}, []

    def barrier(self, address):
        if address not in self._barriers:
            raise Fault(f"there is no mbarrier at {address}")
        return self._barriers[address]

    def initialise(self, address, arrivals):
        if address in self._barriers or address % 8:
            raise Fault(f"mbarrier at {address} is initialised twice, or misaligned")
        self._barriers[address] = MemoryBarrier(arrivals, arrivals)

    def arrive(self, address, expected_bytes):
        barrier = self.barrier(address)
        barrier.pending -= 1
        barrier.bytes += expected_bytes
        self._settle(address)

    def has_ended(self, address, parity):
        """Whether the last phase of this parity is over."""
        return self.barrier(address).phases % 2 != parity

    def _settle(self, address):
        barrier = self._barriers[address]
        if barrier.pending:
            return
        if barrier.bytes < 0:
            raise Fault(f"mbarrier at {address}: {-barrier.bytes} bytes were never announced")
        if barrier.bytes == 0:
            barrier.phases += 1
            barrier.pending = barrier.arrivals
            self._block.wake(("mbarrier", address))

    def copy_box(self, map_bytes, destination, barrier, row, col):
        if _MAP.unpack_from(map_bytes)[0] != _MAGIC or destination % 1024:
            raise Fault(f"box to {destination}: no map, or no multiple of 1024")
        self.barrier(barrier)
        box = _Box(map_bytes, destination, barrier, row, col)
        self._block.shared.poison(box.addresses().reshape(-1), 2)
        self._boxes.append(box)

    def land_box(self, order):
        """Lands one box; False if none is in flight."""
        if not self._boxes:
            return False
        box = self._boxes.pop(order.integers(len(self._boxes)))
        values = box.values(self._block.global_memory)
        pieces = np.ascontiguousarray(values).view(np.uint8).reshape(-1, 2)
        self._block.shared.store(box.addresses().reshape(-1), pieces)
        self.barrier(box.barrier).bytes -= values.nbytes
        self._settle(box.barrier)
        return True

    def describe(self):
        """What the barriers lack, for the report of a deadlock."""
        return [
            f"mbarrier at {address} lacks {b.pending} arrivals and {b.bytes} bytes"
            for address, b in self._barriers.items()
            if b.pending != b.arrivals or b.bytes
        ]
