"""The listings of cuobjdump -sass: opcodes of kernels, of their basic blocks, and of paths."""

import heapq
import re
from collections import Counter
from dataclasses import dataclass

# "  /*0090*/   @!P0 HMMA.16816.F32.BF16 R4, ..." but not the encoding that ends each line
_INSTRUCTION = re.compile(
    r"^[ \t]+/\*([0-9a-f]{4,})\*/[ \t]+(@!?U?P[\dT]+[ \t]+)?"  # address, condition
    r"([A-Z][\w.]*)((?:[^;\n]*?\b0x([0-9a-f]+)[ \t]*;)?)",  # opcode, operands, the last of them
    re.MULTILINE,
)
# What names another address as its last operand, and what a basic block ends with.
_WITH_TARGET = ("BRA", "BSSY", "CALL", "JMP")
_LAST_OF_BLOCK = ("BRA", "BRX", "CALL", "EXIT", "JMP", "RET")
_ENDS = ("BRX", "EXIT", "RET")  # after which nothing follows, unless on a condition
_PREDICATE = re.compile(r"\bU?P\d")


def _instructions(listing):
    """{mangled name: [(address, opcode, last operand where that is a number, the text that shows
    whether it depends on a condition)]}."""
    kernels = {}
    names_and_texts = re.split(r"Function : ([\w$.]+)", listing)[1:]
    for name, text in zip(names_and_texts[::2], names_and_texts[1::2], strict=True):
        found = kernels.setdefault(name, [])
        for address, condition, opcode, operands, last in _INSTRUCTION.findall(text):
            target = int(last, 16) if last else None
            found.append((int(address, 16), opcode, target, condition + operands))
    return kernels


@dataclass(frozen=True)
class Block:
    """A basic block: entered at its first instruction only, and left behind its last one only.

    followers: indices of the blocks that may come next.  In a warp that has not diverged no BRA.DIV
    is taken.
    """

    opcodes: Counter
    followers: tuple

    def count(self, prefix):
        """How many instructions have the mnemonic, whatever its further modifiers are."""
        return count(self.opcodes, prefix)


def count(opcodes, prefix):
    return sum(n for name, n in opcodes.items() if name == prefix or name.startswith(prefix + "."))


def parse_blocks(listing):
    """{mangled name: [Block]}, in the order of their addresses."""
    return {name: _blocks(found) for name, found in _instructions(listing).items()}


def _blocks(instructions):
    targets = {
        last for _, opcode, last, _ in instructions if opcode.split(".")[0] in _WITH_TARGET and last
    }
    runs, run = [], []
    for instruction in instructions:
        if instruction[0] in targets and run:
            runs.append(run)
            run = []
        run.append(instruction)
        if instruction[1].split(".")[0] in _LAST_OF_BLOCK:
            runs.append(run)
            run = []
    runs += [run] if run else []
    index_of = {run[0][0]: index for index, run in enumerate(runs)}
    return [
        Block(Counter(opcode for _, opcode, *_ in run), _followers(run[-1], index, index_of))
        for index, run in enumerate(runs)
    ]


def _followers(last, index, index_of):
    _, opcode, target, text = last
    is_conditional = _PREDICATE.search(text) is not None
    name = opcode.split(".")[0]
    found = [index_of[target]] if name in ("BRA", "JMP") and target in index_of else []
    if opcode == "BRA.DIV":
        found = []
    falls_through = is_conditional or opcode == "BRA.DIV" or name not in (*_ENDS, "BRA", "JMP")
    return tuple(found + ([index + 1] if falls_through and index + 1 < len(index_of) else []))


def cheapest_path(blocks, start, required, end=None):
    """Opcodes of the path from the block `start` on that has all of `required`, {mnemonic: least
    count}, and of those the fewest instructions; with `end` it leads to that block, whose
    instructions do not count.  Empty if there is none."""
    wanted = tuple(required.values())
    counts = [tuple(block.count(mnemonic) for mnemonic in required) for block in blocks]

    def passed(state, block):
        return tuple(min(n + m, w) for n, m, w in zip(state, counts[block], wanted, strict=True))

    first = (start, passed((0,) * len(wanted), start))
    costs = {first: sum(blocks[start].opcodes.values())}
    queue, before = [(costs[first], first)], {}
    while queue:
        cost, (block, state) = heapq.heappop(queue)
        if state == wanted and (end is None or end in blocks[block].followers):
            return _opcodes_along(blocks, before, (block, state))
        for follower in blocks[block].followers:
            place = (follower, passed(state, follower))
            longer = cost + sum(blocks[follower].opcodes.values())
            if follower != end and longer < costs.get(place, longer + 1):
                costs[place], before[place] = longer, (block, state)
                heapq.heappush(queue, (longer, place))
    return Counter()


def _opcodes_along(blocks, before, place):
    opcodes = Counter(blocks[place[0]].opcodes)
    while place in before:
        place = before[place]
        opcodes += blocks[place[0]].opcodes
    return opcodes
