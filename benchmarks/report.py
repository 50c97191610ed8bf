"""The README's table from a results file, and issue-sized claims checked against it.

python -m benchmarks.report                      # print the table
python -m benchmarks.report --write-readme       # put it between the README's markers
python -m benchmarks.report --targets            # what was promised, and what was measured
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cases import FORWARD_BACKWARD
from benchmarks.results import RESULTS, ROOT, Row, read_rows
from benchmarks.targets import check_targets

COMMITTED = RESULTS / "against_dense_cpu.csv"
README = ROOT / "README.md"
BEGIN = "<!-- table: against_dense -->"
END = "<!-- end of table -->"

# the README shows the largest of the usual batch sizes; the file has them all
_README_N = 4096
_HEAD = (
    "| loss | n | d | fusedml, ms | dense, ms | PML, ms | bare products, ms "
    "| fusedml, MB | dense, MB | PML, MB | faster than dense | smaller |"
)


def _number(value: float) -> str:
    """Two significant digits below ten, otherwise integers."""
    if value >= 10:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _cell(row: Row | None, value: float) -> str:
    if row is None:
        return "-"
    if row.outcome != "ok":
        return row.outcome.partition(":")[0]
    return "-" if math.isnan(value) else _number(value)


def _ratio(large: float, small: float) -> str:
    # a step may fit into memory that was there already: no ratio of its 0 MB
    return f"{_number(large / small)}x" if large >= 0 and small > 0 else "-"


def _line(rows: dict[str, Row]) -> str:
    ours, dense, pml = (rows.get(name) for name in ("fusedml", "dense", "pytorch-metric-learning"))
    some = next(iter(rows.values()))
    cells = [some.loss, str(some.n), str(some.d)]
    cells += [_cell(row, row.median_ms if row else math.nan) for row in (ours, dense, pml)]
    cells.append(_number(some.products_ms) if not math.isnan(some.products_ms) else "-")
    cells += [_cell(row, row.peak_extra_mb if row else math.nan) for row in (ours, dense, pml)]
    if ours and dense:
        cells.append(_ratio(dense.median_ms, ours.median_ms))
        cells.append(_ratio(dense.peak_extra_mb, ours.peak_extra_mb))
    else:
        cells += ["-", "-"]
    return f"| {' | '.join(cells)} |"


def table(rows: list[Row], direction: str = FORWARD_BACKWARD) -> str:
    """Markdown table of a direction's medians and peaks, one line for each loss and size."""
    groups: dict[tuple[str, int, int], dict[str, Row]] = {}
    for row in rows:
        if row.direction == direction:
            groups.setdefault((row.loss, row.n, row.d), {})[row.provider] = row
    rule = "|---" + "|--:" * (_HEAD.count("|") - 2) + "|"
    return "\n".join([_HEAD, rule, *map(_line, groups.values())])


def readme_section(rows: list[Row]) -> str:
    """What stands between the README's markers."""
    shown = [row for row in rows if row.n == _README_N]
    if not shown:
        raise ValueError(f"the results have no rows with n = {_README_N}")
    machine = shown[0]
    note = (
        f"One step forward and backward, {machine.dtype}, {machine.samples_per_class} samples a "
        f"class, {machine.threads} threads, {machine.device}, torch {machine.torch}: medians of "
        f"interleaved rounds; peak memory above the inputs, 1 MB = 10^6 bytes. "
        f"Commit {machine.commit}, {machine.date}."
    )
    return f"{table(shown)}\n\n{note}"


def replace_section(readme: str, section: str) -> str:
    """The README with ``section`` between its markers.  Raises ValueError without them."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the README must contain {BEGIN} and, after it, {END}")
    return f"{before}{BEGIN}\n{section}\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--csv", type=Path, default=COMMITTED)
    parser.add_argument("--readme", type=Path, default=README)
    parser.add_argument("--write-readme", action="store_true")
    parser.add_argument("--targets", action="store_true")
    options = parser.parse_args(arguments)
    rows = read_rows(options.csv)
    if options.targets:
        verdicts = check_targets(rows)
        print("\n".join(str(verdict) for verdict in verdicts))
        return 0 if all(verdict.is_met for verdict in verdicts) else 1
    if options.write_readme:
        readme = options.readme.read_text()
        options.readme.write_text(replace_section(readme, readme_section(rows)))
        return 0
    print(table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
