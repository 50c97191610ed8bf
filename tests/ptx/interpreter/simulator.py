"""Modules, launches and blocks."""

import numpy as np

from .async_units import AsyncUnits
from .memory import Fault, Memory, SharedMemory
from .parser import parse
from .program import Program
from .team import Noise, Team

_MOST_INSTRUCTIONS = 20_000_000  # of a launch: a loop that never ends is a fault


class Block:
    """A thread block: its shared memory, its barriers, its teams."""

    def __init__(self, launch, index, noise):
        self.program, self.grid, self.shape, self.index = (
            launch.program,
            launch.grid,
            launch.block,
            index,
        )
        self.num_threads = self.shape[0] * self.shape[1] * self.shape[2]
        self.global_memory, self.parameters = launch.memory, launch.parameters
        self.count = launch.count
        self.shared = SharedMemory(
            self.program.shared_ranges, self.program.dynamic_begin, launch.dynamic_bytes
        )
        self._arrived = {}  # barrier -> threads
        self.units = AsyncUnits(self)
        num_warps, warps = (self.num_threads + 31) // 32, launch.warps_per_team
        self.teams = [
            Team(self, first, min(warps, num_warps - first), noise)
            for first in range(0, num_warps, warps)
        ]

    def arrive(self, number, threads, expected):
        arrived = self._arrived.get(number, 0) + threads
        if arrived > expected:
            raise Fault(f"barrier {number}: {arrived} threads arrived, {expected} expected")
        self._arrived[number] = arrived
        if arrived < expected:
            return
        self._arrived[number] = 0
        self.wake(number)

    def wake(self, what):
        """What waits for a barrier, or for an mbarrier, goes on."""
        for team in self.teams:
            team.paths += [path for waiting, path in team.waits_for if waiting == what]
            team.waits_for = [pair for pair in team.waits_for if pair[0] != what]

    def run(self, order):
        while True:
            if ready := [team for team in self.teams if team.paths]:
                ready[order.integers(len(ready))].run()
            elif any(team.waits_for for team in self.teams):
                if not self.units.land_box(order):
                    break
            elif self.units.land_box(order):
                raise Fault("the block ends while a box is in flight")
            else:
                return
        waiting = {
            f"warp {team.first_warp} at barrier {number}"
            for team in self.teams
            for number, _ in team.waits_for
        }
        raise Fault("deadlock: " + ", ".join([*sorted(waiting), *self.units.describe()]))


class Launch:
    """What the blocks of a launch share."""

    def __init__(self, program, grid, block, arguments, memory, dynamic_bytes, warps_per_team):
        self.program, self.grid, self.block = program, _three(grid), _three(block)
        self.memory, self.dynamic_bytes = memory, dynamic_bytes
        self.warps_per_team = warps_per_team or 32
        self.executed = 0
        self.parameters = Memory("parameter", program.parameter_bytes)
        for (name, size), begin, argument in zip(
            program.kernel.parameters, program.parameter_offsets, arguments, strict=True
        ):
            data = argument if isinstance(argument, bytes) else np.asarray(argument).tobytes()
            if len(data) > size:
                raise ValueError(f"parameter {name} has {size} bytes, the argument {len(data)}")
            self.parameters.bytes[begin : begin + len(data)] = np.frombuffer(data, np.uint8)
            self.parameters.allowed[begin : begin + size] = True

    def count(self, instructions):
        self.executed += instructions
        if self.executed > _MOST_INSTRUCTIONS:
            raise Fault(f"more than {_MOST_INSTRUCTIONS} instructions")

    def run(self, seed):
        x, y, z = self.grid
        order = np.random.default_rng(seed)
        noise = Noise(seed)
        blocks = order.permutation(x * y * z) if seed else range(x * y * z)
        with np.errstate(all="ignore"):
            for linear in blocks:
                index = int(linear % x), int(linear // x % y), int(linear // (x * y))
                Block(self, index, noise).run(order)


class Module:
    """The kernels of one PTX file.

    executed: instructions run so far, each for a whole team.
    """

    def __init__(self, text):
        self._parsed = parse(text)
        self.kernels = self._parsed.kernels
        self.executed = 0
        self._programs = {}

    def kernel(self, name):
        """The kernel whose mangled name is or contains `name`; KeyError unless there is one."""
        if name in self.kernels:
            return self.kernels[name]
        found = [kernel for full, kernel in self.kernels.items() if name in full]
        if len(found) != 1:
            raise KeyError(f"{len(found)} kernels match {name!r}: {sorted(self.kernels)}")
        return found[0]

    def program(self, name):
        """The kernel linked with its functions and compiled."""
        kernel = self.kernel(name)
        if kernel.name not in self._programs:
            self._programs[kernel.name] = Program(self._parsed, kernel)
        return self._programs[kernel.name]

    def forget_programs(self):
        """Frees them at once: their instructions refer to them, and there are a million objects."""
        for program in self._programs.values():
            program.steps.clear()
        self._programs.clear()

    def opcodes(self, name):
        """The set of the kernel's opcodes, without those of the functions it calls."""
        return {".".join(i.opcode) for i in self.program(name).kernel.instructions}

    def launch(
        self, name, grid, block, arguments, memory, *, dynamic_bytes=0, seed=0, warps_per_team=None
    ):
        """Runs a grid to its end; raises Fault.

        grid, block: an int or up to three.  arguments: numpy scalars (their dtype's size counts),
        or bytes for structs.  memory: a GlobalMemory.  seed: of the order of blocks and teams and
        of the noise in fresh registers.  warps_per_team: how many warps run in lockstep, by default
        all of a block (fastest); 1 runs them one by one in random order.
        """
        launch = Launch(
            self.program(name), grid, block, arguments, memory, dynamic_bytes, warps_per_team
        )
        try:
            launch.run(seed)
        finally:
            self.executed += launch.executed


def _three(extent):
    extent = (extent,) if isinstance(extent, int) else tuple(extent)
    return extent + (1,) * (3 - len(extent))
