"""Markdown tables of results, for the terminal and for docs/measurements.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from benchmarks.accuracy import AccuracyRow
from benchmarks.cases import FORWARD_BACKWARD, has_weights
from benchmarks.fit import LEAST_N, growths
from benchmarks.harness import LEAST_ROUNDS
from benchmarks.latency import PARTS, BreakdownRow
from benchmarks.miners import MinerRow
from benchmarks.providers import CROSS_ENTROPY, DENSE, FUSED, PML, PROVIDERS
from benchmarks.results import Row
from benchmarks.tuples import TupleRow

# the batch whose parts the page shows
_BREAKDOWN_N = 256


def number(value: float) -> str:
    """Two significant digits below ten, otherwise integers; "-" for NaN."""
    if math.isnan(value):
        return "-"
    if value >= 10:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table whose first ``left`` columns are text and whose others are numbers."""
    rule = ["---"] * left + ["--:"] * (len(head) - left)
    return "\n".join(
        f"| {' | '.join(cells)} |" if cells is not rule else f"|{'|'.join(rule)}|"
        for cells in (head, rule, *lines)
    )


def cell(row: Row | MinerRow | None) -> str:
    """Milliseconds and MB of a provider, or what became of it."""
    if row is None:
        return "-"
    if row.outcome != "ok":
        return row.outcome.partition(":")[0]
    time = f"{number(row.median_ms)} ms{few_rounds(row.rounds)}"
    if math.isnan(row.peak_extra_mb):
        return time
    return f"{time}, {number(row.peak_extra_mb)} MB"


def few_rounds(rounds: int) -> str:
    """What is said of a time that is no measurement; "" of others."""
    if rounds >= LEAST_ROUNDS:
        return ""
    return " (1 round)" if rounds == 1 else f" ({rounds} rounds)"


def ratio(large: float, small: float) -> str:
    """How many times larger; "-" where there is nothing to divide."""
    # a step may fit into memory that was there already: no ratio of its 0 MB
    return f"{number(large / small)}x" if large >= 0 and small > 0 else "-"


def providers_in(rows: Iterable[Any]) -> list[str]:
    """The providers of some rows, in the order of PROVIDERS."""
    found = {row.provider for row in rows}
    return [name for name in PROVIDERS if name in found] + sorted(found - PROVIDERS.keys())


def sizes_table(rows: Sequence[Row]) -> str:
    """Every case with each provider's median and peak, and fusedml against dense."""
    names = providers_in(rows)
    varying = [
        (label, get)
        for label, get in _COLUMNS
        if label in ("n", "d") or len({get(row) for row in rows}) > 1
    ]
    groups: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        key = (row.loss, *(get(row) for _, get in varying))
        groups.setdefault(key, {})[row.provider] = row
    has_both = FUSED in names and DENSE in names
    head = ["loss", *(label for label, _ in varying), "bare products", *names]
    head += ["faster than dense", "smaller"] if has_both else []
    lines = []
    for key, found in groups.items():
        products = next(iter(found.values())).products_ms
        line = [*key, "-" if math.isnan(products) else f"{number(products)} ms"]
        line += [cell(found.get(name)) for name in names]
        if has_both:
            line += _advantage(found)
        lines.append(line)
    return markdown(head, lines)


_COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("n", lambda row: str(row.n)),
    ("classes", lambda row: str(row.m) if has_weights(row.loss) else ""),
    ("references", lambda row: str(row.references)),
    ("d", lambda row: str(row.d)),
    ("samples a class", lambda row: str(row.samples_per_class)),
    ("dtype", lambda row: row.dtype),
    ("direction", lambda row: row.direction),
)


def _advantage(found: dict[str, Row]) -> list[str]:
    ours, dense = found.get(FUSED), found.get(DENSE)
    if ours is None or dense is None:
        return ["-", "-"]
    return [
        ratio(dense.median_ms, ours.median_ms),
        ratio(dense.peak_extra_mb, ours.peak_extra_mb),
    ]


def losses_table(rows: Sequence[Row]) -> str:
    """The largest batch of the file, both directions' gradients included."""
    chosen = [row for row in rows if row.direction == FORWARD_BACKWARD]
    largest = max(row.n for row in chosen)
    return sizes_table([row for row in chosen if row.n == largest])


def growth_table(rows: Sequence[Row]) -> str:
    """Exponents of time and memory, and where each provider stops; at the smallest d."""
    d = min(row.d for row in rows)
    lines = [
        [
            growth.loss,
            growth.provider,
            _power(growth.time_exponent),
            _power(growth.memory_exponent),
            f"{growth.largest_n:,}",
            f"{number(growth.largest_ms / 1e3)} s{few_rounds(growth.largest_rounds)}",
            f"{number(growth.largest_mb)} MB",
            f"n = {growth.stops_at}: {growth.stop}" if growth.stops_at else "-",
        ]
        for growth in growths([row for row in rows if row.d == d])
    ]
    head = ["loss", "provider", "time grows as", "memory grows as", "largest n", "time there"]
    return markdown([*head, "memory there", "stopped by"], lines, left=2)


def _power(exponent: float) -> str:
    return "-" if math.isnan(exponent) else f"n^{exponent:.2f}"


def growth_note() -> str:
    return f"Exponents are least squares on the logarithms over n >= {LEAST_N}."


def latency_table(rows: Sequence[Row]) -> str:
    """For each loss and n: milliseconds, and the faster of dense and PML over fusedml."""
    lines = [
        [loss, *_times_and_ratios([row for row in rows if row.loss == loss], rows, (DENSE, PML))]
        for loss in dict.fromkeys(row.loss for row in rows)
    ]
    return markdown(["loss", *_sizes(rows)], lines)


def retrieval_table(rows: Sequence[Row]) -> str:
    """For each loss, d and n: milliseconds, and the bare cross-entropy over fusedml."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.loss, row.d), []).append(row)
    lines = []
    for (loss, d), own in groups.items():
        names = {row.provider for row in own if row.outcome == "ok"}
        # of two towers the dense formula is that cross-entropy
        bare = CROSS_ENTROPY if CROSS_ENTROPY in names else DENSE
        lines.append([loss, str(d), *_times_and_ratios(own, rows, (bare,))])
    return markdown(["loss", "d", *_sizes(rows)], lines)


def _sizes(rows: Sequence[Row]) -> list[str]:
    return [f"n = {n}" for n in sorted({row.n for row in rows})]


def _times_and_ratios(
    own: Sequence[Row], rows: Sequence[Row], others: Sequence[str]
) -> Iterator[str]:
    """Of each n of the file: our time, and how many times longer the fastest of others takes."""
    found = {(row.provider, row.n): row for row in own}
    for n in sorted({row.n for row in rows}):
        ours = found.get((FUSED, n))
        times = [found[name, n].median_ms for name in others if (name, n) in found]
        fastest = min((ms for ms in times if ms > 0), default=math.nan)
        milliseconds = math.nan if ours is None else ours.median_ms
        few = few_rounds(LEAST_ROUNDS if ours is None else ours.rounds)
        yield f"{number(milliseconds)} ms{few}, {ratio(fastest, milliseconds)}"


def breakdown_table(rows: Sequence[BreakdownRow]) -> str:
    """Milliseconds of each part of a step, at one batch size."""
    n = min({row.n for row in rows}, key=lambda size: abs(size - _BREAKDOWN_N))
    found = {(row.loss, row.part): row for row in rows if row.n == n}
    lines = []
    for loss in dict.fromkeys(row.loss for row in rows if row.n == n):
        parts = [found[loss, part] for part in PARTS]
        line = [loss, f"{parts[0].step_ms:.2f}"]
        lines.append(line + [f"{part.part_ms:.2f}" for part in parts])
    return markdown([f"n = {n}", "step, ms", *PARTS], lines)


def accuracy_table(rows: Sequence[AccuracyRow]) -> str:
    """For each number type and precision: the worst errors over the losses, of each provider."""
    names = providers_in(rows)
    lines = []
    for dtype, precision in dict.fromkeys((row.dtype, row.precision) for row in rows):
        line = [dtype if precision == "highest" else f"{dtype}, {precision}"]
        for name in names:
            errors = [
                (row.value_error, row.gradient_error)
                for row in rows
                if (row.dtype, row.precision, row.provider) == (dtype, precision, name)
                and row.outcome == "ok"
            ]
            worst = [max(each) for each in zip(*errors, strict=True)]
            line.append(f"{worst[0]:.0e}, {worst[1]:.0e}" if worst else "-")
        lines.append(line)
    return markdown(["dtype", *names], lines)


def miners_table(rows: Sequence[MinerRow]) -> str:
    """Every miner and n: how much is listed, and each provider's median and peak."""
    names = providers_in(rows)
    groups: dict[tuple[str, int, int], dict[str, MinerRow]] = {}
    for row in rows:
        groups.setdefault((row.miner, row.n, row.d), {})[row.provider] = row
    lines = []
    for (miner, n, d), found in groups.items():
        listed = next((row.listed for row in found.values() if row.outcome == "ok"), math.nan)
        length = "-" if math.isnan(listed) else f"{listed:,.0f}"
        lines.append([miner, str(n), str(d), length, *(cell(found.get(name)) for name in names)])
    lines.sort(key=lambda line: line[0])  # stable: by n within a miner
    return markdown(["miner", "n", "d", "listed", *names], lines)


def tuples_table(rows: Sequence[TupleRow]) -> str:
    """A line for each loss and size, a column for each list: our time, and theirs in multiples."""
    listings = list(dict.fromkeys(row.listing for row in rows))
    groups: dict[tuple[str, int, int, int], dict[tuple[str, str], TupleRow]] = {}
    for row in rows:
        size = row.loss, row.n, row.d, row.references
        groups.setdefault(size, {})[row.listing, row.provider] = row
    lines = [
        [loss, str(n), str(d), str(references or "-"), *(_beside(found, of) for of in listings)]
        for (loss, n, d, references), found in groups.items()
    ]
    lines.sort(key=lambda line: line[0])  # stable: by size within a loss
    return markdown(["loss", "n", "d", "references", *listings], lines)


def _beside(found: dict[tuple[str, str], TupleRow], listing: str) -> str:
    """Our milliseconds, and how many times longer theirs are."""
    ours, theirs = (found.get((listing, name)) for name in (FUSED, PML))
    if ours is None or ours.outcome != "ok":
        return "-" if ours is None else ours.outcome.partition(":")[0]
    time = f"{number(ours.median_ms)} ms{few_rounds(ours.rounds)}"
    if theirs is None or theirs.outcome != "ok":
        return time
    return f"{time}, {ratio(theirs.median_ms, ours.median_ms)}"
