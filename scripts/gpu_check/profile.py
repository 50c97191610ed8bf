"""The profiler's figures of the main kernels, as a table of what may bound them."""

from __future__ import annotations

import csv
import itertools
import re
from pathlib import Path

_MS = {"ns": 1e-6, "nsecond": 1e-6, "us": 1e-3, "usecond": 1e-3, "ms": 1.0, "msecond": 1.0}
# column of the table: what the profiler calls it
_PERCENT = {
    "sm%": "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "mem%": "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed",
    "dram%": "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed",
    "L2hit%": "lts__t_sector_hit_rate.pct",
    "warps%": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "issue%": "sm__inst_issued.avg.pct_of_peak_sustained_active",
}
_COUNTS = {
    "regs": "launch__registers_per_thread",
    "blocks": "launch__grid_size",
    "waves": "launch__waves_per_multiprocessor",
}
_CONFLICTS = "l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum"
_PIPE = re.compile(r"sm__(?:inst_executed_)?pipe_(\w+?)(?:_cycles_active)?\.avg\.pct_of_peak_\w+$")
_STALL = re.compile(r"smsp__average_warps_issue_stalled_(\w+?)_per_issue_active\.ratio$")

Row = dict[str, str]


def read_figures(log: Path) -> list[tuple[Row, Row]]:
    """The rows of the profiler's raw pages within a log, each with the units of its columns."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    figures = []
    for start in (k for k, line in enumerate(lines) if line.startswith('"ID",')):
        page = itertools.takewhile(lambda line: line.startswith('"'), lines[start:])
        # below the names stand the units
        units, *rows = csv.DictReader(page)
        figures += [(row, units) for row in rows]
    return figures


def table(log: Path) -> list[str]:
    """A line for the first launch of each kernel; a reason where there are no figures."""
    figures = read_figures(log)
    if not figures:
        return ["no figures: see the log"]
    header = ["kernel", "ms", *_PERCENT, *_COUNTS, "conflicts", "busiest pipes", "stalled by"]
    cells = [header]
    for row, units in figures:
        name = _short(row["Kernel Name"])
        if name in (line[0] for line in cells):
            continue
        columns = (*_PERCENT.values(), *_COUNTS.values(), _CONFLICTS)
        numbers = [_number(row, column) for column in columns]
        largest = [_largest(row, _PIPE), _largest(row, _STALL)]
        cells.append([name, _milliseconds(row, units), *numbers, *largest])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]


def _short(kernel: str) -> str:
    match = re.search(r"(\w+?)(?:_kernel)?\s*(?:<|\(|$)", kernel)
    return match[1] if match else kernel[:20]


def _value(row: Row, column: str) -> float | None:
    try:
        return float(row[column].replace(",", ""))
    except (KeyError, ValueError):
        return None


def _number(row: Row, column: str) -> str:
    value = _value(row, column)
    return "-" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _milliseconds(row: Row, units: Row) -> str:
    value = _value(row, "gpu__time_duration.sum")
    unit = _MS.get(units.get("gpu__time_duration.sum", ""))
    return "-" if value is None or unit is None else f"{value * unit:.3f}"


def _largest(row: Row, pattern: re.Pattern[str]) -> str:
    """The two largest of the columns that match, with their names."""
    found: dict[str, float] = {}
    for column in row:
        match, value = pattern.search(column), _value(row, column)
        if match and value is not None:
            found[match[1]] = max(value, found.get(match[1], 0.0))
    top = sorted(found.items(), key=lambda item: -item[1])[:2]
    return ", ".join(f"{name} {value:.3g}" for name, value in top) or "-"
