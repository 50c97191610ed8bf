"""What got slower or bigger from one results file to another.

Times are compared as multiples of the bare matrix products of their own run, so that the files may
come from different machines.  A case is the same if loss, provider, sizes, number type and
direction are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.results import Row

# memory counters of threads lag, and a small step fits into what is there already
_LEAST_MB = 2.0
_KEY = ("loss", "provider", "n", "m", "d", "references", "samples_per_class", "dtype", "direction")
Key = tuple[str | int, ...]


@dataclass(frozen=True)
class Comparison:
    """Lines to print: what got worse, what got better, what cannot be compared."""

    worse: list[str]
    better: list[str]
    only_in_one: list[str]
    num_compared: int

    def __str__(self) -> str:
        lines = [f"{self.num_compared} cases in both files"]
        for title, entries in (
            ("slower or bigger", self.worse),
            ("faster or smaller", self.better),
            ("in one file only", self.only_in_one),
        ):
            lines.append(f"{title}: {len(entries) or 'none'}")
            lines += [f"  {entry}" for entry in entries]
        return "\n".join(lines)


def compare_rows(
    old: Sequence[Row],
    new: Sequence[Row],
    time_tolerance: float = 0.25,
    memory_tolerance: float = 0.1,
) -> Comparison:
    """Compares two files.

    *_tolerance: what the new figure may exceed the old one by, relative to the old one.
    """
    before, after = _by_key(old), _by_key(new)
    worse: list[str] = []
    better: list[str] = []
    for key in before.keys() & after.keys():
        _compare_one(before[key], after[key], (time_tolerance, memory_tolerance), worse, better)
    only = [f"only in the old file: {_name(key)}" for key in before if key not in after]
    only += [f"only in the new file: {_name(key)}" for key in after if key not in before]
    return Comparison(sorted(worse), sorted(better), only, len(before.keys() & after.keys()))


def _by_key(rows: Sequence[Row]) -> dict[Key, Row]:
    return {tuple(getattr(row, name) for name in _KEY): row for row in rows}


def _name(key: Key) -> str:
    loss, provider, n, m, d, references, samples, dtype, direction = key
    what = f"{loss}, {provider}, n = {n}, m = {m}, d = {d}, {dtype}, {direction}"
    return what + (f", {references} references" if references else "") + f", {samples} a class"


def _compare_one(
    old: Row, new: Row, tolerances: tuple[float, float], worse: list[str], better: list[str]
) -> None:
    name = _name(tuple(getattr(new, name) for name in _KEY))
    was_ok, is_ok = old.outcome == "ok", new.outcome == "ok"
    if was_ok != is_ok:
        (better if is_ok else worse).append(f"{name}: was {old.outcome!r}, is {new.outcome!r}")
        return
    if not was_ok:
        return
    measured = (
        ("time", "x the products", old.median_ms / old.products_ms, new.median_ms / new.products_ms)
        if old.products_ms > 0 and new.products_ms > 0
        else ("time", "ms", old.median_ms, new.median_ms),
        ("memory", "MB", max(old.peak_extra_mb, _LEAST_MB), max(new.peak_extra_mb, _LEAST_MB)),
    )
    for (kind, unit, before, after), tolerance in zip(measured, tolerances, strict=True):
        line = f"{name}: {kind} {before:.3g} -> {after:.3g} {unit}, {after / before:.2f}x"
        if after > before * (1 + tolerance):
            worse.append(line)
        elif before > after * (1 + tolerance):
            better.append(line)
