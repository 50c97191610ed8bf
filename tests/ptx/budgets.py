"""What a kernel costs on a GPU, from ptxas and the machine code: no GPU needed.

usages = measure(nvcc, source, "90", find_cuobjdump())
problems = violations(find(usages, "statistics_kernel"), Budget(registers=128, ...))
"""

import importlib.util
import math
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from machine_code import cheapest_path, count, parse_blocks
from sources import CSRC, run_nvcc

_WITH_MAIN_LOOP = ("pair_sweep_kernel", "pair_weights_kernel", "weights_product_kernel")
_SMALL_TILE = "TileShapeILi64ELi64E"


@dataclass
class Usage:
    """One kernel's resources; bytes, and registers per thread."""

    name: str  # mangled
    registers: int = 0
    barriers: int = 0
    stack_bytes: int = 0
    spill_store_bytes: int = 0
    spill_load_bytes: int = 0
    shared_bytes: int = 0  # static; dynamic shared memory is the launch's
    opcodes: Counter = field(default_factory=Counter)  # SASS mnemonic with modifiers -> count
    # the same of the basic block with the most exponentials: the epilogue of ordinary tiles
    epilogue: Counter = field(default_factory=Counter)
    # of the way of a tile whose sums need no maxima through the epilogue of the forward sweep
    plain_path: Counter = field(default_factory=Counter)
    # of one turn of the main loop, the longer one where there are two
    main_loop: Counter = field(default_factory=Counter)

    def count(self, prefix):
        """How many instructions have the mnemonic, whatever its further modifiers are."""
        return count(self.opcodes, prefix)


@dataclass(frozen=True)
class Budget:
    """What a kernel may use, and which instructions it must (least count) and must not have."""

    registers: int
    shared_bytes: int = 0
    required: dict = field(default_factory=dict)
    forbidden: tuple = ("STL", "LDL")  # local memory
    may_spill: bool = False


def violations(usage, budget):
    """Sentences, one for each point in which the kernel leaves its budget."""
    found = []
    if usage.registers > budget.registers:
        found.append(f"{usage.registers} registers, at most {budget.registers} are allowed")
    if usage.shared_bytes > budget.shared_bytes:
        found.append(
            f"{usage.shared_bytes} bytes of shared memory, "
            f"at most {budget.shared_bytes} are allowed"
        )
    for what in ("stack_bytes", "spill_store_bytes", "spill_load_bytes"):
        if getattr(usage, what) and not budget.may_spill:
            found.append(f"{what} is {getattr(usage, what)}, expected 0")
    for opcode, least in budget.required.items():
        if usage.count(opcode) < least:
            found.append(f"{usage.count(opcode)} instructions {opcode}, at least {least} expected")
    found += [
        f"{usage.count(opcode)} instructions {opcode}, none is allowed"
        for opcode in budget.forbidden
        if usage.count(opcode)
    ]
    return found


def find(usages, part):
    """The usage whose kernel's mangled name contains `part`; KeyError unless there is one."""
    found = [usage for name, usage in usages.items() if part in name]
    if len(found) != 1:
        raise KeyError(f"{len(found)} kernels match {part!r}: {sorted(usages)}")
    return found[0]


def find_cuobjdump():
    """Path of cuobjdump, of a toolkit or of the PyPI package nvidia-cuda-cuobjdump, or None."""
    found = shutil.which("cuobjdump")
    spec = importlib.util.find_spec("nvidia")
    if found or spec is None:
        return found
    for folder in spec.submodule_search_locations:
        for candidate in Path(folder).glob("*/bin/cuobjdump"):
            if (candidate.parent / "nvdisasm").exists():
                return str(candidate)
    return None


def measure(nvcc, source, architecture, cuobjdump=None, *, flags=(), include=CSRC):
    """Compiles `source` for sm_<architecture>: {mangled name: Usage}.

    Without cuobjdump the opcodes stay empty.
    """
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        report = run_nvcc(
            nvcc,
            source,
            cubin,
            "-cubin",
            f"-arch=sm_{architecture}",
            "-Xptxas",
            "-v",
            *flags,
            include=include,
        )
        return usages_of(report, cubin, cuobjdump)


def usages_of(report, cubin, cuobjdump=None):
    """{mangled name: Usage} from what ptxas reported and the machine code it made."""
    usages = parse_ptxas(report)
    if cuobjdump:
        _add_opcodes(usages, cuobjdump, cubin)
    return usages


def _add_opcodes(usages, cuobjdump, cubin):
    listing = run_cuobjdump(cuobjdump, "-sass", cubin)
    for name, blocks in parse_blocks(listing).items():
        for block in blocks:
            usages[name].opcodes.update(block.opcodes)
        usages[name].epilogue = max(blocks, key=lambda block: block.count("MUFU.EX2")).opcodes
        if "StatisticsReduction" in name:
            usages[name].plain_path = _plain_path(blocks)
        if any(part in name for part in _WITH_MAIN_LOOP):
            usages[name].main_loop = _main_loop(name, blocks)


def _plain_path(blocks):
    """From where the largest logit of a thread's pairs is found: an exponential of each, and sums
    over the lanes of a row, two exchanges, and of a column, three."""
    start = max(range(len(blocks)), key=lambda index: blocks[index].count("FMNMX"))
    pairs = blocks[start].count("FMNMX")
    if pairs == 0:  # of doubles: another instruction
        return Counter()
    rows_or_columns = math.isqrt(pairs)  # as many of each
    required = {"MUFU.EX2": pairs, "SHFL": 5 * rows_or_columns}
    return cheapest_path(blocks, start, required)


def _main_loop(name, blocks):
    """From the products of a slice, past the copies of a later one, to the next products."""
    products = [block.count("HMMA") for block in blocks]
    most = max(products)
    if most == 0:  # of doubles: another instruction
        return Counter()
    copies = 4 if _SMALL_TILE in name else 8  # of a thread, for a slice of both operands
    loops = (
        cheapest_path(blocks, index, {"LDGSTS.E.BYPASS.128": copies}, end=index)
        for index, count_of_block in enumerate(products)
        if count_of_block == most
    )
    return max(loops, key=Counter.total)


def extract(cuobjdump, binary, folder):
    """Writes the binary's PTX and machine code into `folder`; the files' paths."""
    before = set(folder.iterdir())
    subprocess.run(
        [cuobjdump, "-xelf", "all", "-xptx", "all", str(binary.resolve())],
        cwd=folder,
        capture_output=True,
        check=True,
    )
    return sorted(set(folder.iterdir()) - before)


def usages_of_cubin(cubin, architecture, cuobjdump, disassembler):
    """{mangled name: Usage} from the machine code alone, where spills are part of the stack.

    Without a disassembler the opcodes stay empty.
    """
    # what sm_90 and later reserve for the system is counted as the kernel's
    reserved = 1024 if int(re.match(r"\d+", architecture)[0]) >= 90 else 0
    usages = parse_resource_usage(run_cuobjdump(cuobjdump, "-res-usage", cubin), reserved)
    if disassembler:
        _add_opcodes(usages, disassembler, cubin)
    return usages


def parse_resource_usage(report, reserved_bytes=0):
    """The text of cuobjdump -res-usage as {mangled name: Usage}."""
    usages = {}
    pattern = r"Function ([\w$.]+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)"
    for name, *numbers in re.findall(pattern, report):
        registers, stack, shared = map(int, numbers)
        usages[name] = Usage(
            name, registers=registers, stack_bytes=stack, shared_bytes=shared - reserved_bytes
        )
    return usages


def run_cuobjdump(cuobjdump, option, cubin):
    """What cuobjdump prints."""
    # cuobjdump calls nvdisasm, which the package puts beside it
    path = str(Path(cuobjdump).parent) + os.pathsep + os.environ.get("PATH", "")
    result = subprocess.run(
        [cuobjdump, option, str(cubin)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": path},
    )
    return result.stdout


def parse_ptxas(report):
    """The text of -Xptxas -v as {mangled name: Usage}."""
    usages, current = {}, None
    for line in report.splitlines():
        if match := re.search(r"Compiling entry function '([^']+)'", line):
            current = usages.setdefault(match[1], Usage(match[1]))
        elif current is None:
            continue
        elif "bytes stack frame" in line:
            # also of the functions that the kernel calls, whose lines follow its own
            stack, stores, loads = (int(n) for n in re.findall(r"(\d+) bytes", line))
            current.stack_bytes = max(current.stack_bytes, stack)
            current.spill_store_bytes = max(current.spill_store_bytes, stores)
            current.spill_load_bytes = max(current.spill_load_bytes, loads)
        elif match := re.search(r"Used (\d+) registers", line):
            current.registers = int(match[1])
            barriers = re.search(r"used (\d+) barriers", line)
            current.barriers = int(barriers[1]) if barriers else 0
            shared = re.search(r"(\d+) bytes smem", line)
            current.shared_bytes = int(shared[1]) if shared else 0
    return usages
