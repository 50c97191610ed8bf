"""Where the time of a fusedml step goes, from the profiler's time line of its operators.

A step is cut at what every step has, whatever the code between does: the norms of the embeddings,
the operators of fusedml, and the end of the forward.  The profiler slows a step down, so the
parts are given as shares of it, and as milliseconds of the step without the profiler.
"""

from __future__ import annotations

import gc
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.cases import FORWARD, Case, LossFunction, Problem, make_problem
from benchmarks.harness import interleave
from benchmarks.memory import run_step
from benchmarks.peers import fused
from benchmarks.progress import Progress
from benchmarks.results import Machine

_FORWARD, _BACKWARD = "bench: forward", "bench: backward"
_NORM = "aten::linalg_vector_norm"
# the operators, and the autograd functions around them: one computes small problems by itself
_OPERATORS = ("fusedml::", "FusedOperator", "SmallOperator")

PARTS = (
    "checks and batch",  # from the call to the first norm
    "normalisation",  # from there to the first operator; a small problem's is in the operator
    "forward operator",
    "between operators",
    "head and reduction",  # from the last operator to the result
    "backward operator",
    "autograd and normalisation backward",  # the rest of the backward
    "remaining Python",  # between forward and backward, and around them
)


@dataclass(frozen=True)
class BreakdownRow:
    """One part of a step: its share of the step, and the milliseconds that this makes."""

    loss: str
    n: int
    d: int
    dtype: str
    part: str
    share: float
    part_ms: float
    step_ms: float
    device: str
    threads: int
    torch: str
    cuda: str
    commit: str
    date: str


class Span(NamedTuple):
    """An operator of the time line, microseconds."""

    name: str
    start: float
    end: float


def break_down(spans: Sequence[Span], step: Span) -> dict[str, float]:
    """Microseconds of each of PARTS in one step.

    spans: operators and the marks of forward and backward, nested ones too.  Without an operator of
    fusedml everything from the first norm on is "normalisation", without a norm nothing is.
    """
    inside = [span for span in spans if step.start <= span.start and span.end <= step.end]
    (forward,) = (span for span in inside if span.name == _FORWARD)
    backward = next((span for span in inside if span.name == _BACKWARD), None)
    operators = _outermost([span for span in inside if span.name.startswith(_OPERATORS)])
    own = [span for span in operators if span.end <= forward.end]
    first = own[0].start if own else forward.end
    norms = [span.start for span in inside if span.name == _NORM and span.start <= first]
    checked = min(norms) if norms else first
    parts = dict.fromkeys(PARTS, 0.0)
    parts["checks and batch"] = checked - forward.start
    parts["normalisation"] = first - checked
    if own:
        parts["forward operator"] = sum(span.end - span.start for span in own)
        parts["between operators"] = own[-1].end - own[0].start - parts["forward operator"]
        parts["head and reduction"] = forward.end - own[-1].end
    if backward is not None:
        parts["backward operator"] = sum(
            span.end - span.start for span in operators if span.start >= backward.start
        )
        rest = backward.end - backward.start - parts["backward operator"]
        parts["autograd and normalisation backward"] = rest
    parts["remaining Python"] = step.end - step.start - sum(parts.values())
    return parts


def _outermost(spans: list[Span]) -> list[Span]:
    result: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if not result or span.start >= result[-1].end:
            result.append(span)
    return result


def _marked_step(case: Case, problem: Problem, loss_function: LossFunction) -> None:
    with record_function("bench: step"):
        with torch.set_grad_enabled(case.direction != FORWARD), record_function(_FORWARD):
            loss = loss_function()
        if case.direction != FORWARD:
            with record_function(_BACKWARD):
                torch.autograd.grad(loss, problem.leaves)


def measure(case: Case, machine: Machine, seconds: float = 0.5) -> list[BreakdownRow]:
    """The parts of a step of fusedml: medians over 5 to 20 profiled ones.

    seconds: for the time of the step without the profiler, and about those of the profiled steps.
    """
    # the events of the case before are a cyclic heap of up to a GB, which slows this one down
    gc.collect()
    problem = make_problem(case)
    loss_function = fused(case, problem)
    timing = interleave(
        {"step": partial(run_step, case, problem, loss_function)},
        seconds=seconds,
        device=case.device,
    )["step"]
    steps = max(5, min(20, int(seconds * 1e3 / timing.median_ms)))
    for _ in range(3):
        _marked_step(case, problem, loss_function)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            _marked_step(case, problem, loss_function)
    spans = [
        Span(event.name, event.time_range.start, event.time_range.end)
        for event in profiler.events()
    ]
    found = [break_down(spans, span) for span in spans if span.name == "bench: step"]
    medians = {part: statistics.median(each[part] for each in found) for part in PARTS}
    total = sum(medians.values())
    return [
        BreakdownRow(
            case.loss,
            case.n,
            case.d,
            case.dtype,
            part,
            value / total,
            value / total * timing.median_ms,
            timing.median_ms,
            **asdict(machine),
        )
        for part, value in medians.items()
    ]


def run(
    cases: Sequence[Case],
    machine: Machine,
    on_rows: Callable[[Sequence[BreakdownRow]], None],
) -> list[BreakdownRow]:
    """All cases' parts, under a progress bar.  on_rows: is given those so far, after each case."""
    # the profiler's own notes would break the progress bar
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    rows: list[BreakdownRow] = []
    with Progress(len(cases)) as progress:
        for case in cases:
            progress.describe(f"where the time goes: {case.loss} n={case.n}")
            rows += measure(case, machine)
            on_rows(rows)
            progress.advance()
    return rows
