"""Runs kernels: teams of warps, divergence, barriers, asynchronous copies."""

import numpy as np

from . import (  # noqa: F401  they register their instructions
    arithmetic_instructions,
    matrix_instructions,
    scalar_instructions,
    warp_instructions,
)
from .memory import Fault, SharedMemory
from .number_types import UNSIGNED, width
from .operands import INSTRUCTIONS, Operation
from .parser import parse

_MOST_INSTRUCTIONS = 20_000_000  # of a launch: a loop that never ends is a fault


class Path:
    """Lanes of a team at one place of the program."""

    def __init__(self, counter, mask):
        self.counter, self.mask = counter, mask


class Copy:
    """A cp.async in flight."""

    def __init__(self, destinations, values, mask, groups):
        self.destinations, self.values, self.mask, self.groups = destinations, values, mask, groups


class Team:
    """Warps that execute in lockstep; every register is one array over all their lanes."""

    def __init__(self, block, first_warp, num_warps, noise):
        self.block, self.first_warp, self.lanes = block, first_warp, 32 * num_warps
        thread = 32 * first_warp + np.arange(self.lanes)
        self.alive = thread < block.num_threads
        self.paths = [Path(0, self.alive.copy())]
        self.running = None
        self.waits_for = []  # (barrier, path)
        self.registers = {}
        for name, ptx_type in block.kernel.registers.items():
            # Uninitialised registers hold noise.
            bits = UNSIGNED[width(ptx_type)]
            self.registers[name] = noise.integers(0, 1 << 63, self.lanes, np.uint64).astype(bits)
        self.copies, self.copy_group = [], np.zeros(self.lanes, np.int64)
        self._special = self._special_registers(np.minimum(thread, block.num_threads - 1))

    def _special_registers(self, thread):
        x, y, _ = self.block.shape
        position = {"x": thread % x, "y": thread // x % y, "z": thread // (x * y)}
        special = {f"%tid.{axis}": value for axis, value in position.items()}
        special["%laneid"] = np.arange(self.lanes) % 32
        for i, axis in enumerate("xyz"):
            special[f"%ntid.{axis}"] = np.full(self.lanes, self.block.shape[i])
            special[f"%ctaid.{axis}"] = np.full(self.lanes, self.block.index[i])
            special[f"%nctaid.{axis}"] = np.full(self.lanes, self.block.grid[i])
        return special

    def special(self, name):
        if name not in self._special:
            raise Fault(f"unsupported special register {name}")
        return self._special[name]

    def symbol(self, name):
        if name not in self.block.shared.symbols:
            raise Fault(f"unknown symbol {name}")
        return self.block.shared.symbols[name]

    # --- control, called by instructions ---

    def jump(self, target):
        self.running.counter = target

    def exit(self, mask):
        if any((copy.mask & mask).any() for copy in self.copies):
            raise Fault("exit with cp.async that were never waited for")
        self.alive &= ~mask
        self.running.mask = self.running.mask & ~mask

    def arrive(self, number, threads, expected, waits):
        if waits:
            self.waits_for.append((number, self.running))
            self.paths.remove(self.running)
        self.block.arrive(number, threads, expected)

    def issue_copy(self, destinations, values, mask):
        self.block.shared.poison(destinations[mask], values.shape[1])
        self.copies.append(Copy(destinations, values, mask.copy(), self.copy_group.copy()))

    def commit_copies(self, mask):
        self.copy_group += mask

    def land_copies(self, mask, pending):
        for copy in self.copies:
            landing = copy.mask & mask & (copy.groups + pending < self.copy_group)
            if landing.any():
                self.block.shared.store(copy.destinations[landing], copy.values[landing])
                copy.mask &= ~landing
        self.copies = [copy for copy in self.copies if copy.mask.any()]

    # --- execution ---

    def run(self, code, module):
        """Runs until every path waits or has ended: always the path that is furthest behind."""
        while self.paths:
            path = (
                min(self.paths, key=lambda p: p.counter) if len(self.paths) > 1 else self.paths[0]
            )
            self.running = path
            others = [p.counter for p in self.paths if p is not path]
            limit = min(others, default=len(code))
            self._run_path(path, code, limit, module)
            if path in self.paths and not path.mask.any():
                self.paths.remove(path)
            self._merge(path)

    def _run_path(self, path, code, limit, module):
        """Executes until the path jumps, waits, splits, ends or comes to another path's place."""
        while path.counter < limit:
            predicate, negated, execute, text = code[path.counter]
            path.counter += 1
            module.executed += 1
            mask = path.mask
            if predicate:
                condition = self.registers[predicate]
                mask = mask & ~condition if negated else mask & condition
                if not mask.any():
                    continue
                if not np.array_equal(mask, path.mask) and execute.jumps:
                    self.paths.append(Path(path.counter, path.mask & ~mask))
                    path.mask = mask
            expected = path.counter
            try:
                execute.function(self, mask)
            except Fault as fault:
                raise Fault(f"{fault} [{text}] block {self.block.index}") from None
            if path.counter != expected or execute.jumps:
                return
        if path.counter >= len(code):
            raise Fault("the program runs past its end")

    def _merge(self, path):
        if path not in self.paths:
            return
        for other in self.paths:
            if other is not path and other.counter == path.counter:
                other.mask = other.mask | path.mask
                self.paths.remove(path)
                return


class Block:
    def __init__(self, kernel, grid, shape, index, arguments, memory, dynamic_bytes, warps, noise):
        self.kernel, self.grid, self.shape, self.index = kernel, grid, shape, index
        self.num_threads = shape[0] * shape[1] * shape[2]
        self.global_memory = memory
        self.shared = SharedMemory(kernel.shared, dynamic_bytes)
        self.barriers = {}  # number -> threads that have arrived
        self.parameters = {}
        for (name, size), argument in zip(kernel.parameters, arguments, strict=True):
            data = argument if isinstance(argument, bytes) else np.asarray(argument).tobytes()
            if len(data) > size:
                raise ValueError(f"parameter {name} has {size} bytes, the argument {len(data)}")
            self.parameters[name] = np.frombuffer(data.ljust(size, b"\0"), np.uint8)
        num_warps = (self.num_threads + 31) // 32
        self.teams = [
            Team(self, first, min(warps, num_warps - first), noise)
            for first in range(0, num_warps, warps)
        ]

    def arrive(self, number, threads, expected):
        arrived = self.barriers.get(number, 0) + threads
        if arrived > expected:
            raise Fault(f"barrier {number}: {arrived} threads arrived, {expected} expected")
        self.barriers[number] = arrived
        if arrived < expected:
            return
        self.barriers[number] = 0
        for team in self.teams:
            released = [path for waiting, path in team.waits_for if waiting == number]
            team.paths += released
            team.waits_for = [pair for pair in team.waits_for if pair[0] != number]

    def run(self, code, module, order):
        while True:
            ready = [team for team in self.teams if team.paths]
            if not ready:
                break
            ready[order.integers(len(ready))].run(code, module)
        waiting = {
            f"warp {team.first_warp} at barrier {number}"
            for team in self.teams
            for number, _ in team.waits_for
        }
        if waiting:
            raise Fault("deadlock: " + ", ".join(sorted(waiting)))


class Step:
    """A compiled instruction."""

    def __init__(self, function, jumps):
        self.function, self.jumps = function, jumps


class Module:
    """The kernels of one PTX file.

    executed: instructions run so far, each for a whole team.
    """

    def __init__(self, text):
        self.kernels = parse(text)
        self.executed = 0
        self._code = {}

    def kernel(self, name):
        """The kernel whose mangled name is or contains `name`; KeyError unless there is one."""
        if name in self.kernels:
            return self.kernels[name]
        found = [kernel for full, kernel in self.kernels.items() if name in full]
        if len(found) != 1:
            raise KeyError(f"{len(found)} kernels match {name!r}: {sorted(self.kernels)}")
        return found[0]

    def opcodes(self, name):
        """The set of the kernel's opcodes."""
        return {".".join(i.opcode) for i in self.kernel(name).instructions}

    def launch(
        self, name, grid, block, arguments, memory, *, dynamic_bytes=0, seed=0, warps_per_team=None
    ):
        """Runs a grid to its end; raises Fault.

        grid, block: an int or up to three.  arguments: numpy scalars (their dtype's size counts),
        or bytes for structs.  memory: a GlobalMemory.  seed: of the order of blocks and teams and of
        the noise in fresh registers.  warps_per_team: how many warps run in lockstep, by default
        all of a block (fastest); 1 runs them one by one in random order.
        """
        kernel = self.kernel(name)
        code = self._compile(kernel)
        grid, block = _three(grid), _three(block)
        num_blocks = grid[0] * grid[1] * grid[2]
        order = np.random.default_rng(seed)
        start = self.executed
        with np.errstate(all="ignore"):
            for linear in order.permutation(num_blocks) if seed else range(num_blocks):
                index = (
                    int(linear % grid[0]),
                    int(linear // grid[0] % grid[1]),
                    int(linear // (grid[0] * grid[1])),
                )
                warps = warps_per_team or 32
                Block(
                    kernel, grid, block, index, arguments, memory, dynamic_bytes, warps, order
                ).run(code, self, order)
                if self.executed - start > _MOST_INSTRUCTIONS:
                    raise Fault(f"more than {_MOST_INSTRUCTIONS} instructions")

    def _compile(self, kernel):
        if kernel.name not in self._code:
            self._code[kernel.name] = [_compile_step(kernel, i) for i in kernel.instructions]
        return self._code[kernel.name]


def _compile_step(kernel, instruction):
    name = instruction.opcode[0]
    if name not in INSTRUCTIONS:
        raise Fault(f"unsupported PTX: {instruction.text}")
    function = INSTRUCTIONS[name](Operation(kernel, instruction))
    jumps = name in ("bra", "ret", "exit", "bar", "barrier")
    return instruction.predicate, instruction.negated, Step(function, jumps), instruction.text


def _three(extent):
    extent = (extent,) if isinstance(extent, int) else tuple(extent)
    return extent + (1,) * (3 - len(extent))
