"""Everything that a machine with a GPU has to say about the kernels, in one call.

    python scripts/gpu_check.py                        # all parts, in under ten minutes
    python scripts/gpu_check.py --parts build tests    # some of them

Needs a GPU, nvcc, cmake, ninja and, in this interpreter, torch and pytest; no network.  Builds for
this GPU only, runs tests/gpu, runs every kernel under compute-sanitizer, takes a first table of
times, and benchmarks for under four minutes in what time is left.  Each part is a process of its
own with its own limit, and what it found is kept under the output folder ($OUT if that is set) when
it ends, whatever becomes of the other parts:

    summary.json                     outcome and seconds of each part so far
    environment.log, build.log, ...  what each part printed
    tests.xml, timing.csv            what the tests and the timing found
    primitives.txt                   what the primitives gave, test data for the emulator
    bench.csv, bench_*.png           what the benchmark found

After each part the folder is packed into one file, too, if --archive or $OUT says where.

Exit status: 0 if every part is ok, 1 if one is not, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NATIVE = ROOT / "build" / "native"

OK, FAILED, TIMED_OUT, SKIPPED = "ok", "failed", "timed out", "skipped"
# what a part that was told to stop may take to write what it has
_GRACE_S = 10
# a part that has less than this left is not begun
_LEAST_S = 5


@dataclass(frozen=True)
class Part:
    """A step of the check: commands run one after the other, until one fails.

    limit_s: seconds for all of them.  needs: the parts without which it makes no sense.
    keeps_going: whether the commands after a failed one are run, too.
    at_once: whether they all run side by side.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    limit_s: float
    needs: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    keeps_going: bool = False
    at_once: bool = False


@dataclass(frozen=True)
class Result:
    """What became of a part."""

    name: str
    outcome: str
    seconds: float
    note: str = ""


def run_parts(
    parts: Iterable[Part], output: Path, limit_s: float, archive: Path | None = None
) -> list[Result]:
    """Runs the parts in order, within ``limit_s`` altogether.

    The summary, and the archive if one is asked for, are up to date after each part.
    """
    deadline = time.monotonic() + limit_s
    results: list[Result] = []
    for part in parts:
        left = deadline - time.monotonic()
        outcomes = {result.name: result.outcome for result in results}
        lacking = [name for name in part.needs if outcomes.get(name, OK) != OK]
        if lacking:
            result = Result(part.name, SKIPPED, 0, f"needs {', '.join(lacking)}")
        elif left < _LEAST_S:
            result = Result(part.name, SKIPPED, 0, "no time left")
        else:
            print(f"== {part.name} (at most {min(part.limit_s, left):.0f} s)", flush=True)
            result = run_part(part, output / f"{part.name}.log", min(part.limit_s, left))
            if result.outcome != OK:
                print_end(output / f"{part.name}.log")
        results.append(result)
        write_summary(output, results)
        if archive is not None:
            pack(output, archive)
    return results


def run_part(part: Part, log: Path, limit_s: float) -> Result:
    """Runs one part, with everything that it prints going to ``log``."""
    start = time.monotonic()
    codes: list[int | None] = []
    if part.at_once:
        logs = [log.with_suffix(f".{index}.part") for index in range(len(part.commands))]

        def run(command: tuple[str, ...], own: Path) -> int | None:
            return run_command(command, own, limit_s, part.environment)

        with ThreadPoolExecutor(len(logs)) as pool:
            codes += pool.map(run, part.commands, logs)
        log.write_text("".join(own.read_text(errors="replace") for own in logs))
        for own in logs:
            own.unlink()
    else:
        log.unlink(missing_ok=True)
        for command in part.commands:
            left = limit_s - (time.monotonic() - start)
            codes.append(run_command(command, log, max(left, 0.1), part.environment))
            if codes[-1] is None or (codes[-1] != 0 and not part.keeps_going):
                break
    notes = [
        f"{' '.join(map(_short, command[:9]))} "
        + (f"was stopped after {limit_s:.0f} s" if code is None else f"ended with {code}")
        for command, code in zip(part.commands, codes, strict=False)
        if code != 0
    ]
    outcome = OK if not notes else TIMED_OUT if None in codes else FAILED
    return Result(part.name, outcome, round(time.monotonic() - start, 1), "; ".join(notes))


def _short(argument: str) -> str:
    return Path(argument).name[:20] if os.sep in argument else argument[:20]


def run_command(
    command: Sequence[str], log: Path, limit_s: float, environment: dict[str, str]
) -> int | None:
    """The exit status; None if the command had to be stopped, with all that it had started.

    What it prints is added to ``log``.
    """
    with log.open("a") as file:
        print("$", *command, file=file, flush=True)
        try:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            print(f"{command[0]}: {error.strerror}", file=file)
            return 127
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        # first as from a keyboard, so that pytest and the timing write what they have
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGINT)
            process.wait(_GRACE_S)
        with suppress(ProcessLookupError):  # its children, too
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None


def print_end(log: Path, lines: int = 40) -> None:
    """The last lines of a log, where what went wrong usually stands."""
    for line in log.read_text(errors="replace").splitlines()[-lines:]:
        print(f"   {line[:200]}")


def write_summary(output: Path, results: list[Result]) -> None:
    """Replaces the summary as a whole, so that no reader and no interruption finds half of one."""
    draft = output / "summary.json.part"
    draft.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    draft.replace(output / "summary.json")


def pack(output: Path, archive: Path) -> None:
    """Replaces the archive by one of all files in the output folder."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    draft = archive.with_suffix(".part")
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(output.iterdir()):
            if path not in (archive, draft):
                file.write(path, path.name)
    draft.replace(archive)


def print_summary(results: list[Result]) -> None:
    """One line a part."""
    for result in results:
        print(f"{result.name:12} {result.outcome:10} {result.seconds:7.1f} s  {result.note}")


def tool(name: str) -> str:
    """A program of the CUDA toolkit: as the shell finds it, or where the toolkit usually lies."""
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    found = shutil.which(name) or shutil.which(name, path=str(toolkit / "bin"))
    return found or name


def make_parts(architecture: str, output: Path) -> list[Part]:
    """The parts of the check on a GPU of ``architecture``, as in "9.0a"."""
    python = sys.executable
    programs = [
        str(NATIVE / f"gpu_{name}") for name in ("statistics", "gradient", "positive_pairs")
    ]
    # a plugin that need not be there: the part has a limit of its own
    has_timeout = importlib.util.find_spec("pytest_timeout") is not None
    sanitizer = (tool("compute-sanitizer"), "--error-exitcode=9", "--launch-timeout=60", "--tool")
    build_environment = {
        "FUSEDML_FORCE_CUDA": "1",
        "TORCH_CUDA_ARCH_LIST": architecture,
        # the sanitizer names source lines
        "FUSEDML_CMAKE_ARGS": "-DFUSEDML_GPU_TESTS=ON -DCMAKE_CUDA_FLAGS=-lineinfo",
    }
    return [
        Part(
            "environment",
            (
                (
                    python,
                    "-c",
                    "import torch; print(torch.__version__, torch.cuda.get_device_properties(0))",
                ),
                ("nvidia-smi",),
                (tool("nvcc"), "--version"),
                ("git", "log", "-1", "--oneline"),
            ),
            20,
            keeps_going=True,
        ),
        Part(
            "build",
            (
                # what `setup.py build_ext --inplace` does, with any version of setuptools
                (python, "-c", "import setup; setup.build_into(setup.ROOT / 'fusedml', print)"),
                ("cmake", "--build", str(NATIVE), "--target", "gpu_tests"),
            ),
            200,
            environment=build_environment,
        ),
        Part(
            "kernels",
            (
                (
                    str(NATIVE / "tests" / "csrc" / "gpu" / "test_primitives_gpu"),
                    *("--record", str(output / "primitives.txt")),
                ),
                # three seeds of the data
                *((program, "3") for program in programs),
            ),
            40,
            ("build",),
            keeps_going=True,
        ),
        Part(
            "tests",
            (
                (
                    python,
                    *("-m", "pytest", "tests/gpu", "-o", "addopts=", "-q", "-ra"),
                    *("-p", "no:cacheprovider", "--durations=10"),
                    *(["--timeout=100"] if has_timeout else []),
                    f"--junitxml={output / 'tests.xml'}",
                ),
            ),
            210,
            ("build",),
        ),
        Part(
            "sanitizer",
            tuple(
                (*sanitizer, tool, program, "1")
                for tool in ("memcheck", "racecheck", "synccheck")
                for program in programs
            ),
            100,
            ("build",),
            at_once=True,
        ),
        Part(
            "timing",
            ((python, "-m", "benchmarks.gpu_goals", "--output", str(output / "timing.csv")),),
            110,
            ("build",),
        ),
        # the last: it writes its file after each case, so less time means fewer rows
        Part(
            "bench",
            (
                (
                    python,
                    *("-m", "benchmarks.bench", "--suite", "gpu", "--device", "cuda"),
                    *("--time-limit-s", "30", "--output", str(output / "bench.csv")),
                ),
            ),
            230,
            ("build",),
        ),
    ]


def gpu_architecture() -> str | None:
    """The architecture to compile for, of the first GPU; None without one."""
    import torch  # noqa: PLC0415  not needed to check this script

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(0)
    # the instructions of one generation only, where there are such
    return f"{major}.{minor}{'a' if major >= 9 else ''}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "gpu_check")
    out = os.environ.get("OUT")
    parser.add_argument(
        "--archive", type=Path, default=Path(out) / "gpu_check.zip" if out else None
    )
    parser.add_argument("--minutes", type=float, default=9.5, help="for everything")
    parser.add_argument("--parts", nargs="+", metavar="PART", help="only these")
    options = parser.parse_args(arguments)
    architecture = gpu_architecture()
    if architecture is None:
        print("gpu_check: torch finds no CUDA device on this machine, so nothing was checked")
        return 2
    output = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    parts = make_parts(architecture, output)
    if options.parts:
        unknown = set(options.parts) - {part.name for part in parts}
        if unknown:
            parser.error(f"--parts must be of {', '.join(part.name for part in parts)}")
        parts = [part for part in parts if part.name in options.parts]
    archive = None if options.archive is None else options.archive.resolve()
    results = run_parts(parts, output, options.minutes * 60, archive)
    for name in ("timing", "bench"):
        if any(result.name == name and result.outcome != SKIPPED for result in results):
            print_end(output / f"{name}.log", 40)
    print_summary(results)
    print(f"kept in {output}" + ("" if archive is None else f" and in {archive}"))
    return 0 if all(result.outcome == OK for result in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
