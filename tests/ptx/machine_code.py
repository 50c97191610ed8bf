"""The listings of cuobjdump -sass: opcodes of kernels and of their basic blocks."""

import re
from collections import Counter

# "  /*0090*/   @!P0 HMMA.16816.F32.BF16 R4, ..." but not the encoding that ends each line
_INSTRUCTION = re.compile(
    r"^\s+/\*(?P<address>[0-9a-f]{4,})\*/\s+(?:@!?U?P[\dT]+\s+)?(?P<opcode>[A-Z][\w.]*)"
    r"(?:[^;]*?\b0x(?P<last>[0-9a-f]+)\s*;)?"
)
# What names another address as its last operand, and what a basic block ends with.
_WITH_TARGET = ("BRA", "BSSY", "CALL", "JMP")
_LAST_OF_BLOCK = ("BRA", "BRX", "CALL", "EXIT", "JMP", "RET")


def _instructions(listing):
    """{mangled name: [(address, opcode, last operand where that is a number)]}."""
    kernels, found = {}, None
    for line in listing.splitlines():
        if match := re.search(r"Function : ([\w$.]+)", line):
            found = kernels.setdefault(match[1], [])
        elif found is not None and (match := _INSTRUCTION.match(line)):
            last = int(match["last"], 16) if match["last"] else None
            found.append((int(match["address"], 16), match["opcode"], last))
    return kernels


def parse_sass(listing):
    """{mangled name: Counter of opcodes}."""
    return {
        name: Counter(opcode for _, opcode, _ in instructions)
        for name, instructions in _instructions(listing).items()
    }


def parse_blocks(listing):
    """{mangled name: [Counter of the opcodes of a basic block]}: one is entered at its first
    instruction only, and left behind its last one only."""
    return {
        name: [Counter(block) for block in _blocks(instructions)]
        for name, instructions in _instructions(listing).items()
    }


def _blocks(instructions):
    targets = {
        last for _, opcode, last in instructions if opcode.split(".")[0] in _WITH_TARGET and last
    }
    blocks, block = [], []
    for address, opcode, _ in instructions:
        if address in targets and block:
            blocks.append(block)
            block = []
        block.append(opcode)
        if opcode.split(".")[0] in _LAST_OF_BLOCK:
            blocks.append(block)
            block = []
    return [*blocks, block] if block else blocks
