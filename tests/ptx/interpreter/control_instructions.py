"""Branches, calls and ends."""

from .memory import Fault
from .operands import instruction, unpack


@instruction("bra")
def branch(op):
    target = op.program.target(op.routine, op.operands[0], op.scope)
    return lambda team, mask: team.jump(target)


@instruction("call")
def call(op):
    operands = list(op.operands)
    results = unpack(operands.pop(0)) if operands[0].startswith("(") else []
    name = operands.pop(0)
    if name not in op.program.functions or len(operands) > 1:
        raise Fault(f"unsupported PTX: {op.text}")
    arguments = unpack(operands[0]) if operands else []
    callee = op.program.functions[name]

    def pairs(actuals, formals):
        """Keys of the call's variables and of the function's own."""
        return [
            (
                op.program.variable(op.routine, actual, op.scope),
                op.program.variable(callee, formal, ""),
            )
            for actual, (formal, _) in zip(actuals, formals, strict=True)
        ]

    inputs, outputs = pairs(arguments, callee.parameters), tuple(pairs(results, callee.results))
    entry = op.program.entry(callee)

    def execute(team, mask):
        for actual, formal in inputs:
            team.variables[formal][mask] = team.variables[actual][mask]
        team.call(entry, outputs)

    return execute


@instruction("ret", "exit")
def leave(op):
    if op.opcode[0] == "exit" or op.routine.is_kernel:
        return lambda team, mask: team.exit(mask)
    return lambda team, mask: team.leave_function(mask)


@instruction("membar", "fence", "nanosleep")
def do_nothing(op):
    return lambda team, mask: None
