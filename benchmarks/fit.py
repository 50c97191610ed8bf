"""How time and memory grow: exponents fitted to a scaling study, and where providers stopped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.harness import LEAST_ROUNDS
from benchmarks.results import Row

# smaller batches show the cost of the calls, not of the pairs
LEAST_N = 1024
_LEAST_POINTS = 3


def fit_exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """b of values = a sizes^b, by least squares on the logarithms.

    NaN with fewer than three points with a value above 0, or without two different sizes.
    """
    points = [
        (math.log(size), math.log(value))
        for size, value in zip(sizes, values, strict=True)
        if value > 0  # also leaves out NaN
    ]
    if len(points) < _LEAST_POINTS:
        return math.nan
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    variance = sum((x - mean_x) ** 2 for x, _ in points)
    if variance == 0:
        return math.nan
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / variance


@dataclass(frozen=True)
class Growth:
    """A provider on a loss at one d: how it grows with n, and how far it got.

    time_exponent, memory_exponent: of milliseconds and of peak bytes, over n >= 1024, on the
        machine of the largest batch.
    largest_n: the largest batch it did, 0 if none; stop: what it said at the next one, or "".
    largest_rounds: how often the largest was timed.
    stops_at: the smallest batch it did not do, 0 if it did all.
    """

    loss: str
    d: int
    provider: str
    time_exponent: float
    memory_exponent: float
    largest_n: int
    largest_ms: float
    largest_mb: float
    stops_at: int
    stop: str
    largest_rounds: int = LEAST_ROUNDS


def growths(rows: Sequence[Row]) -> list[Growth]:
    """One for each loss, d and provider of a study, in its order."""
    series: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        series.setdefault((row.loss, row.d, row.provider), []).append(row)
    return [_growth(*key, sorted(own, key=lambda row: row.n)) for key, own in series.items()]


def _growth(loss: str, d: int, provider: str, rows: list[Row]) -> Growth:
    done = [row for row in rows if row.outcome == "ok"]
    last = max(done, key=lambda row: row.n, default=None)
    # times of two machines have no common growth
    large = [row for row in done if row.n >= LEAST_N and last and row.device == last.device]
    sizes = [row.n for row in large]
    first_failed = next((row for row in rows if row.outcome != "ok"), None)
    return Growth(
        loss,
        d,
        provider,
        fit_exponent(sizes, [row.median_ms for row in large]),
        fit_exponent(sizes, [row.peak_extra_mb for row in large]),
        last.n if last else 0,
        last.median_ms if last else math.nan,
        last.peak_extra_mb if last else math.nan,
        first_failed.n if first_failed else 0,
        first_failed.outcome if first_failed else "",
        last.rounds if last else LEAST_ROUNDS,
    )
