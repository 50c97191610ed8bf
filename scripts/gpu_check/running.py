"""Runs the parts of a check, each within its own limit and all within one; keeps what they say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

OK, FAILED, TIMED_OUT, SKIPPED = "ok", "failed", "timed out", "skipped"
# what a part that was told to stop may take to write what it has
_GRACE_S = 5.0
# a part that has less than this left is not begun
_LEAST_S = 3.0


@dataclass(frozen=True)
class Part:
    """A step of the check: commands run one after the other, until one fails.

    name: also that of its log.  limit_s: seconds for all of them.  needs: the parts without which
    it makes no sense.  keeps_going: whether the commands after a failed one are run, too.
    at_once: whether they all run side by side, in which case none stops another.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    limit_s: float
    needs: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
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
    parts: Iterable[Part],
    output: Path,
    limit_s: float,
    after_each: Callable[[list[Result]], None] = lambda results: None,
) -> list[Result]:
    """Runs the parts in order, within ``limit_s`` altogether; ``after_each`` sees all results."""
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
            result = run_part(part, output / f"{part.name}.log", min(part.limit_s, left))
        results.append(result)
        print(line_of(result)[:200], flush=True)
        after_each(results)
    return results


def line_of(result: Result) -> str:
    """A result in one line."""
    return f"{result.name:25} {result.outcome:9} {result.seconds:6.1f} s  {result.note}".rstrip()


def run_part(part: Part, log: Path, limit_s: float) -> Result:
    """Runs one part, with everything that it prints going to ``log``."""
    start = time.monotonic()
    codes = _run_at_once(part, log, limit_s) if part.at_once else _run_in_turn(part, log, limit_s)
    notes = [
        f"{' '.join(map(_short, command[:9]))} "
        + (f"was stopped after {limit_s:.0f} s" if code is None else f"ended with {code}")
        for command, code in zip(part.commands, codes, strict=False)
        if code != 0
    ]
    outcome = OK if not notes else TIMED_OUT if None in codes else FAILED
    return Result(part.name, outcome, round(time.monotonic() - start, 1), "; ".join(notes))


def _run_in_turn(part: Part, log: Path, limit_s: float) -> list[int | None]:
    start = time.monotonic()
    codes: list[int | None] = []
    log.unlink(missing_ok=True)
    for command in part.commands:
        left = limit_s - (time.monotonic() - start)
        codes.append(run_command(command, log, max(left, 0.1), part.environment))
        if codes[-1] is None or (codes[-1] != 0 and not part.keeps_going):
            break
    return codes


def _run_at_once(part: Part, log: Path, limit_s: float) -> list[int | None]:
    logs = [log.with_suffix(f".{index}.part") for index in range(len(part.commands))]

    def run(command: tuple[str, ...], own: Path) -> int | None:
        return run_command(command, own, limit_s, part.environment)

    with ThreadPoolExecutor(len(logs)) as pool:
        codes = list(pool.map(run, part.commands, logs))
    log.write_text("".join(own.read_text(errors="replace") for own in logs))
    for own in logs:
        own.unlink()
    return codes


def _short(argument: str) -> str:
    return Path(argument).name[:20] if os.sep in argument else argument[:20]


def heed_interrupts() -> None:
    """So that what is started stops at SIGINT: a shell has its background commands ignore it, and
    so would all that they start.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def run_command(
    command: Sequence[str], log: Path, limit_s: float, environment: Mapping[str, str]
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
        return None
    finally:
        with suppress(ProcessLookupError):  # what it has started, too: the next part is alone
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def write_results(output: Path, results: list[Result]) -> None:
    """Replaces summary.json as a whole, so that no interruption leaves half of one."""
    draft = output / "summary.json.part"
    draft.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    draft.replace(output / "summary.json")


def pack(output: Path, archive: Path) -> None:
    """Replaces the archive by one of all files in the output folder."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    draft = archive.with_suffix(".part")
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(output.iterdir()):
            if path.is_file() and path not in (archive, draft):
                file.write(path, path.name)
    draft.replace(archive)
