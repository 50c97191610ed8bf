"""Everything that a machine with a GPU has to say about the kernels, in one call of 6.5 minutes.

    python -m scripts.gpu_check                     # the first call
    python -m scripts.gpu_check second --failed F   # the second, of 4 minutes, after mending
    python -m scripts.gpu_check --parts tests goals # some parts
    python -m scripts.gpu_check --rehearse          # all of it without a GPU, emulated and small

`make gpu-build` compiles beforehand what the check runs; what was not carried here, or was compiled
from other sources, is compiled here, for which nvcc, cmake and ninja must be there.  Needs a GPU
and, in this interpreter, torch and pytest (better with pytest-xdist and pytest-timeout); ncu and
compute-sanitizer for their parts; no git and no network.  FUSEDML_COMMIT names the commit where
there is no git.

Each part is processes of its own with its own limit, and what it found is kept under the output
folder ($OUT if that is set) when it ends, whatever becomes of the other parts:

    summary.txt, summary.json  what all parts found, and their outcomes and seconds
    PART.log                   what a part printed
    failed.txt                 ids of the tests that failed, for --failed of the second call
    tests.xml, goals.csv       what tests and timing found
    primitives.txt             what the primitives gave, test data for the emulator
    golden.npz                 what the operators gave, likewise
    profile-*.ncu-rep          what the profiler found

After each part the folder is packed into one file, too, if --archive or $OUT says where.

Exit status: 0 if every part is ok, 1 if one is not, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from scripts.gpu_check import binaries, calls, rehearsal, tools
from scripts.gpu_check.running import (
    OK,
    ROOT,
    Part,
    Result,
    heed_interrupts,
    pack,
    run_parts,
    write_results,
)
from scripts.gpu_check.summary import all_failed_tests, summarise


def keep(output: Path, archive: Path | None, results: list[Result]) -> None:
    """Brings the summaries and the archive up to date."""
    write_results(output, results)
    (output / "summary.txt").write_text(summarise(results, output))
    (output / "failed.txt").write_text("".join(f"{k}\n" for k in all_failed_tests(output)))
    if archive is not None:
        pack(output, archive)


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("call", nargs="?", choices=("first", "second"), default="first")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "gpu_check")
    out = os.environ.get("OUT")
    default = Path(out) / "gpu_check.zip" if out else None
    parser.add_argument("--archive", type=Path, default=default)
    parser.add_argument("--minutes", type=float, help="for everything; default: 6.5, 4 the second")
    parser.add_argument("--parts", nargs="+", metavar="PART", help="only these")
    parser.add_argument("--rehearse", action="store_true", help="without a GPU")
    second = parser.add_argument_group("second call")
    second.add_argument("--failed", type=Path, help="file with ids of tests to run")
    second.add_argument("--races", nargs="*", default=calls.RACES, choices=calls.NATIVE)
    second.add_argument("--before", type=Path, default=binaries.BEFORE, help="package to compare")
    return parser


def make_setting(options: argparse.Namespace, output: Path) -> calls.Setting | None:
    """Where the parts run; None without a GPU."""
    if options.rehearse:
        return rehearsal.prepare(output)
    architecture = tools.architecture()
    return None if architecture is None else calls.Setting(output, architecture)


def make_parts(options: argparse.Namespace, setting: calls.Setting) -> list[Part]:
    """The parts of the call that were asked for.  Raises ValueError for a name of none."""
    if options.call == "first":
        parts = calls.first_call(setting)
    else:
        failed = options.failed.read_text().split("\n") if options.failed else []
        before = options.before.resolve() if (options.before / "fusedml").exists() else None
        parts = calls.second_call(setting, [k for k in failed if k], options.races, before)
    names = [part.name for part in parts]
    unknown = set(options.parts or ()) - set(names)
    if unknown:
        raise ValueError(f"--parts must be of {', '.join(names)}, got {', '.join(sorted(unknown))}")
    return [part for part in parts if options.parts is None or part.name in options.parts]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    heed_interrupts()
    parser = make_parser()
    options = parser.parse_args(arguments)
    output = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    setting = make_setting(options, output)
    if setting is None:
        print("gpu_check: nvidia-smi finds no GPU on this machine, so nothing was checked")
        return 2
    try:
        parts = make_parts(options, setting)
    except ValueError as error:
        parser.error(str(error))
    # for what came without git
    carried = binaries.read_list(setting.programs).get("commit", "")
    os.environ.setdefault("FUSEDML_COMMIT", carried)
    minutes = calls.FIRST_MINUTES if options.call == "first" else calls.SECOND_MINUTES
    limit_s = 60 * (options.minutes or minutes * setting.patience)
    archive = None if options.archive is None else options.archive.resolve()
    results = run_parts(parts, output, limit_s, partial(keep, output, archive))
    print(f"kept in {output}" + ("" if archive is None else f" and in {archive}"))
    print(summarise(results, output), end="")
    return 0 if all(result.outcome == OK for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
