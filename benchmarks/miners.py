"""Miners: time and peak memory of a call, ours beside pytorch-metric-learning's of the same name.

Both are given the same arguments, which each of our classes says: with them the list that is mined
grows with the batch, not with its square.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from benchmarks.cases import FORWARD, Case, LossFunction, Problem, UnavailableError
from benchmarks.harness import Timing
from benchmarks.memory import Usage
from benchmarks.providers import FUSED, PML
from benchmarks.results import NAN, Machine
from benchmarks.runner import Found, Limits, run_beside_pml
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


def _differs(ours: float, theirs: float) -> str:
    """What is wrong with a list that is not as long as theirs, but for pairs at the very margin."""
    is_wrong = abs(ours - theirs) > 1 + 1e-3 * theirs  # False where ours is NaN
    return f"lists {ours:.0f}, {PML} {theirs:.0f}" if is_wrong else ""


def run(
    plan: Mapping[Case, Sequence[str]],
    limits: Limits,
    machine: Machine,
    on_rows: Callable[[Sequence[MinerRow]], None],
) -> list[MinerRow]:
    """All rows of a plan, under a progress bar.  on_rows: is given those so far, case by case."""

    def rows_of(case: Case, found: Sequence[Found]) -> list[MinerRow]:
        return [_row(case, machine, *each) for each in found]

    return run_beside_pml(plan, MINER_PROVIDERS, limits, _differs, rows_of, on_rows)


def _row(case: Case, machine: Machine, name: str, usage: Usage, timing: Timing | None) -> MinerRow:
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
