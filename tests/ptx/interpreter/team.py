"""Warps in lockstep: registers, divergence, calls, copies in flight."""

import numpy as np

from .hopper_instructions import WarpProducts
from .memory import Fault, LocalMemory
from .number_types import UNSIGNED, width


class Path:
    """Lanes of a team at one place of the program, with the calls that led there."""

    def __init__(self, counter, mask, calls=()):
        self.counter, self.mask, self.calls = counter, mask, calls

    @property
    def order(self):
        """Paths run in this order: inner calls first, then those that are furthest behind."""
        return -len(self.calls), self.counter

    def meets(self, other):
        return self.counter == other.counter and self.calls == other.calls


class Copy:
    """A cp.async in flight."""

    def __init__(self, destinations, values, mask, groups):
        self.destinations, self.values, self.mask, self.groups = destinations, values, mask, groups


class Noise:
    """Random 64-bit words, drawn once and dealt out again and again."""

    _STRIDE = 37  # registers that are made one after the other differ

    def __init__(self, seed):
        self._words = np.random.default_rng(seed).integers(0, 1 << 64, 1 << 14, np.uint64)
        self._begin = 0

    def draw(self, count):
        self._begin = (self._begin + self._STRIDE) % (len(self._words) - count)
        return self._words[self._begin : self._begin + count]


class _Registers(dict):
    """Arrays over the lanes; a register that was never written holds noise."""

    def __init__(self, types, lanes, noise):
        super().__init__()
        self._types, self._lanes, self._noise = types, lanes, noise

    def __missing__(self, name):
        bits = UNSIGNED[width(self._types[name])]
        self[name] = self._noise.draw(self._lanes).astype(bits)
        return self[name]


class _Variables(dict):
    """[lanes, bytes] of each .param variable."""

    def __init__(self, sizes, lanes):
        super().__init__()
        self._sizes, self._lanes = sizes, lanes

    def __missing__(self, name):
        self[name] = np.zeros((self._lanes, self._sizes[name]), np.uint8)
        return self[name]


class Team:
    """Warps that execute in lockstep; every register is one array over all their lanes."""

    def __init__(self, block, first_warp, num_warps, noise):
        self.block, self.first_warp, self.lanes = block, first_warp, 32 * num_warps
        program = block.program
        thread = 32 * first_warp + np.arange(self.lanes)
        self.alive = thread < block.num_threads
        self.paths = [Path(0, self.alive.copy())]
        self.running = None
        self.waits_for = []  # (barrier, path)
        self.registers = _Registers(program.registers, self.lanes, noise)
        self.variables = _Variables(program.variables, self.lanes)
        self.local = LocalMemory(self.lanes, program.local_bytes)
        self.copies, self.copy_group = [], np.zeros(self.lanes, np.int64)
        self.products = WarpProducts(num_warps)
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

    # --- what instructions do to the running path ---

    def jump(self, target):
        self.running.counter = target

    def call(self, entry, results):
        """results: pairs of the call's variable and the function's, copied at the return."""
        path = self.running
        path.calls = (*path.calls, (path.counter, results))
        path.counter = entry

    def leave_function(self, mask):
        path = self.running
        *outer, (counter, results) = path.calls
        for actual, formal in results:
            self.variables[actual][mask] = self.variables[formal][mask]
        path.calls, path.counter = tuple(outer), counter

    def exit(self, mask):
        if any((copy.mask & mask).any() for copy in self.copies):
            raise Fault("exit with cp.async that were never waited for")
        self.products.check_exit(mask)
        self.alive &= ~mask
        self.running.mask = self.running.mask & ~mask

    def arrive(self, number, threads, expected, waits):
        if waits:
            self.waits_for.append((number, self.running))
            self.paths.remove(self.running)
        self.block.arrive(number, threads, expected)

    def try_again_after(self, what, lanes):
        """These lanes leave the running path, and come back to this instruction when woken."""
        path = self.running
        self.waits_for.append((what, Path(path.counter - 1, lanes, path.calls)))
        path.mask = path.mask & ~lanes

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

    def run(self):
        """Runs until every path waits or has ended."""
        while self.paths:
            path = min(self.paths, key=lambda p: p.order)
            self.running = path
            others = [p.counter for p in self.paths if p is not path and p.calls == path.calls]
            self._run_path(path, min(others, default=len(self.block.program.steps)))
            if path in self.paths and not path.mask.any():
                self.paths.remove(path)
            self._merge(path)

    def _run_path(self, path, limit):
        """Executes until the path jumps, waits, splits, ends or comes to another path's place."""
        steps = self.block.program.steps
        begin = path.counter
        while path.counter < limit:
            step = steps[path.counter]
            path.counter += 1
            mask = path.mask
            if step.predicate:
                condition = self.registers[step.predicate]
                mask = mask & ~condition if step.negated else mask & condition
                if not mask.any():
                    continue
                if step.is_control and not np.array_equal(mask, path.mask):
                    self.paths.append(Path(path.counter, path.mask & ~mask, path.calls))
                    path.mask = mask
            after = path.counter
            try:
                step.function(self, mask)
            except Fault as fault:
                raise Fault(f"{fault} [{step.text}] block {self.block.index}") from None
            if step.is_control:
                self.block.count(after - begin)
                return
        self.block.count(path.counter - begin)
        if path.counter >= len(steps):
            raise Fault("the program runs past its end")

    def _merge(self, path):
        if path not in self.paths:
            return
        for other in self.paths:
            if other is not path and other.meets(path):
                other.mask = other.mask | path.mask
                self.paths.remove(path)
                return
