"""How far does this machine go?  One step, forward and backward, at n = 65536, d = 128.

    make limits
    python -m examples.limits --n 16384 --losses MultiSimilarityLoss NTXentLoss

Works up to n in steps of four, each in a process of its own, and says what the full matrix would
need there: its peak is measured at n = 2048 and grows with the number of pairs.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import replace

import torch
from tqdm import tqdm

from benchmarks import memory
from benchmarks.cases import Case
from benchmarks.providers import Provider, dense_autograd, fused
from fusedml.losses import LOSSES

_DENSE_N = 2048


def sizes_up_to(n: int) -> list[int]:
    """n and n / 4, n / 16, ... down to 1024, in rising order."""
    sizes = [n]
    while sizes[0] // 4 >= 1024:
        sizes.insert(0, sizes[0] // 4)
    return sizes


def predicted_seconds(seconds: float, small: Case, large: Case) -> float:
    """The time at ``large`` if it grows with the number of pairs, for the progress bar."""
    return seconds * math.prod(large.matrix_shape) / max(1, math.prod(small.matrix_shape))


def dense_gb(case: Case, threads: int) -> float:
    """What the full matrix would need at ``case``, GB (10^9 bytes)."""
    small = replace(case, n=min(case.n, _DENSE_N), num_classes=min(case.num_classes, _DENSE_N))
    usage = memory.measure(dense_autograd, small, threads, memory.available_gb())
    return predicted_seconds(usage.peak_extra_mb, small, case) / 1e3


def measure_with_bar(
    provider: Provider, case: Case, threads: int, expected_seconds: float
) -> memory.Usage:
    """``memory.measure``, with a bar that fills in the expected time."""
    total = max(expected_seconds, 0.1)
    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, about {remaining} left"
    with (
        ThreadPoolExecutor(1) as pool,
        tqdm(total=total, desc=f"{case.loss} n={case.n}", bar_format=form, leave=False) as bar,
    ):
        future = pool.submit(
            memory.measure, provider, case, threads, 0.9 * memory.available_gb(), 3600
        )
        while True:
            try:
                return future.result(timeout=0.2)
            except NotYet:
                bar.update(min(0.2, total - bar.n))


def make_cases(loss: str, options: argparse.Namespace) -> list[Case]:
    """The cases of a loss in rising size; each class has a proxy, for the losses with proxies."""
    samples = options.samples_per_class
    return [
        Case(loss, n, options.d, samples, max(1, -(-n // max(1, samples))))
        for n in sizes_up_to(options.n)
    ]


def climb(cases: Sequence[Case], threads: int) -> bool:
    """Measures and prints case after case until one does not fit; whether all did."""
    expected = 1.0
    for case, next_case in zip(cases, [*cases[1:], cases[-1]], strict=True):
        usage = measure_with_bar(fused, case, threads, expected)
        if usage.outcome != "ok":
            print(f"{case.loss:<31} {case.n:>7} {usage.outcome}")
            return False
        print(
            f"{case.loss:<31} {case.n:>7} {usage.seconds:>9.2f} {usage.peak_extra_mb:>9.1f} "
            f"{dense_gb(case, threads):>21.2f}",
            flush=True,
        )
        expected = predicted_seconds(usage.seconds, case, next_case)
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=65536)
    parser.add_argument("--d", type=int, default=128)
    parser.add_argument("--samples-per-class", type=int, default=4)
    parser.add_argument(
        "--losses", nargs="+", choices=LOSSES, default=["MultiSimilarityLoss"], metavar="LOSS"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    try:
        cases = {loss: make_cases(loss, options) for loss in options.losses}
    except ValueError as error:
        parser.error(str(error))
    print(
        f"one step, forward and backward, d = {options.d}, float32, {options.threads} threads\n"
        f"{'loss':<31} {'n':>7} {'seconds':>9} {'extra MB':>9} {'dense, GB (computed)':>21}"
    )
    outcomes = [climb(steps, options.threads) for steps in cases.values()]
    return 0 if all(outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
