"""Measures the providers of one case after the other; who cannot keep up is a row that says so."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from benchmarks import memory
from benchmarks.cases import Case, Provider, make_problem
from benchmarks.harness import (
    FLOOR,
    PRODUCTS,
    Errors,
    Timing,
    WrongResultError,
    check,
    interleave,
    timed_steps,
)
from benchmarks.memory import Usage
from benchmarks.progress import Progress
from benchmarks.providers import FUSED, PML, PROVIDERS
from benchmarks.results import AnyRow, Machine, Row, make_row

# below so many pairs a step's time does not grow with them yet
_LEAST_PAIRS = 2**20


@dataclass(frozen=True)
class Limits:
    """What a case may take.

    seconds: of interleaved rounds, of which there are at least ``rounds``.
    memory_gb: 10^9 bytes above the inputs.  step_s: seconds of a provider's first step.
    """

    threads: int
    seconds: float = 4
    rounds: int = 5
    memory_gb: float = math.inf
    step_s: float = 60


@dataclass
class Stops:
    """Which provider stopped at which size, so that no larger one is tried.

    A size is its number of pairs; providers are told apart by loss, d, number type and direction.
    """

    limit_s: float
    _stopped: dict[tuple[str, ...], tuple[int, str]] = field(default_factory=dict)
    _seconds: dict[tuple[str, ...], tuple[int, float, str]] = field(default_factory=dict)

    def reason(self, case: Case, name: str) -> str | None:
        """Why the case is not tried, or None."""
        key, pairs = self._key(case, name), math.prod(case.matrix_shape)
        if key in self._stopped:
            stopped_pairs, why = self._stopped[key]
            if pairs >= stopped_pairs:
                return f"not tried: {why}"
        if key in self._seconds:
            smaller, seconds, size = self._seconds[key]
            expected = seconds * pairs / smaller
            if pairs > smaller >= _LEAST_PAIRS and expected > self.limit_s:
                return (
                    f"not tried: took {seconds:.3g} s at {size}, would take about "
                    f"{expected:.0f} s, more than {self.limit_s:g} s"
                )
        return None

    def note(self, case: Case, name: str, usage: Usage) -> None:
        """Remembers what became of a provider."""
        key, pairs = self._key(case, name), math.prod(case.matrix_shape)
        size = f"{case.num_classes} classes" if case.has_weights else f"n = {case.n}"
        if usage.outcome == "ok":
            self._seconds[key] = (pairs, usage.seconds, size)
        elif usage.outcome.startswith("out of "):
            self._stopped[key] = (pairs, f"{usage.outcome} at {size}")

    @staticmethod
    def _key(case: Case, name: str) -> tuple[str, ...]:
        return name, case.loss, str(case.d), case.dtype, case.direction


def check_agreement(usages: dict[str, Usage], case: Case) -> None:
    """Marks who differs from the dense version at the full size, where float64 is out of reach."""
    dense = usages.get("dense")
    if dense is None or dense.outcome != "ok":
        return
    for name, usage in usages.items():
        allowed = 10 * FLOOR[case.dtype] * abs(dense.loss)
        if usage.outcome == "ok" and not abs(usage.loss - dense.loss) <= allowed:
            usages[name] = Usage(f"wrong: {usage.loss:.7g}, dense: {dense.loss:.7g}")


def compare(
    case: Case,
    providers: dict[str, Provider],
    limits: Limits,
    machine: Machine,
    stops: Stops | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """The rows of one case, one for each provider.

    Each is measured in a process of its own and checked against float64; then those that are right
    and fit are timed in interleaved rounds.  on_step: is told what has been done.
    """
    stops = stops or Stops(limits.step_s)
    usages: dict[str, Usage] = {}
    errors: dict[str, Errors] = {}
    for name, provider in providers.items():
        usages[name] = measured(case, name, provider, limits, stops)
        if usages[name].outcome == "ok":
            try:
                errors[name] = check(case, provider, name)
            except WrongResultError as error:
                usages[name] = Usage(f"wrong: {error}")
            except Exception as error:
                usages[name] = Usage(memory.outcome_of(error))
        on_step(name)
    check_agreement(usages, case)
    timings, products_ms = _time(case, providers, usages, limits)
    on_step("timed")
    return [
        make_row(
            case, name, machine, usages[name], timings.get(name), products_ms, errors.get(name)
        )
        for name in providers
    ]


Found = tuple[str, Usage, Timing | None]


def beside_pml(
    case: Case,
    providers: Mapping[str, Provider],
    limits: Limits,
    stops: Stops,
    differs: Callable[[float, float], str],
) -> list[Found]:
    """What one case takes: memory in a process each, then times in interleaved rounds.

    differs: of what ours returns, and theirs: what is wrong with ours, or "".
    """
    usages = {name: measured(case, name, each, limits, stops) for name, each in providers.items()}
    ours, theirs = (usages[name].loss if name in usages else math.nan for name in (FUSED, PML))
    if not math.isnan(theirs) and (what := differs(ours, theirs)):
        usages[FUSED] = Usage(f"wrong: {what}")
    fitting = [name for name in providers if usages[name].outcome == "ok"]
    problem = make_problem(case) if fitting else None
    steps: dict[str, Callable[[], object]] = {
        name: partial(memory.run_step, case, problem, providers[name](case, problem))
        for name in fitting
        if problem is not None
    }
    timings = interleave(steps, min_rounds=limits.rounds, seconds=limits.seconds)
    return [(name, usages[name], timings.get(name)) for name in providers]


def run_beside_pml(
    plan: Mapping[Case, Sequence[str]],
    providers: Mapping[str, Provider],
    limits: Limits,
    differs: Callable[[float, float], str],
    rows_of: Callable[[Case, list[Found]], list[AnyRow]],
    on_rows: Callable[[Sequence[AnyRow]], None],
) -> list[AnyRow]:
    """All rows of a plan, of what ``beside_pml`` finds of each case and provider.

    Under a progress bar.  on_rows: is given those so far, case by case.
    """
    stops = Stops(limits.step_s)
    rows: list[AnyRow] = []
    with Progress(sum(map(_weight, plan))) as progress:
        for case, names in plan.items():
            progress.describe(f"{case.loss} n={case.n} d={case.d}")
            chosen = {name: providers[name] for name in names}
            found = beside_pml(case, chosen, limits, stops, differs)
            rows += rows_of(case, found)
            on_rows(rows)
            progress.advance(_weight(case))
    return rows


def measured(case: Case, name: str, provider: Provider, limits: Limits, stops: Stops) -> Usage:
    """What a provider takes in a process of its own, unless it stopped at a smaller size."""
    reason = stops.reason(case, name)
    if reason is not None:
        return Usage(reason)
    usage = memory.measure(provider, case, limits.threads, limits.memory_gb, limits.step_s)
    if usage.outcome == "ok" and usage.seconds > limits.step_s:  # a compiler's time is beside it
        usage = Usage("out of time")
    stops.note(case, name, usage)
    return usage


def _time(
    case: Case, providers: dict[str, Provider], usages: dict[str, Usage], limits: Limits
) -> tuple[dict[str, Timing], float]:
    """Timings of the providers that fit, and milliseconds of the bare products."""
    fitting = {name: usage for name, usage in usages.items() if usage.outcome == "ok"}
    if not fitting:
        return {}, math.nan
    timings = interleave(
        dict(timed_steps(case, {name: providers[name] for name in fitting})),
        min_rounds=limits.rounds,
        seconds=limits.seconds,
        device=case.device,
    )
    products_ms = timings[PRODUCTS].median_ms
    return timings, products_ms


def run(
    plan: dict[Case, list[str]],
    limits: Limits,
    machine: Machine,
    on_rows: Callable[[list[Row]], None],
) -> list[Row]:
    """All rows of a plan, under a progress bar with the time left.

    on_rows: is given the rows so far after each case, so that an interrupted run keeps them.
    """
    rows: list[Row] = []
    stops = Stops(limits.step_s)
    total = sum(_weight(case) * (len(names) + 1) for case, names in plan.items())
    with Progress(total) as progress:
        for case, names in plan.items():
            progress.describe(f"{case.loss} n={case.n} d={case.d} {case.dtype} {case.direction}")

            def advance(_: str, weight: float = _weight(case)) -> None:
                progress.advance(weight)

            providers = {name: PROVIDERS[name] for name in names}
            rows += compare(case, providers, limits, machine, stops, advance)
            on_rows(rows)
    return rows


def _weight(case: Case) -> float:
    """Seconds of a provider, roughly: a process, a few steps."""
    return 1 + 1e-10 * math.prod(case.matrix_shape) * case.d
