"""How much time and memory does a step take, against dense PyTorch and pytorch-metric-learning?

    python -m benchmarks.against_dense                          # a few minutes
    python -m benchmarks.against_dense --losses MultiSimilarityLoss --n 256 1024 4096 --d 128

Every provider is first checked against float64; its peak memory is measured in a process of its
own; then all that fit are timed in interleaved rounds.  Writes one CSV row for each loss, size,
direction and provider, also for those that did not fit.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks import memory
from benchmarks.cases import DIRECTIONS, FORWARD_BACKWARD, Case
from benchmarks.harness import (
    FLOOR,
    PRODUCTS,
    Errors,
    WrongResultError,
    check,
    interleave,
    timed_steps,
)
from benchmarks.providers import PROVIDERS, Provider
from benchmarks.report import table
from benchmarks.results import RESULTS, Machine, Row, describe_machine, make_row, write_rows
from fusedml.losses import LOSSES


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES), metavar="LOSS")
    parser.add_argument("--providers", nargs="+", choices=PROVIDERS, default=list(PROVIDERS))
    parser.add_argument("--n", nargs="+", type=int, default=[256, 1024, 4096], help="batch sizes")
    parser.add_argument("--d", nargs="+", type=int, default=[128, 512], help="dimensions")
    parser.add_argument("--samples-per-class", type=int, default=4)
    parser.add_argument("--num-classes", type=int, default=10000, help="number of proxies")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--directions", nargs="+", choices=DIRECTIONS, default=[FORWARD_BACKWARD])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5, help="least number of rounds")
    parser.add_argument("--seconds", type=float, default=4, help="of rounds for each loss and size")
    parser.add_argument(
        "--memory-limit-gb", type=float, default=0.6 * memory.available_gb(), help="of a step"
    )
    parser.add_argument("--time-limit-s", type=float, default=60, help="of a provider's first step")
    parser.add_argument("--output", type=Path, default=RESULTS / "latest.csv")
    options = parser.parse_args(arguments)
    try:
        make_cases(options)
    except ValueError as error:
        parser.error(str(error))
    return options


def make_cases(options: argparse.Namespace) -> list[Case]:
    """All combinations asked for, small ones first."""
    return [
        Case(
            loss,
            n,
            d,
            options.samples_per_class,
            options.num_classes,
            options.dtype,
            direction,
            options.device,
        )
        for n, d, loss, direction in itertools.product(
            options.n, options.d, options.losses, options.directions
        )
    ]


def check_agreement(usages: dict[str, memory.Usage], case: Case) -> None:
    """Marks who differs from the dense version at the full size, where float64 is out of reach."""
    dense = usages.get("dense")
    if dense is None or dense.outcome != "ok":
        return
    for name, usage in usages.items():
        difference = abs(usage.loss - dense.loss) / abs(dense.loss)
        if usage.outcome == "ok" and not difference <= 10 * FLOOR[case.dtype]:
            usages[name] = memory.Usage(f"wrong: {usage.loss:.7g}, dense: {dense.loss:.7g}")


def compare(
    case: Case, providers: dict[str, Provider], options: argparse.Namespace, machine: Machine
) -> list[Row]:
    """The rows of one case, one for each provider."""
    usages: dict[str, memory.Usage] = {}
    errors: dict[str, Errors] = {}
    for name, provider in providers.items():
        usages[name] = memory.measure(
            provider, case, options.threads, options.memory_limit_gb, options.time_limit_s
        )
        if usages[name].outcome != "ok":
            continue
        try:
            errors[name] = check(case, provider, name)
        except WrongResultError as error:
            usages[name] = memory.Usage(f"wrong: {error}")
    check_agreement(usages, case)
    fitting = {name: providers[name] for name in errors if usages[name].outcome == "ok"}
    timings = interleave(
        dict(timed_steps(case, fitting)),
        min_rounds=options.rounds,
        seconds=options.seconds,
        device=case.device,
    )
    return [
        make_row(
            case,
            name,
            machine,
            usages[name],
            timings.get(name),
            timings[PRODUCTS].median_ms,
            errors.get(name),
        )
        for name in providers
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    torch.set_num_threads(options.threads)
    machine = describe_machine(options.device, options.threads)
    providers = {name: PROVIDERS[name] for name in options.providers}
    rows: list[Row] = []
    bar = tqdm(make_cases(options), unit="case")
    for case in bar:
        bar.set_description(f"{case.loss} n={case.n} d={case.d} {case.direction}")
        rows += compare(case, providers, options, machine)
        write_rows(options.output, rows)  # after each case: an interrupted run keeps its rows
    print(table(rows))
    print(f"\nwritten to {options.output}")
    return 0 if all(row.outcome == "ok" for row in rows if row.provider == "fusedml") else 1


if __name__ == "__main__":
    raise SystemExit(main())
