"""Memory in which every access is checked."""

import numpy as np


class Fault(Exception):
    """The program did what the hardware would not do, or what the interpreter does not know."""


def aligned(offset, alignment):
    return (offset + alignment - 1) // alignment * alignment


class Memory:
    """Bytes of which some may be touched."""

    def __init__(self, name, size, base=0):
        self.name, self.base = name, base
        self.bytes = np.zeros(size, np.uint8)
        self.allowed = np.zeros(size, np.bool_)

    def _indices(self, addresses, count, alignment=None):
        """[lanes, count] indices of `count` bytes at each address, checked."""
        alignment = alignment or count
        misaligned = addresses % alignment != 0
        if misaligned.any():
            raise Fault(
                f"{self.name} address {addresses[misaligned][0]:#x} is not {alignment}-byte aligned"
            )
        offsets = addresses - self.base
        inside = (offsets >= 0) & (offsets + count <= len(self.bytes))
        indices = np.where(inside, offsets, 0)[:, None] + np.arange(count)
        inside &= self.allowed[indices].all(axis=1)
        if not inside.all():
            raise Fault(f"{self.name} access out of bounds at {addresses[~inside][0]:#x}")
        return indices

    def load(self, addresses, count, alignment=None):
        """[lanes, count] bytes; addresses int64 [lanes], multiples of `alignment` or `count`."""
        return self.bytes[self._indices(addresses, count, alignment)]

    def store(self, addresses, values):
        """Stores [lanes, count] bytes; of colliding lanes the last one wins."""
        self.bytes[self._indices(addresses, values.shape[1])] = values


class GlobalMemory(Memory):
    """Buffers with guard gaps between them."""

    _GAP = 4096

    def __init__(self, size=1 << 24):
        super().__init__("global", size, base=0x7F0000000000)
        self._top = self._GAP
        self._buffers = {}

    def put(self, array, offset=0):
        """Copies an array in, `offset` bytes off a multiple of 256; returns its address."""
        array = np.ascontiguousarray(array)
        begin = aligned(self._top, 256) + offset
        end = begin + array.nbytes
        if end + self._GAP > len(self.bytes):
            raise MemoryError(f"GlobalMemory of {len(self.bytes)} bytes is full")
        self.bytes[begin:end] = np.frombuffer(array.tobytes(), np.uint8)
        self.allowed[begin:end] = True
        self._top = end + self._GAP
        self._buffers[self.base + begin] = array
        return np.uint64(self.base + begin)

    def get(self, address):
        """The present contents of the buffer that `put` placed at `address`."""
        array = self._buffers[int(address)]
        begin = int(address) - self.base
        return np.frombuffer(
            self.bytes[begin : begin + array.nbytes].tobytes(), array.dtype
        ).reshape(array.shape)


class SharedMemory(Memory):
    """A block's arrays with gaps between them, filled with poison (NaN in every float type)."""

    GAP = 512
    POISON = np.array([0xFB, 0xFF], np.uint8)

    def __init__(self, ranges, dynamic_begin, dynamic_bytes):
        """ranges: (begin, end) of the arrays; dynamic memory comes behind them."""
        end = dynamic_begin + aligned(dynamic_bytes, 16) + self.GAP
        super().__init__("shared", end)
        self.bytes[:] = np.resize(self.POISON, end)
        for begin, array_end in [*ranges, (dynamic_begin, dynamic_begin + dynamic_bytes)]:
            self.allowed[begin:array_end] = True

    def poison(self, addresses, count):
        self.store(addresses, np.tile(self.POISON, (len(addresses), count // 2)))


class LocalMemory:
    """Memory of which every lane has its own copy."""

    def __init__(self, lanes, size):
        self.bytes = np.resize(SharedMemory.POISON, (lanes, size))

    def _indices(self, lanes, addresses, count):
        if (addresses % count).any():
            raise Fault(f"local address is not {count}-byte aligned")
        if ((addresses < 0) | (addresses + count > self.bytes.shape[1])).any():
            raise Fault("local access out of bounds")
        return lanes[:, None], addresses[:, None] + np.arange(count)

    def load(self, lanes, addresses, count):
        """[lanes, count] bytes at each lane's address."""
        return self.bytes[self._indices(lanes, addresses, count)]

    def store(self, lanes, addresses, values):
        self.bytes[self._indices(lanes, addresses, values.shape[1])] = values
