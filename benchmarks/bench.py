"""How much faster, how much smaller, how exact, on this machine?

    python -m fusedml bench                                     # a few minutes, prints a table
    python -m fusedml bench --losses NTXentLoss --n 512 2048 --d 128 --direction forward
    python -m fusedml bench --suite scaling --output scaling.csv
    python -m fusedml bench --report [FILE.csv ...]             # pictures; docs/measurements.md
    python -m fusedml bench --compare OLD.csv [NEW.csv]         # what got slower or bigger
    python -m fusedml bench --targets [FILE.csv ...]            # what was promised

Every provider is first checked against float64; its peak memory is measured in a process of its
own; then all that fit are timed in interleaved rounds.  One that cannot is a row that says so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import accuracy, latency, miners, report, runner, tables, tuples
from benchmarks.arguments import make_limits, make_parser, make_plan, number
from benchmarks.cases import Case
from benchmarks.compare import compare_rows
from benchmarks.fit import growths
from benchmarks.results import RESULTS, Machine, describe_machine, read_rows, write_rows
from benchmarks.targets import check_miner_targets, check_targets

LATEST = RESULTS / "latest.csv"
# the committed files that are held to promises if none is named
PROMISED = (RESULTS / "losses_cpu.csv", RESULTS / "miners_cpu.csv")


def _run_suite(
    options: argparse.Namespace, plan: dict[Case, list[str]], limits: runner.Limits
) -> int:
    default = LATEST if options.suite == "quick" else RESULTS / f"latest_{options.suite}.csv"
    output = options.output or default
    torch.set_num_threads(limits.threads)
    machine = describe_machine(options.device, limits.threads)
    if options.suite == "accuracy":
        accuracy.run(plan, machine, partial(write_rows, output))
    elif options.suite == "miners":
        miners.run(plan, limits, machine, partial(write_rows, output))
    elif options.suite == "tuples":
        tuples.run(plan, limits, machine, partial(write_rows, output))
    else:
        runner.run(plan, limits, machine, partial(write_rows, output))
    rows = report.read_any(output)  # what is printed is what the file says
    print(_TABLES.get(options.suite, tables.sizes_table)(rows))
    if options.suite == "scaling":
        print(f"\n{tables.growth_table(rows)}" if growths(rows) else "")
    written = [output, *report.draw(output)]
    if options.suite == "latency":
        written += _run_breakdown(list(plan), machine, output)
    print("\nwritten:", *written, sep="\n  ")
    bad = [row for row in rows if row.outcome.startswith(("wrong", "failed"))]
    for row in bad:
        what = row.miner if isinstance(row, miners.MinerRow) else row.loss
        print(f"{what}, {row.provider}, n = {row.n}: {row.outcome}", file=sys.stderr)
    return 1 if any(row.provider == "fusedml" for row in bad) else 0


_TABLES: dict[str, Callable[[Sequence[Any]], str]] = {
    "accuracy": tables.accuracy_table,
    "miners": tables.miners_table,
    "tuples": tables.tuples_table,
}


def _run_breakdown(cases: list[Case], machine: Machine, output: Path) -> list[Path]:
    path = output.with_name(f"{output.stem}_breakdown.csv")
    latency.run(cases, machine, partial(write_rows, path))
    print(f"\n{tables.breakdown_table(read_rows(path, latency.BreakdownRow))}")
    return [path, *report.draw(path)]


def _compare(options: argparse.Namespace) -> int:
    if len(options.compare) > 2:
        raise ValueError(f"--compare must be given one or two files, got {len(options.compare)}")
    old, new = (*options.compare, LATEST)[:2]
    tolerances = [
        number(f"--{kind}-tolerance", getattr(options, f"{kind}_tolerance"), 0, float)
        for kind in ("time", "memory")
    ]
    comparison = compare_rows(read_rows(_existing(old)), read_rows(_existing(new)), *tolerances)
    print(f"{old} -> {new}, more than {tolerances[0]:.0%} of time, {tolerances[1]:.0%} of memory")
    print(comparison)
    return 1 if comparison.worse else 0


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"the results file must exist, got {path}")
    return path


def _report(files: Sequence[Path]) -> int:
    if files:
        written = [picture for file in files for picture in report.draw(_existing(file))]
    else:
        written = report.write_report()
    print("written:", *written, sep="\n  ")
    return 0


def _targets(files: Sequence[Path]) -> int:
    verdicts = []
    for file in files or [path for path in PROMISED if path.exists()]:
        rows = report.read_any(_existing(file))
        of_miners = isinstance(rows[0], miners.MinerRow) if rows else False
        verdicts += (check_miner_targets if of_miners else check_targets)(rows)
    print("\n".join(str(verdict) for verdict in verdicts))
    return 0 if all(verdict.is_met for verdict in verdicts) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__ or "")
    options = parser.parse_args(arguments)
    try:
        if options.report is not None:
            return _report(options.report)
        if options.compare is not None:
            return _compare(options)
        if options.targets is not None:
            return _targets(options.targets)
        suite, plan = make_plan(options)
        limits = make_limits(options, suite)
    except ValueError as error:
        parser.error(str(error))
    return _run_suite(options, plan, limits)


if __name__ == "__main__":
    raise SystemExit(main())
