"""One page that a person can act on, of a call so far: it fits into 12,000 characters."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from scripts.gpu_check.failures import failed_in_log, failed_tests, telling_lines
from scripts.gpu_check.profile import table
from scripts.gpu_check.running import OK, SKIPPED, Result, line_of

MOST_CHARACTERS = 11_900
# characters of each section; a longer one ends with a word about the rest
_MOST = {
    "parts": 1700,
    "machine": 600,
    "tests": 2600,
    "other failures": 1200,
    "smoke": 300,
    "goals": 2300,
    "timer": 1400,
    "profile": 1600,
}
# parts whose own sections tell what has failed
_TELL_THEMSELVES = ("tests", "goals", "goals-before")


def summarise(results: list[Result], output: Path) -> str:
    """All sections that have something to say."""
    outcomes = {result.name: result.outcome for result in results}
    sections = {
        "parts": [line_of(result) for result in results],
        "machine": _printed(output / "machine.log")[:14],
        "tests": _tests(output),
        "other failures": _others(results, output),
        "smoke": _printed(output / "smoke.log")[-1:],
        "goals": _goals(output, outcomes),
        "timer": _timer(output / "timer.log"),
        "profile": _profiles(output),
    }
    texts = [
        f"== {title}\n{fit(lines, _MOST[title])}" for title, lines in sections.items() if lines
    ]
    return "\n".join(texts) + "\n"


def fit(lines: Iterable[str], most: int) -> str:
    """The lines, as many as fit; the last one says how many do not."""
    lines = list(lines)
    kept: list[str] = []
    for k, line in enumerate(lines):
        rest = f"... and {len(lines) - k} more lines"
        if sum(map(len, kept)) + len(kept) + len(line) + len(rest) + 2 > most:
            return "\n".join([*kept, rest])
        kept.append(line)
    return "\n".join(kept)


def _printed(log: Path) -> list[str]:
    """What the commands of a part printed, without the commands themselves."""
    if not log.exists():
        return []
    lines = log.read_text(errors="replace").splitlines()
    return [line[:200] for line in lines if line.strip() and not line.startswith("$ ")]


def all_failed_tests(output: Path) -> dict[str, str]:
    """{id: first failing assertion}, also where pytest was stopped before it wrote its file."""
    return failed_tests(output / "tests.xml") or failed_in_log(output / "tests.log")


def _tests(output: Path) -> list[str]:
    count = [line for line in _printed(output / "tests.log")[-3:] if " in " in line][-1:]
    by_function: dict[str, list[str]] = {}
    failed = all_failed_tests(output)
    for name in failed:
        by_function.setdefault(name.partition("[")[0], []).append(name)
    lines = []
    for names in by_function.values():
        others = f" and {len(names) - 1} more of it" if len(names) > 1 else ""
        lines.append(f"{names[0]}{others}\n    {failed[names[0]]}")
    return [*count, *lines]


def _others(results: list[Result], output: Path) -> list[str]:
    """What the logs of the other failed parts say first."""
    lines = []
    for result in results:
        if result.outcome in (OK, SKIPPED) or result.name in _TELL_THEMSELVES:
            continue
        lines.append(f"{result.name}:")
        lines += [f"    {line}" for line in telling_lines(output / f"{result.name}.log")]
    return lines


def _goals(output: Path, outcomes: dict[str, str]) -> list[str]:
    """The table of goals: sizes, providers and verdicts as they were printed."""
    names = [name for name in ("goals-before", "goals", "goals-compared") if name in outcomes]
    lines = []
    for name in names:
        lines += [f"[{name}]"] if len(names) > 1 else []
        lines += [line for line in _printed(output / f"{name}.log") if not line.startswith("bare")]
    return lines


def _timer(log: Path) -> list[str]:
    """For each operation and size, milliseconds as planned and of the fastest choice."""
    lines = [line for line in _printed(log) if line.count(",") == 7]
    groups: dict[str, dict[str, float]] = {}
    for row in csv.DictReader(lines):
        key = f"{row['operation']} {row['n']} x {row['d']} {row['type']}"
        groups.setdefault(key, {})[row["choice"]] = float(row["median_ms"])
    for key in [key for key in groups if key.startswith("weights ")]:
        # a panel's weights and their product: the rest of its time
        whole = groups.get(key.replace("weights", "panel"), {})
        rest = {k: whole[k] - ms for k, ms in groups[key].items() if k in whole}
        groups[key.replace("weights", "product")] = rest
    return [*_hopper(log), *(f"{key}: {_choices(choices)}" for key, choices in groups.items())]


def _hopper(log: Path) -> list[str]:
    """What Hopper's kernels are to reach, and whether they do."""
    lines = [line for line in _printed(log) if line.count(",") == 9]
    return [
        f"hopper {row['operation']} {row['n']} x {row['d']}: {float(row['median_ms']):.3g} ms, at "
        f"most {row['most_ms']}: {row['verdict']}, same bits: {row['same_bits']}"
        for row in csv.DictReader(lines)
    ]


def _choices(milliseconds: dict[str, float]) -> str:
    planned = milliseconds.pop("as planned", None)
    said = [] if planned is None else [f"{planned:.3g} ms as planned"]
    if milliseconds:
        best = min(milliseconds, key=milliseconds.__getitem__)
        said.append(f"{milliseconds[best]:.3g} with {best}")
    return ", ".join(said)


def _profiles(output: Path) -> list[str]:
    lines = []
    for log in sorted(output.glob("profile-*.log")):
        lines += [f"n = 16384, d = {log.stem.rpartition('-')[2]}, bf16", *table(log)]
    return lines
