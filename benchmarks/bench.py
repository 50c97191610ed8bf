"""How much faster, how much smaller, how exact, on this machine?

    python -m fusedml bench                                     # a few minutes, prints a table
    python -m fusedml bench --losses NTXentLoss --n 512 2048 --d 128 --direction forward
    python -m fusedml bench --suite scaling --output scaling.csv
    python -m fusedml bench --report [FILE.csv ...]             # pictures; README from results/
    python -m fusedml bench --compare OLD.csv [NEW.csv]         # what got slower or bigger
    python -m fusedml bench --targets [FILE.csv]                # what was promised

Every provider is first checked against float64; its peak memory is measured in a process of its
own; then all that fit are timed in interleaved rounds.  One that cannot is a row that says so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch

from benchmarks import accuracy, latency, memory, report, runner, tables
from benchmarks.cases import DIRECTIONS, Case
from benchmarks.compare import compare_rows
from benchmarks.fit import growths
from benchmarks.providers import PROVIDERS
from benchmarks.results import RESULTS, Machine, describe_machine, read_rows, write_rows
from benchmarks.suites import SUITES, Suite, refined
from benchmarks.targets import check_targets
from fusedml.losses import LOSSES

LATEST = RESULTS / "latest.csv"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the whole usage is under --help."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"bench: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m fusedml bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    suites = "\n".join(
        f"  {name:9} about {suite.minutes:g} min: {suite.question}"
        for name, suite in SUITES.items()
    )
    parser.epilog = f"suites, with minutes on two cores:\n{suites}"
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--suite", default="quick", help="one of those below; default: quick")
    mode.add_argument("--report", nargs="*", type=Path, metavar="FILE", help="draw these files")
    mode.add_argument("--compare", nargs="+", type=Path, metavar="FILE", help="two results files")
    mode.add_argument("--targets", nargs="?", type=Path, const=RESULTS / "losses_cpu.csv")
    what = parser.add_argument_group("what is measured, in place of the suite's own")
    what.add_argument("--losses", nargs="+", metavar="LOSS")
    what.add_argument("--providers", nargs="+", metavar="PROVIDER")
    what.add_argument("--n", nargs="+", metavar="N", help="batch sizes")
    what.add_argument(
        "--m", "--references", nargs="+", metavar="M", help="embeddings to compare with, or 0"
    )
    what.add_argument("--d", nargs="+", metavar="D", help="dimensions")
    what.add_argument("--classes", nargs="+", metavar="C", help="proxies of Proxy-Anchor")
    what.add_argument("--samples-per-class", nargs="+", metavar="K")
    what.add_argument("--dtype", nargs="+", metavar="DTYPE")
    what.add_argument("--direction", nargs="+", metavar="DIRECTION", help=" or ".join(DIRECTIONS))
    what.add_argument("--device", default="cpu")
    how = parser.add_argument_group("how")
    how.add_argument("--threads", default=str(torch.get_num_threads()))
    how.add_argument("--rounds", help="least number of rounds")
    how.add_argument("--seconds", help="of rounds for each case")
    how.add_argument("--memory-limit-gb", default=f"{0.6 * memory.available_gb():.2f}")
    how.add_argument("--time-limit-s", default="60", help="of a provider's first step")
    how.add_argument("--output", type=Path, help="results file; default: benchmarks/results/latest")
    how.add_argument("--time-tolerance", default="0.25", help="of --compare, relative")
    how.add_argument("--memory-tolerance", default="0.1", help="of --compare, relative")
    return parser


def _one_of(name: str, values: Sequence[str] | None, allowed: Sequence[str]) -> Sequence[str]:
    for value in values or ():
        if value not in allowed:
            # quoted, as names of providers have commas and spaces
            names = ", ".join(map(repr, allowed))
            raise ValueError(f"{name} must be one of {names}, got {value!r}")
    return tuple(values or ())


def _number(name: str, value: str, least: float, kind: type = int) -> Any:
    wanted = "a whole number" if kind is int else "a number"
    try:
        number = kind(value)
    except ValueError:
        raise ValueError(f"{name} must be {wanted}, got {value!r}") from None
    if not number >= least:
        raise ValueError(f"{name} must be {wanted} of at least {least:g}, got {value}")
    return number


def make_plan(options: argparse.Namespace) -> tuple[Suite, dict[Case, list[str]]]:
    """The suite with what was given in place of its own, and its cases.

    Raises ValueError for an argument that is not possible, naming it.
    """
    _one_of("--suite", [options.suite], list(SUITES))
    given: dict[str, Sequence[object]] = {
        "losses": _one_of("--losses", options.losses, list(LOSSES)),
        "providers": _one_of("--providers", options.providers, list(PROVIDERS)),
        "directions": _one_of("--direction", options.direction, DIRECTIONS),
        "dtypes": tuple(options.dtype or ()),
    }
    for field, name, least in (
        ("n", "n", 1),
        ("references", "m", 0),
        ("d", "d", 1),
        ("num_classes", "classes", 1),
        ("samples_per_class", "samples_per_class", 1),
    ):
        flag = f"--{name.replace('_', '-')}"
        values = getattr(options, name) or ()
        given[field] = tuple(_number(flag, value, least) for value in values)
    suite = refined(SUITES[options.suite], {name: each for name, each in given.items() if each})
    _check_device(options.device)
    return suite, suite.plan(options.device)


def _check_device(device: str) -> None:
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise ValueError(f"--device must be cpu or cuda, got {device!r}") from None
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"--device must be cpu or cuda, got {device!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"--device must be one that torch sees, got {device!r}, but no GPU is here"
        )


def _make_limits(options: argparse.Namespace, suite: Suite) -> runner.Limits:
    given_seconds, given_rounds = options.seconds, options.rounds
    return runner.Limits(
        _number("--threads", options.threads, 1),
        suite.seconds if given_seconds is None else _number("--seconds", given_seconds, 0, float),
        suite.rounds if given_rounds is None else _number("--rounds", given_rounds, 1),
        _number("--memory-limit-gb", options.memory_limit_gb, 0.01, float),
        _number("--time-limit-s", options.time_limit_s, 0.1, float),
    )


def _run_suite(
    options: argparse.Namespace, plan: dict[Case, list[str]], limits: runner.Limits
) -> int:
    default = LATEST if options.suite == "quick" else RESULTS / f"latest_{options.suite}.csv"
    output = options.output or default
    torch.set_num_threads(limits.threads)
    machine = describe_machine(options.device, limits.threads)
    if options.suite == "accuracy":
        accuracy.run(plan, machine, partial(write_rows, output))
    else:
        runner.run(plan, limits, machine, partial(write_rows, output))
    rows = report.read_any(output)  # what is printed is what the file says
    is_accuracy = options.suite == "accuracy"
    print(tables.accuracy_table(rows) if is_accuracy else tables.sizes_table(rows))
    if options.suite == "scaling":
        print(f"\n{tables.growth_table(rows)}" if growths(rows) else "")
    written = [output, *report.draw(output)]
    if options.suite == "latency":
        written += _run_breakdown(list(plan), machine, output)
    print("\nwritten:", *written, sep="\n  ")
    bad = [row for row in rows if row.outcome.startswith(("wrong", "failed"))]
    for row in bad:
        print(f"{row.loss}, {row.provider}, n = {row.n}: {row.outcome}", file=sys.stderr)
    return 1 if any(row.provider == "fusedml" for row in bad) else 0


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
        _number(f"--{kind}-tolerance", getattr(options, f"{kind}_tolerance"), 0, float)
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


def _targets(file: Path) -> int:
    verdicts = check_targets(read_rows(_existing(file)))
    print("\n".join(str(verdict) for verdict in verdicts))
    return 0 if all(verdict.is_met for verdict in verdicts) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        if options.report is not None:
            return _report(options.report)
        if options.compare is not None:
            return _compare(options)
        if options.targets is not None:
            return _targets(options.targets)
        suite, plan = make_plan(options)
        limits = _make_limits(options, suite)
    except ValueError as error:
        parser.error(str(error))
    return _run_suite(options, plan, limits)


if __name__ == "__main__":
    raise SystemExit(main())
