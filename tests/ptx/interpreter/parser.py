"""PTX text into kernels: registers, shared arrays, parameters, instructions, labels."""

import re
from dataclasses import dataclass, field

from .number_types import width


@dataclass
class Instruction:
    opcode: list  # split at the dots
    operands: list  # text
    scope: str  # suffix of names local to a { } block
    text: str
    predicate: str = ""  # register, or empty
    negated: bool = False


@dataclass
class SharedArray:
    name: str
    size: int  # bytes; 0: as many as the launch asks for
    alignment: int


@dataclass
class Kernel:
    name: str
    parameters: list = field(default_factory=list)  # (name, bytes)
    registers: dict = field(default_factory=dict)  # name -> type
    shared: list = field(default_factory=list)
    instructions: list = field(default_factory=list)
    labels: dict = field(default_factory=dict)  # name -> index into instructions


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


def parse(text):
    """The kernels of a PTX module, by mangled name."""
    text = re.sub(r"//[^\n]*", "", text)
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
    dynamic = re.findall(r"\.extern\s+\.shared\s+\.align\s+(\d+)\s+\.b8\s+([\w$]+)\[\]", text)
    module_arrays = [SharedArray(name, 0, int(alignment)) for alignment, name in dynamic]
    kernels = {}
    for match in re.finditer(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)[^{]*\{", text):
        kernel = Kernel(match[1], shared=list(module_arrays))
        kernel.parameters = [_parse_parameter(p) for p in split_operands(match[2])]
        _parse_body(kernel, text[match.end() : _closing_brace(text, match.end())])
        kernels[kernel.name] = kernel
    return kernels


def _closing_brace(text, begin):
    depth, at = 1, begin
    while depth:
        depth += (text[at] == "{") - (text[at] == "}")
        at += 1
    return at - 1


def _parse_parameter(text):
    match = re.search(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?", text)
    return match[2], width(match[1]) // 8 * int(match[3] or 1)


# Statements end at ';'.  Braces that stand alone open and close scopes (inline asm), braces inside
# operands do not.
_STATEMENT = re.compile(r"(;|(?<=[\s;:}])\{(?=\s)|(?<=[\s;])\}(?=\s)|^\{|[\w$]+:(?=\s))")


def _parse_body(kernel, body):
    scopes, num_scopes = [""], 0
    for token in _STATEMENT.split(body):
        statement = " ".join((token or "").split())
        if statement in ("", ";"):
            continue
        if statement == "{":
            num_scopes += 1
            scopes.append(f"@{num_scopes}")
        elif statement == "}":
            scopes.pop()
        elif statement.endswith(":"):
            # The compiler's labels start with '$' and are unique; others belong to their scope.
            local = "" if statement.startswith("$") else scopes[-1]
            kernel.labels[statement[:-1] + local] = len(kernel.instructions)
        elif statement.startswith(".reg"):
            _parse_registers(kernel, statement, scopes[-1])
        elif statement.startswith(".shared"):
            match = re.search(r"\.align\s+(\d+)\s+\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?", statement)
            size = width(match[2]) // 8 * int(match[4] or 1)
            kernel.shared.append(SharedArray(match[3], size, int(match[1])))
        elif not statement.startswith("."):  # .loc, .pragma and the like change nothing
            kernel.instructions.append(_parse_instruction(statement, scopes[-1]))


def _parse_registers(kernel, statement, scope):
    ptx_type, names = re.match(r"\.reg\s*\.(\w+)\s+(.*)", statement).groups()
    for name in split_operands(names):
        counted = re.fullmatch(r"([%\w$]+)<(\d+)>", name)
        if counted:
            for i in range(int(counted[2])):
                kernel.registers[f"{counted[1]}{i}"] = ptx_type
        else:
            kernel.registers[name if name.startswith("%") else name + scope] = ptx_type


def _parse_instruction(statement, scope):
    predicate, negated = "", False
    match = re.match(r"@(!?)([%\w$]+)\s+(.*)", statement)
    if match:
        negated, predicate, statement = match[1] == "!", match[2], match[3]
        if not predicate.startswith("%"):
            predicate += scope
    opcode, _, operands = statement.partition(" ")
    return Instruction(
        opcode.split("."), split_operands(operands), scope, statement, predicate, negated
    )
