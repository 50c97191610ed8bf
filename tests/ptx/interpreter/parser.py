"""PTX text into routines: registers, arrays, parameters, instructions, labels."""

import re
from dataclasses import dataclass, field
from functools import cached_property

from .number_types import width


@dataclass
class Instruction:
    """Split into its parts when it is first executed, which most of a kernel's never are."""

    name: str  # first part of the opcode
    scope: str  # suffix of names local to a { } block
    text: str  # without the predicate
    predicate: str = ""  # register, or empty
    negated: bool = False

    @cached_property
    def opcode(self):
        """Split at the dots."""
        return self.text.partition(" ")[0].split(".")

    @cached_property
    def operands(self):
        """Their texts."""
        return split_operands(self.text.partition(" ")[2])


@dataclass
class Array:
    """A shared or local array of the program."""

    name: str
    size: int  # bytes; 0: as many as the launch asks for
    alignment: int


@dataclass
class Routine:
    """A kernel, or a function that kernels call."""

    name: str
    is_kernel: bool
    body: str = ""  # text that parse_body has not read yet
    parameters: list = field(default_factory=list)  # (name, bytes)
    results: list = field(default_factory=list)  # (name, bytes)
    registers: dict = field(default_factory=dict)  # name -> type
    variables: dict = field(default_factory=dict)  # name of a call's .param -> bytes
    shared: list = field(default_factory=list)
    local: list = field(default_factory=list)
    instructions: list = field(default_factory=list)
    labels: dict = field(default_factory=dict)  # name -> index into instructions


@dataclass
class ParsedModule:
    kernels: dict = field(default_factory=dict)  # mangled name -> Routine
    functions: dict = field(default_factory=dict)
    shared: list = field(default_factory=list)  # arrays outside the routines


def split_operands(text):
    """Splits at the commas outside brackets."""
    parts, depth, current = [], 0, ""
    for character in text:
        depth += (character in "{[(") - (character in "}])")
        if character == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += character
    if current.strip():
        parts.append(current.strip())
    return parts


_BRACE = re.compile(r"[{}]")
_ROUTINE = re.compile(r"\.(entry|func)\s*(?:\(([^)]*)\)\s*)?([\w$]+)\s*\(([^)]*)\)([^{;]*)([{;])")


def parse(text):
    """A PTX module's text as a ParsedModule, its routines' bodies unread."""
    text = re.sub(r"//[^\n]*", "", text)
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
    module, position, outside = ParsedModule(), 0, ""
    while match := _ROUTINE.search(text, position):
        outside += text[position : match.start()]
        position = match.end()
        kind, results, name, parameters, _, end = match.groups()
        if end == ";":  # a declaration
            continue
        routine = Routine(name, kind == "entry")
        routine.parameters = [_parse_parameter(p) for p in split_operands(parameters)]
        routine.results = [_parse_parameter(p) for p in split_operands(results or "")]
        position = _closing_brace(text, match.end())
        routine.body = text[match.end() : position]
        (module.kernels if routine.is_kernel else module.functions)[name] = routine
    module.shared = [
        _parse_array(statement)
        for statement in (outside + text[position:]).split(";")
        if re.search(r"\.shared\s", statement)
    ]
    return module


def _closing_brace(text, begin):
    depth = 1
    for brace in _BRACE.finditer(text, begin):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.start()
    raise ValueError("a routine's body has no end")


def _parse_array(statement):
    match = re.search(r"\.align\s+(\d+)\s+\.(\w+)\s+([\w$]+)(?:\[(\d*)\])?", statement)
    count = 1 if match[4] is None else int(match[4] or 0)
    return Array(match[3], width(match[2]) // 8 * count, int(match[1]))


def _parse_parameter(text):
    match = re.search(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?", text)
    return match[2], width(match[1]) // 8 * int(match[3] or 1)


_LABEL = re.compile(r"([\w$]+):(?=\s|$)")


def parse_body(routine):
    """Reads the routine's statements, once; most kernels of a module are never asked for.

    Statements end at ';'.  Braces before them open and close scopes (inline asm); those inside
    operands do not.
    """
    body, routine.body = routine.body, ""
    scopes, num_scopes = [""], 0
    for piece in body.split(";"):
        statement = piece.strip()
        while statement:
            if statement[0] == "{":
                num_scopes += 1
                scopes.append(f"@{num_scopes}")
                statement = statement[1:].lstrip()
            elif statement[0] == "}":
                scopes.pop()
                statement = statement[1:].lstrip()
            elif ":" in statement and (label := _LABEL.match(statement)):
                # The compiler's labels start with '$' and are unique; others belong to their scope.
                local = "" if label[1].startswith("$") else scopes[-1]
                routine.labels[label[1] + local] = len(routine.instructions)
                statement = statement[label.end() :].lstrip()
            else:
                _parse_statement(routine, statement, scopes[-1])
                break


def _parse_statement(routine, statement, scope):
    if not statement.startswith("."):
        routine.instructions.append(_parse_instruction(" ".join(statement.split()), scope))
    elif statement.startswith(".reg"):
        _parse_registers(routine, statement, scope)
    elif statement.startswith(".shared"):
        routine.shared.append(_parse_array(statement))
    elif statement.startswith(".local"):
        routine.local.append(_parse_array(statement))
    elif statement.startswith(".param"):
        name, size = _parse_parameter(statement)
        routine.variables[name + scope] = size
    # .loc, .pragma and the like change nothing


def _parse_registers(routine, statement, scope):
    ptx_type, names = re.match(r"\.reg\s*\.(\w+)\s+(.*)", statement).groups()
    for name in split_operands(names):
        counted = re.fullmatch(r"([%\w$]+)<(\d+)>", name)
        if counted:
            for i in range(int(counted[2])):
                routine.registers[f"{counted[1]}{i}"] = ptx_type
        else:
            routine.registers[name if name.startswith("%") else name + scope] = ptx_type


_PREDICATE = re.compile(r"@(!?)([%\w$]+)\s+(.*)")
_NAME = re.compile(r"[^. ]*")


def _parse_instruction(statement, scope):
    predicate, negated = "", False
    if statement.startswith("@"):
        negated, predicate, statement = _PREDICATE.match(statement).groups()
        if not predicate.startswith("%"):
            predicate += scope
    return Instruction(_NAME.match(statement)[0], scope, statement, predicate, negated == "!")
