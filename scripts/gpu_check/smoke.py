"""Is it right at all, and of which order is its time?  Each loss once, and one large step."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import torch

from benchmarks.cases import Case, make_problem
from benchmarks.memory import run_step
from benchmarks.providers import fused
from fusedml.losses import LOSSES
from tests.gpu.device import BACKEND, DEVICE, why_not
from tests.loss_accuracy import check_loss
from tests.number_types import NUMBER_TYPES

# both routes of the backward
_SIZES = ((1030, 128), (900, 512))
_TYPES = ("bfloat16", "highest")


def check(name: str, size: tuple[int, int], number_type: str) -> str | None:
    """What is wrong with a loss, in a line; None if nothing."""
    n, d = size
    case = Case(name, n, d, num_classes=max(300, n), dtype="float64", device=DEVICE)
    try:
        check_loss(case, NUMBER_TYPES[number_type], BACKEND)
    except (AssertionError, RuntimeError) as error:
        return str(error).splitlines()[0]
    return None


def check_all(shrink: int) -> bool:
    """Whether every loss is right; a line for each that is not."""
    is_right = True
    sizes = [(max(9, n // shrink), max(5, d // shrink)) for n, d in _SIZES]
    for size in dict.fromkeys(sizes):  # a rehearsal's are the same
        for number_type in _TYPES:
            for name in LOSSES:
                wrong = check(name, size, number_type)
                if wrong is not None:
                    print(f"{name} {size} {number_type}: {wrong}", flush=True)
                    is_right = False
    return is_right


def milliseconds(case: Case) -> list[float]:
    """Of three steps, after one to load the kernels."""
    problem = make_problem(case)
    loss = fused(case, problem)
    times = []
    for _ in range(4):
        _wait(case.device)
        start = time.perf_counter()
        run_step(case, problem, loss)
        _wait(case.device)
        times.append((time.perf_counter() - start) * 1e3)
    return times[1:]


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main(arguments: Sequence[str] | None = None) -> int:
    """1 if a loss is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shrink", type=int, default=1, help="divides all sizes")
    shrink = parser.parse_args(arguments).shrink
    reason = why_not()
    if reason is not None:
        print(f"smoke: {reason}")
        return 1
    is_right = check_all(shrink)
    print(f"losses right: {is_right}", flush=True)
    n, d = max(8, 65536 // shrink), max(8, 768 // shrink)
    case = Case("MultiSimilarityLoss", n, d, dtype="bfloat16", device=DEVICE)
    print(f"a step of {n} x {d}: " + ", ".join(f"{ms:.2f} ms" for ms in milliseconds(case)))
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
