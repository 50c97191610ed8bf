"""How much of the tensor cores' rate a block reaches whose two consumers share them.

A cycle model of one block of the wgmma sweeps: a ring of stages that are copied into it, two
consumer warpgroups that multiply a slice and then work through an epilogue, one tensor core and
one unit of exponentials for both.  Rates and latencies are guesses, named below.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

STEP = 32  # cycles at a time
SLICE_DEPTH = 64  # dimensions
SLICE_CYCLES = 512  # of the tensor cores, for a consumer's 64 x 256 pairs of a slice
STAGE_BYTES = 48 * 1024

RATE = 0.90  # of the tensor cores' peak, when nothing waits
COPY_BYTES_PER_CYCLE = 75.0  # from the L2 cache
COPY_LATENCY = 900.0
EPILOGUE_CYCLES = 1024.0  # of the exponentials, when one consumer has their unit for itself


@dataclass
class Consumer:
    """A warpgroup: multiplies the slices of a tile, then works through its epilogue."""

    is_late: bool  # begins when the other one has `lag` slices under way
    next_slice: int = 0
    in_flight: deque[list[float]] = field(default_factory=deque)  # [slice, cycles left]
    exponentials_left: float | None = None  # None: multiplies
    fixed_left: float = 0.0
    tiles_done: int = 0
    end: int | None = None


class Overlap:
    """One block's run over `tiles` tiles of 128 x 256 pairs of `depth` dimensions."""

    def __init__(self, depth: int, stages: int, lag: int, epilogue_fixed: float, tiles: int):
        self.slices = -(-depth // SLICE_DEPTH)
        self.total, self.tiles = self.slices * tiles, tiles
        self.stages, self.lag, self.epilogue_fixed = stages, min(lag, self.total), epilogue_fixed
        self.lands: list[float] = []  # when each slice is there
        self.readers_done = [0] * self.total
        self.copy_free = 0.0
        self.consumers = [Consumer(is_late=False), Consumer(is_late=True)]
        self.now = 0

    def run(self) -> float:
        """Share of the tensor cores' peak over the whole run."""
        while any(consumer.end is None for consumer in self.consumers):
            self._copy()
            busy = [c for c in self.consumers if c.exponentials_left is not None]
            for consumer in self.consumers:
                if consumer.end is None:
                    self._advance(consumer, max(1, len(busy)))
            self._multiply()
            self.now += STEP
        return self.total * 2 * SLICE_CYCLES / self.now

    def _copy(self) -> None:
        while (index := len(self.lands)) < self.total and (
            index < self.stages or self.readers_done[index - self.stages] == len(self.consumers)
        ):
            self.copy_free = max(self.now, self.copy_free) + STAGE_BYTES / COPY_BYTES_PER_CYCLE
            self.lands.append(self.copy_free + COPY_LATENCY)

    def _advance(self, consumer: Consumer, epilogues: int) -> None:
        if consumer.exponentials_left is not None:
            if consumer.exponentials_left > 0:
                consumer.exponentials_left -= STEP / epilogues
            else:
                consumer.fixed_left -= STEP
            if consumer.exponentials_left <= 0 and consumer.fixed_left <= 0:
                consumer.exponentials_left = None
                consumer.tiles_done += 1
                if consumer.tiles_done == self.tiles:
                    consumer.end = self.now
            return
        leader = self.consumers[0]
        if consumer.is_late and consumer.tiles_done == 0 and leader.next_slice < self.lag:
            return
        end_of_tile = (consumer.tiles_done + 1) * self.slices
        while (
            len(consumer.in_flight) < 2
            and consumer.next_slice < min(end_of_tile, len(self.lands))
            and self.lands[consumer.next_slice] <= self.now
        ):
            consumer.in_flight.append([consumer.next_slice, SLICE_CYCLES / RATE])
            consumer.next_slice += 1
        if consumer.next_slice == end_of_tile and not consumer.in_flight:
            consumer.exponentials_left, consumer.fixed_left = EPILOGUE_CYCLES, self.epilogue_fixed

    def _multiply(self) -> None:
        """The consumers with work in flight share the tensor cores."""
        active = [consumer for consumer in self.consumers if consumer.in_flight]
        for consumer in active:
            consumer.in_flight[0][1] -= STEP / len(active)
            if consumer.in_flight[0][1] <= 0:
                self.readers_done[int(consumer.in_flight.popleft()[0])] += 1


def tensor_share(
    depth: int, *, stages: int = 4, lag: int = 2, epilogue_fixed: float = 350.0, tiles: int = 24
) -> float:
    """Share of the tensor cores' peak that a block reaches.

    lag: slices by which the second consumer starts later.  epilogue_fixed: cycles of an epilogue
    beside its exponentials.
    """
    return Overlap(depth, stages, lag, epilogue_fixed, tiles).run()
