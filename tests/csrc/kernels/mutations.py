"""Seeds faults into the kernels, one at a time, and requires that a test notices each.

python mutations.py BUILD: BUILD is a CMake build folder with the plain emulated tests.  Only bf16
is compiled anew; everything else is linked from the build.  Exits with 1 if a fault survives.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[3]


class Fault(NamedTuple):
    what: str
    file: str
    before: str
    after: str
    test: str


FAULTS = [
    Fault(
        "no barrier before a slice is read and its predecessor overwritten",
        "core/similarity.cuh",
        "      __syncthreads();  // every thread's copies",
        "      // every thread's copies",
        "statistics",
    ),
    Fault(
        "B fragments swapped",
        "core/similarity.cuh",
        "raw_left[2] = {raw[0], raw[1]}, raw_right[2] = {raw[2], raw[3]}",
        "raw_left[2] = {raw[0], raw[2]}, raw_right[2] = {raw[1], raw[3]}",
        "statistics",
    ),
    Fault(
        "rows behind the last one are not zeroed",
        "core/tile.cuh",
        "const bool exists = row < rows_left && depth < from.dim;",
        "const bool exists = depth < from.dim;",
        "gradient",
    ),
    Fault(
        "existing columns off by one",
        "core/pair_mask.cuh",
        "col < place.active_cols",
        "col <= place.active_cols",
        "statistics",
    ),
    Fault(
        "a merge forgets to rescale",
        "core/row_statistics.h",
        "sum = sum * std::exp(max - shift)",
        "sum = sum",
        "statistics",
    ),
    Fault(
        "tiles feed their columns without mining by the columns' own rule",
        "kernels/pair_sweep.cuh",
        "of_cols = feeds_columns ? of_rows : 0",
        "of_cols = 0",
        "statistics",
    ),
    Fault(
        "no barrier between a tile's partials and their merge",
        "kernels/pair_sweep.cuh",
        "      __syncthreads();  // the warps' partials",
        "      // the warps' partials",
        "statistics",
    ),
    Fault(
        "weights of the transposed pair are left out",
        "kernels/pair_weight.cuh",
        "(of_row + of_col) *",
        "of_row *",
        "gradient",
    ),
    Fault(
        "the norms' gradient is left out",
        "kernels/gradient_rows.cuh",
        "value -= weight_sums[r / 2 * 2] * anchor;",
        "(void)anchor;",
        "gradient",
    ),
    Fault(
        "panels overwrite instead of adding up",
        "kernels/weights_product.cuh",
        "if (!arguments.is_first) value +=",
        "if (false) value +=",
        "gradient",
    ),
    Fault(
        "the buffer of the next reference tile is the one being read",
        "kernels/gradient_rows.cuh",
        "start_tile(position, buffer ^ 1);",
        "start_tile(position, buffer);",
        "gradient",
    ),
]


def command_of(build: Path) -> list[str]:
    """The compiler call of bf16.cu in the plain variant, without its output."""
    for entry in json.loads((build / "compile_commands.json").read_text()):
        if entry["file"].endswith("kernels/bf16.cu") and "library_plain" in entry["command"]:
            words = entry["command"].split()
            return words[: words.index("-o")]
    raise SystemExit(f"{build} has no command for bf16.cu")


def survives(fault: Fault, build: Path, folder: Path) -> bool:
    """Whether the tests pass although the fault is in."""
    sources = folder / "csrc"
    subprocess.run(["cp", "-r", str(ROOT / "csrc"), str(folder)], check=True)
    path = sources / fault.file
    text = path.read_text()
    if text.count(fault.before) != 1:
        raise SystemExit(f"{fault.file} must hold exactly once: {fault.before}")
    path.write_text(text.replace(fault.before, fault.after))
    command = [word.replace(str(ROOT / "csrc"), str(sources)) for word in command_of(build)]
    test_object = next(build.rglob(f"test_{fault.test}_plain.dir/test_{fault.test}.cpp.o"))
    mutant, program = folder / "bf16.o", folder / "test"
    subprocess.run(
        [*command, "-o", str(mutant), "-c", str(sources / "kernels/bf16.cu")], check=True
    )
    # the mutant comes first, so the library's own bf16 is not linked
    libraries = [next(build.rglob(f"libfusedml_{name}_plain.a")) for name in LIBRARIES]
    linked = [str(part) for part in (test_object, mutant, *libraries)]
    subprocess.run([command[0], *linked, "-o", str(program)], check=True)
    done = subprocess.run([str(program), "1"], capture_output=True, timeout=300, check=False)
    return done.returncode == 0


LIBRARIES = ("emulated_library", "engine")


def main() -> int:
    build = Path(sys.argv[1]).resolve()
    survivors = 0
    for fault in FAULTS:
        with tempfile.TemporaryDirectory() as folder:
            survived = survives(fault, build, Path(folder))
        survivors += survived
        print("SURVIVED" if survived else "caught  ", fault.what, flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
