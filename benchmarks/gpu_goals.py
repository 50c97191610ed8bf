"""The first table of times on a GPU, against what the kernels are meant to reach on an H100.

    python -m benchmarks.gpu_goals --output timing.csv

Multi-Similarity, 4 samples a class, forward and backward: fusedml, the dense formula in eager
PyTorch, and the same under torch.compile, in interleaved rounds with the L2 cache flushed.  Each
size is written when it is done; a provider that fails or does not fit is a row that says so, and
after a fault of the GPU a new process goes on.  Under a minute and a half on an H100.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.cases import Case, LossFunction, Problem, make_problem
from benchmarks.harness import PRODUCTS, interleave
from benchmarks.memory import Usage, measure_peak, outcome_of, run_step
from benchmarks.providers import COMPILED, DENSE, FUSED, PROVIDERS, bare_products
from benchmarks.results import (
    RESULTS,
    Machine,
    Row,
    describe_machine,
    make_row,
    read_rows,
    write_rows,
)


@dataclass(frozen=True)
class Goal:
    """A size, who is timed on it, and what is asked of fusedml.

    faster_than: {provider: least ratio of its time to ours}.  most_ms: time of a step.
    """

    n: int
    d: int
    dtype: str
    faster_than: dict[str, float]
    most_ms: float | None = None

    @property
    def case(self) -> Case:
        return Case("MultiSimilarityLoss", self.n, self.d, dtype=self.dtype, device="cuda")


GOALS = (
    Goal(512, 128, "bfloat16", {DENSE: 5}),
    Goal(16384, 512, "bfloat16", {DENSE: 5}),
    Goal(16384, 512, "float32", {DENSE: 2}),
    Goal(65536, 768, "bfloat16", {}, most_ms=45),
    Goal(65536, 128, "bfloat16", {}),
    Goal(262144, 512, "bfloat16", {}),
    # last, as compiling takes a quarter of a minute
    Goal(16384, 512, "bfloat16", {COMPILED: 2}),
)


def first_step(case: Case, problem: Problem, loss: LossFunction) -> Usage:
    """Runs a provider twice: to compile and load, then for its memory."""
    try:
        run_step(case, problem, loss)
        values: list[Tensor] = []
        start = time.perf_counter()
        peak = measure_peak(lambda: values.append(run_step(case, problem, loss)), case.device)
        return Usage("ok", peak / 1e6, time.perf_counter() - start, float(values[0]))
    except Exception as error:
        return Usage(outcome_of(error))


def measure(goal: Goal, case: Case, seconds: float) -> list[Row]:
    """The rows of one size."""
    machine = describe_machine(case.device, torch.get_num_threads())
    try:
        return _measure(goal, case, seconds, machine)
    except Exception as error:  # after a fault of the GPU nothing else runs either
        usage = Usage(outcome_of(error))
        return [make_row(case, name, machine, usage) for name in (FUSED, *goal.faster_than)]


def _measure(goal: Goal, case: Case, seconds: float, machine: Machine) -> list[Row]:
    problem = make_problem(case)
    usages, steps = {}, {}
    for name in (FUSED, *goal.faster_than):
        loss = PROVIDERS[name](case, problem)
        usages[name] = first_step(case, problem, loss)
        if usages[name].outcome == "ok":
            steps[name] = lambda loss=loss: run_step(case, problem, loss)
    timings = interleave(
        {**steps, PRODUCTS: bare_products(case, problem)},
        min_rounds=3,
        seconds=seconds,
        device=case.device,
    )
    return [
        make_row(case, name, machine, usage, timings.get(name), timings[PRODUCTS].median_ms)
        for name, usage in usages.items()
    ]


def verdicts(goal: Goal, rows: list[Row]) -> list[str]:
    """What the goal asks for, beside what was measured."""
    found = {row.provider: row for row in rows}
    ours = found[FUSED]
    lines = []
    for name, least in goal.faster_than.items():
        ratio = found[name].median_ms / ours.median_ms
        lines.append(_verdict(f"{least:g}x faster than {name}", f"{ratio:.2f}x", ratio >= least))
    if goal.most_ms is not None:
        most = goal.most_ms
        lines.append(
            _verdict(f"at most {most:g} ms", f"{ours.median_ms:.2f} ms", ours.median_ms <= most)
        )
    if not lines:
        lines.append(_verdict("runs", ours.outcome, ours.outcome == "ok"))
    return lines


def _verdict(goal: str, measured: str, is_met: bool) -> str:
    return f"    {'met    ' if is_met else 'NOT MET'} {goal}: {measured}"


def line(row: Row) -> str:
    if row.outcome != "ok":
        return f"    {row.provider:16} {row.outcome}"
    return (
        f"    {row.provider:16} {row.median_ms:9.3f} ms ({row.p20_ms:.3f} to {row.p80_ms:.3f}), "
        f"{row.peak_extra_mb:9.1f} MB above the inputs"
    )


def is_lost(device: str) -> bool:
    """Whether the GPU has faulted, after which nothing runs on it in this process."""
    if torch.device(device).type != "cuda":
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def go_on_in_a_new_process(arguments: Sequence[str], first: int) -> None:
    """Replaces this process by one that begins with goal ``first``."""
    print("the GPU has faulted: a new process goes on", flush=True)
    command = [sys.executable, "-m", "benchmarks.gpu_goals", *arguments, "--first", str(first)]
    os.execv(sys.executable, command)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu_goals.csv")
    parser.add_argument("--seconds", type=float, default=4, help="of rounds for each size")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shrink", type=int, default=1, help="divides n, to try the script itself")
    parser.add_argument("--eager", action="store_true", help="without the compiled provider")
    parser.add_argument("--first", type=int, default=0, help="goal to begin with")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = make_parser().parse_args(arguments)
    torch.set_float32_matmul_precision("highest")
    goals = [goal for goal in GOALS if not (options.eager and COMPILED in goal.faster_than)]
    rows: list[Row] = read_rows(options.output) if options.first else []
    for index in range(options.first, len(goals)):
        goal = goals[index]
        case = replace(goal.case, n=max(8, goal.n // options.shrink), device=options.device)
        print(f"n = {case.n}, d = {case.d}, {case.dtype}", flush=True)
        new = measure(goal, case, options.seconds)
        rows += new
        write_rows(options.output, rows)  # after each size: an interrupted run keeps its rows
        print(*map(line, new), *verdicts(goal, new), sep="\n", flush=True)
        if is_lost(options.device):
            go_on_in_a_new_process(arguments, index + 1)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    print(f"bare products and all figures: {options.output}")
    return 0 if all(row.outcome == "ok" for row in rows if row.provider == FUSED) else 1


if __name__ == "__main__":
    raise SystemExit(main())
