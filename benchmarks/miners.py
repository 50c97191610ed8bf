"""Miners: time and peak memory of a call, ours beside pytorch-metric-learning's of the same name.

Both are given the same arguments, which each of our classes says: with them the list that is mined
grows with the batch, not with its square.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.cases import FORWARD, Case, LossFunction, Problem, UnavailableError, make_problem
from benchmarks.harness import Timing, interleave
from benchmarks.memory import Usage, run_step
from benchmarks.progress import Progress
from benchmarks.providers import FUSED, PML
from benchmarks.results import NAN, Machine
from benchmarks.runner import Limits, Stops, measured
from fusedml import miners

MINERS: Mapping[str, type[miners.BaseMiner]] = {
    name: miner
    for name in miners.__all__
    if not inspect.isabstract(miner := getattr(miners, name)) and miner.measures_pairs
}


@dataclass(frozen=True)
class MinerCase(Case):
    """A miner, in ``loss`` by its name, on a batch; see ``Case``."""

    direction: str = FORWARD

    def __post_init__(self) -> None:
        if self.loss not in MINERS:
            raise ValueError(f"miner must be one of {', '.join(MINERS)}, got {self.loss!r}")

    @property
    def kind(self) -> type:
        """The miner's class."""
        return MINERS[self.loss]

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Of the matrix of all pairs."""
        return self.n, self.n


@dataclass(frozen=True)
class MinerRow:
    """One line of a results file.

    listed: how many pairs or triplets were mined.  *_ms: milliseconds a call.
    peak_extra_mb: 10^6 bytes above the inputs, the list among them.
    """

    miner: str
    provider: str
    n: int
    d: int
    samples_per_class: int
    dtype: str
    outcome: str
    listed: float
    median_ms: float
    p20_ms: float
    p80_ms: float
    rounds: int
    peak_extra_mb: float
    device: str
    threads: int
    torch: str
    cuda: str
    commit: str
    date: str


def _counted(miner: Callable[..., Sequence[Tensor]], problem: Problem) -> LossFunction:
    """A call of a miner; returned is how long its list is."""

    def call() -> Tensor:
        mined = miner(problem.embeddings, problem.labels)
        return torch.tensor(float(len(mined[0]) + (len(mined[2]) if len(mined) == 4 else 0)))

    return call


def fused(case: Case, problem: Problem) -> LossFunction:
    """fusedml's miner."""
    kind = MINERS[case.loss]
    return _counted(kind(**kind.example_arguments), problem)


def pytorch_metric_learning(case: Case, problem: Problem) -> LossFunction:
    """pytorch-metric-learning's miner of the same name."""
    try:
        theirs = importlib.import_module("pytorch_metric_learning.miners")
    except ImportError as error:
        raise UnavailableError(f"not installed: {error}") from error
    if not hasattr(theirs, case.loss):
        raise UnavailableError(f"not offered: has no {case.loss}")
    return _counted(getattr(theirs, case.loss)(**MINERS[case.loss].example_arguments), problem)


MINER_PROVIDERS = {FUSED: fused, PML: pytorch_metric_learning}


_Found = tuple[str, Usage, Timing | None]


def compare(case: MinerCase, names: Sequence[str], limits: Limits, stops: Stops) -> list[_Found]:
    """What one case takes: memory in a process each, then times in interleaved rounds.

    Ours is wrong if its list is not as long as theirs, but for pairs at the very margin.
    """
    usages = {name: measured(case, name, MINER_PROVIDERS[name], limits, stops) for name in names}
    ours, theirs = (usages[name].loss if name in usages else NAN for name in (FUSED, PML))
    if abs(ours - theirs) > 1 + 1e-3 * theirs:  # False where one of them is NaN
        usages[FUSED] = Usage(f"wrong: lists {ours:.0f}, {PML} {theirs:.0f}")
    fitting = [name for name in names if usages[name].outcome == "ok"]
    problem = make_problem(case) if fitting else None
    steps: dict[str, Callable[[], object]] = {
        name: partial(run_step, case, problem, MINER_PROVIDERS[name](case, problem))
        for name in fitting
        if problem is not None
    }
    timings = interleave(steps, min_rounds=limits.rounds, seconds=limits.seconds)
    return [(name, usages[name], timings.get(name)) for name in names]


def run(
    plan: Mapping[Case, Sequence[str]],
    limits: Limits,
    machine: Machine,
    on_rows: Callable[[Sequence[MinerRow]], None],
) -> list[MinerRow]:
    """All rows of a plan, under a progress bar.  on_rows: is given those so far, case by case."""
    rows: list[MinerRow] = []
    stops = Stops(limits.step_s)
    with Progress(sum(math.prod(case.matrix_shape) for case in plan)) as progress:
        for case, names in plan.items():
            assert isinstance(case, MinerCase)  # of this suite
            progress.describe(f"{case.loss} n={case.n}")
            rows += [_row(case, machine, *found) for found in compare(case, names, limits, stops)]
            on_rows(rows)
            progress.advance(math.prod(case.matrix_shape))
    return rows


def _row(
    case: MinerCase, machine: Machine, name: str, usage: Usage, timing: Timing | None
) -> MinerRow:
    timing = timing or Timing(NAN, NAN, NAN, 0)
    return MinerRow(
        case.loss,
        name,
        case.n,
        case.d,
        case.samples_per_class,
        case.dtype,
        usage.outcome,
        usage.loss,
        *(timing.median_ms, timing.p20_ms, timing.p80_ms),
        timing.rounds,
        usage.peak_extra_mb,
        **asdict(machine),
    )
