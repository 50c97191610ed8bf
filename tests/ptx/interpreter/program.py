"""A kernel linked with the functions it calls: names, addresses and compiled instructions."""

import re
from functools import cached_property

from . import (  # noqa: F401  they register their instructions
    arithmetic_instructions,
    control_instructions,
    hopper_instructions,
    matrix_instructions,
    memory_instructions,
    scalar_instructions,
    warp_instructions,
)
from .memory import Fault, SharedMemory, aligned
from .operands import INSTRUCTIONS, Operation
from .parser import parse_body

# After these a path may be elsewhere, and under a predicate its lanes part.
_WORD = re.compile(r"[\w$]+")
_CONTROL = ("bra", "call", "ret", "exit", "bar", "barrier", "mbarrier")


class Step:
    """An instruction, compiled when it is first executed: most of a kernel's never are."""

    def __init__(self, program, routine, instruction):
        if instruction.name not in INSTRUCTIONS:
            raise Fault(f"unsupported PTX: {instruction.text}")
        self._operation = program, routine, instruction
        self.text, self.negated = instruction.text, instruction.negated
        self.predicate = None
        if instruction.predicate:
            self.predicate = program.register(routine, instruction.predicate, instruction.scope)
        self.is_control = instruction.name in _CONTROL

    @cached_property
    def function(self):
        """function(team, mask)."""
        *_, instruction = self._operation
        return INSTRUCTIONS[instruction.name](Operation(*self._operation))


class Program:
    """registers: name -> type; variables: name -> bytes; steps: the code of all routines.

    A function's names carry its own as a prefix.  Its registers exist once per lane: it must not
    call itself.
    """

    def __init__(self, module, kernel):
        self.kernel = kernel
        self.functions = self._reachable(module)
        routines = [kernel, *self.functions.values()]
        self._entries, base = {}, 0
        for routine in routines:
            self._entries[routine.name] = base
            base += len(routine.instructions)
        self.registers, self.variables = {}, {}
        for routine in routines:
            prefix = self._prefix(routine)
            for name, ptx_type in routine.registers.items():
                self.registers[prefix + name] = ptx_type
            own = {**routine.variables, **dict(routine.results)}
            if not routine.is_kernel:
                own.update(routine.parameters)
            for name, size in own.items():
                self.variables[prefix + name] = size
        self._place_arrays(module, routines)
        self.steps = [
            Step(self, routine, instruction)
            for routine in routines
            for instruction in routine.instructions
        ]

    def _reachable(self, module):
        """Functions that the kernel calls, and those that they call."""
        found, pending = {}, [self.kernel]
        while pending:
            routine = pending.pop()
            parse_body(routine)
            for instruction in routine.instructions:
                if instruction.name != "call":
                    continue
                for operand in instruction.operands:
                    if operand in module.functions and operand not in found:
                        found[operand] = module.functions[operand]
                        pending.append(found[operand])
        return found

    def _place_arrays(self, module, routines):
        used = set()
        for routine in routines:
            used.update(_WORD.findall("\n".join(i.text for i in routine.instructions)))
        self._symbols, self.shared_ranges, top = {}, [], 1024
        arrays = [array for array in module.shared if array.name in used]
        arrays += [array for routine in routines for array in routine.shared]
        for array in sorted(arrays, key=lambda a: a.size == 0):  # dynamic memory comes last
            top = aligned(top, max(array.alignment, 16))
            self._symbols[array.name] = top
            if array.size:
                self.shared_ranges.append((top, top + array.size))
                top += array.size + SharedMemory.GAP
        self.dynamic_begin = top
        self.parameter_offsets, end = [], 0
        for name, size in self.kernel.parameters:
            self.parameter_offsets.append(end)
            self._symbols[name] = end
            end = aligned(end + size, 64)  # the largest alignment of a parameter
        self.parameter_bytes = end
        self.local_bytes = 0
        for array in (array for routine in routines for array in routine.local):
            self.local_bytes = aligned(self.local_bytes, max(array.alignment, 16))
            self._symbols[array.name] = self.local_bytes
            self.local_bytes += array.size

    def _prefix(self, routine):
        return "" if routine.is_kernel else routine.name + ":"

    def register(self, routine, name, scope):
        """The register's name in the program, or None if it is none."""
        name = self._prefix(routine) + name
        if name not in self.registers:
            name += scope
        return name if name in self.registers else None

    def variable(self, routine, name, scope):
        """The .param variable's name in the program, or None."""
        prefix = self._prefix(routine)
        return next(
            (c for c in (prefix + name + scope, prefix + name) if c in self.variables), None
        )

    def symbol(self, name):
        """Address of a shared or local array, or of a kernel's parameter."""
        if name not in self._symbols:
            raise Fault(f"unknown symbol {name}")
        return self._symbols[name]

    def entry(self, routine):
        """Index of the routine's first step."""
        return self._entries[routine.name]

    def target(self, routine, label, scope):
        """Index of the step behind a label."""
        local = label + scope
        position = routine.labels[local if local in routine.labels else label]
        return self.entry(routine) + position
