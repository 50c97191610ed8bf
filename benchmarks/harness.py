"""Checks a provider, then times it: no figure without a right result behind it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.cases import Case, Problem, Provider, as_dtype, make_problem
from benchmarks.full_matrix import dense_autograd, dense_compiled
from benchmarks.memory import run_step
from benchmarks.providers import bare_products

# what a correct provider may lose to sums in another order, beside twice the dense version's error
FLOOR = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-3}
# the dense version in float64 at the size of the check: seconds, not minutes
_LARGEST_CHECKED_N = 1024
# fewer are no measurement: tables and pictures mark them
LEAST_ROUNDS = 3
# a little less than the most that glibc takes for a size that the heap is to keep
_HEAP_LEARNS_BYTES = 31 << 20


class Errors(NamedTuple):
    """Differences from float64, relative to the size of the value and of the largest gradient."""

    value: float
    gradient: float


class WrongResultError(Exception):
    """A provider does not compute the loss that it is timed for."""


def _value_and_gradients(
    case: Case, provider: Provider, problem: Problem
) -> tuple[Tensor, list[Tensor]]:
    loss = provider(case, problem)()
    gradients = torch.autograd.grad(loss, problem.leaves)
    return loss.detach().double(), [gradient.double() for gradient in gradients]


def relative_errors(case: Case, provider: Provider) -> Errors:
    """Errors of value and gradient against the dense formula in float64."""
    problem = make_problem(case)
    exact = as_dtype(problem, torch.float64)
    value, gradients = _value_and_gradients(case, provider, problem)
    expected, expected_gradients = _value_and_gradients(case, dense_autograd, exact)
    tiny = torch.finfo(torch.float64).tiny
    return Errors(
        float((value - expected).abs() / expected.abs().clamp(min=tiny)),
        max(
            float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=tiny))
            for ours, theirs in zip(gradients, expected_gradients, strict=True)
        ),
    )


@lru_cache(maxsize=512)
def _errors_once(case: Case, provider: Provider) -> Errors:
    """All sizes above that of the check share one, which would take longer than many a timing."""
    return relative_errors(case, provider)


def check(case: Case, provider: Provider, name: str = "provider") -> Errors:
    """The provider's errors at the case's d and number type and at most 1024 rows and classes.

    Raises WrongResultError if an error is more than twice that of the dense version in the same
    number type, plus what another order of the sums may cost.
    """
    small = replace(
        case,
        n=min(case.n, _LARGEST_CHECKED_N),
        num_classes=min(case.num_classes, _LARGEST_CHECKED_N),
        num_references=min(case.num_references, _LARGEST_CHECKED_N),
    )
    errors, dense = _errors_once(small, provider), _errors_once(small, dense_autograd)
    floor = FLOOR[case.dtype]
    for kind, error, dense_error in zip(Errors._fields, errors, dense, strict=True):
        allowed = 2 * dense_error + floor
        if not error <= allowed:  # also catches NaN
            raise WrongResultError(
                f"{name} computes {case.loss} with a relative {kind} error of {error:.1e}, "
                f"expected at most {allowed:.1e} (n = {small.n}, d = {small.d}, {small.dtype})"
            )
    return errors


@dataclass(frozen=True)
class Timing:
    """Milliseconds a step: median, 20th and 80th percentile over the rounds."""

    median_ms: float
    p20_ms: float
    p80_ms: float
    rounds: int


def summarise(milliseconds: list[float]) -> Timing:
    """Median and percentiles of one or more times."""
    if len(milliseconds) == 1:
        return Timing(milliseconds[0], milliseconds[0], milliseconds[0], 1)
    fifths = statistics.quantiles(milliseconds, n=5, method="inclusive")
    return Timing(statistics.median(milliseconds), fifths[0], fifths[3], len(milliseconds))


def interleave(
    steps: dict[str, Callable[[], object]],
    *,
    min_rounds: int = 5,
    max_rounds: int = 25,
    seconds: float = 10,
    device: str = "cpu",
    on_round: Callable[[], None] = lambda: None,
) -> dict[str, Timing]:
    """Times the steps in turn, each two rounds beginning with another one, after a warm-up of each.

    As in a process that trains the C library's heap keeps freed memory up to tens of MB: glibc's
    learns it of a large tensor that is freed.  Otherwise it is a matter of luck which of the steps
    gives pages back, and has to have them zeroed again.

    At least ``min_rounds``, then until ``max_rounds`` or ``seconds`` are over.  A step shorter than
    10 ms is repeated within a round, so that the clock's grain and a stray interrupt weigh less,
    and as often before that without the clock: for some 10 ms a step pays for what a large one
    before it has left behind.  For the same reason every other round goes backwards.  A step longer
    than ``seconds`` by itself takes part in LEAST_ROUNDS of them only.
    """
    torch.empty(_HEAP_LEARNS_BYTES, dtype=torch.uint8, device="cpu")
    clock = _gpu_milliseconds if torch.device(device).type == "cuda" else _milliseconds
    times: dict[str, list[float]] = {name: [] for name in steps}
    repeats: dict[str, int] = {}
    long: set[str] = set()
    for name, step in steps.items():
        warm_up = clock(step, 1)  # the first call starts threads and loads code
        if warm_up > seconds * 1e3:
            long.add(name)
        # a first call may be much slower than the others only if it is short
        again = warm_up if warm_up > 1e3 else clock(step, 1)
        repeats[name] = max(1, min(200, int(10 / max(again, 1e-3))))
    start = time.perf_counter()
    for index in range(max_rounds if steps else 0):
        names = [name for name in steps if name not in long or index < LEAST_ROUNDS]
        if not names:
            break
        first = index // 2 % len(names)
        for name in (names[first:] + names[:first])[:: -1 if index % 2 else 1]:
            if repeats[name] > 1:
                clock(steps[name], repeats[name])
            times[name].append(clock(steps[name], repeats[name]))
        on_round()
        if index + 1 >= min_rounds and time.perf_counter() - start > seconds:
            break
    return {name: summarise(values) for name, values in times.items()}


def _milliseconds(step: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    return (time.perf_counter() - start) * 1e3 / repeats


def _gpu_milliseconds(step: Callable[[], object], repeats: int) -> float:
    # written before each step, so that no step finds its inputs in the L2 cache
    flush = torch.empty(2**28, dtype=torch.int8, device="cuda")
    total = 0.0
    for _ in range(repeats):
        flush.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        step()
        end.record()
        torch.cuda.synchronize()
        total += begin.elapsed_time(end)
    return total / repeats


PRODUCTS = "bare products"


def timed_steps(
    case: Case, providers: dict[str, Provider]
) -> Iterator[tuple[str, Callable[[], object]]]:
    """The steps of all providers on the same inputs, and the bare matrix products."""
    problem = make_problem(case)
    for name, provider in providers.items():
        step = partial(run_step, case, problem, provider(case, problem))
        if provider is dense_compiled:
            step()  # compiles, which is no part of a step
        yield name, step
    yield PRODUCTS, bare_products(case, problem)
