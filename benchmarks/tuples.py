"""Losses of the pairs that an index tuple lists, ours beside pytorch-metric-learning's.

How many pairs are listed decides how they are computed, so each loss is measured with lists of
several lengths: few pairs, a share of all, and what a miner lists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.cases import Case, LossFunction, Problem, Provider, make_problem
from benchmarks.harness import Timing
from benchmarks.memory import Usage
from benchmarks.miners import MINERS
from benchmarks.providers import FUSED, PML
from benchmarks.results import NAN, Machine
from benchmarks.runner import Found, Limits, run_beside_pml
from fusedml.losses import LOSSES
from fusedml.miners import BaseMiner

_SHARE = re.compile("1/([1-9][0-9]*)$")

# those with a vector for each class weigh the samples by how often they are listed
TUPLE_LOSSES = tuple(
    name for name, loss in LOSSES.items() if loss.takes_tuples and loss.agrees_with_pml
)


@dataclass(frozen=True)
class TupleCase(Case):
    """A loss on a batch and an index tuple, see ``Case``.

    listing: how many pairs are listed, "16", half of them positive where there are as many; or a
    share of all pairs, "1/4", likewise; or the name of a miner, whose arguments are its defaults.
    """

    listing: str = "1/4"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.listing in MINERS or self.listing.isdecimal() or _SHARE.match(self.listing)):
            raise ValueError(
                "listing must be a number of pairs, a share like '1/4' of all, or one of "
                f"{', '.join(MINERS)}, got {self.listing!r}"
            )


@dataclass(frozen=True)
class TupleRow:
    """One line of a results file.

    references: how many other embeddings the batch is compared with; 0: with itself.
    listed: the number of pairs, or of triplets.  *_ms: milliseconds a step.
    peak_extra_mb: 10^6 bytes above the inputs.
    """

    loss: str
    provider: str
    n: int
    d: int
    references: int
    samples_per_class: int
    listing: str
    listed: int
    dtype: str
    direction: str
    outcome: str
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


def make_tuple(case: TupleCase, problem: Problem) -> tuple[Tensor, ...]:
    """What the case lists of its problem: random pairs in the order of rows, or mined ones."""
    labels, others = problem.labels, problem.reference_labels
    if case.listing in MINERS:
        miner: BaseMiner = MINERS[case.listing]()
        references = problem.references
        given = () if references is None else (references.detach(), others)
        mined: tuple[Tensor, ...] = miner(problem.embeddings.detach(), labels, *given)
        return mined
    same = labels[:, None] == (labels if others is None else others)
    kinds = same, ~same
    if others is None:
        kinds = same.clone().fill_diagonal_(False), ~same
    number = int(case.listing) if case.listing.isdecimal() else same.numel() // _divisor(case)
    generator = torch.Generator().manual_seed(case.seed)
    chosen: list[Tensor] = []
    for kind in kinds:
        pairs = kind.nonzero()
        size = number // 2 if not chosen else number - chosen[0].shape[0]
        some = torch.randperm(pairs.shape[0], generator=generator)[:size].sort().values
        chosen += pairs[some].unbind(1)
    return tuple(chosen)


def _number(indices: tuple[Tensor, ...]) -> int:
    """Of the pairs, or the triplets."""
    return sum(ends.shape[0] for ends in (indices[::2] if len(indices) == 4 else indices[:1]))


def _divisor(case: TupleCase) -> int:
    share = _SHARE.match(case.listing)
    assert share is not None  # by __post_init__
    return int(share[1])


def _with_tuple(provider: Provider, case: Case, problem: Problem) -> LossFunction:
    """The provider's loss, of what the case lists."""
    assert isinstance(case, TupleCase)
    return provider(case, problem._replace(indices=make_tuple(case, problem)))


def fused(case: Case, problem: Problem) -> LossFunction:
    """fusedml's loss."""
    return _with_tuple(peers.fused, case, problem)


def pytorch_metric_learning(case: Case, problem: Problem) -> LossFunction:
    """pytorch-metric-learning's loss of the same name."""
    return _with_tuple(peers.pytorch_metric_learning, case, problem)


TUPLE_PROVIDERS: Mapping[str, Provider] = {FUSED: fused, PML: pytorch_metric_learning}


def _differs(ours: float, theirs: float) -> str:
    """What is wrong with a loss that is not theirs but for what sums in another order cost."""
    is_wrong = abs(ours - theirs) > 1e-4 * max(abs(theirs), 1e-2)  # False where ours is NaN
    return f"{ours:.7g}, {PML} {theirs:.7g}" if is_wrong else ""


def run(
    plan: Mapping[Case, Sequence[str]],
    limits: Limits,
    machine: Machine,
    on_rows: Callable[[Sequence[TupleRow]], None],
) -> list[TupleRow]:
    """All rows of a plan, under a progress bar.  on_rows: is given those so far, case by case."""

    def rows_of(case: Case, found: Sequence[Found]) -> list[TupleRow]:
        assert isinstance(case, TupleCase)
        listed = _number(make_tuple(case, make_problem(case)))
        return [_row(case, machine, listed, *each) for each in found]

    return run_beside_pml(plan, TUPLE_PROVIDERS, limits, _differs, rows_of, on_rows)


def _row(
    case: TupleCase, machine: Machine, listed: int, name: str, usage: Usage, timing: Timing | None
) -> TupleRow:
    timing = timing or Timing(NAN, NAN, NAN, 0)
    return TupleRow(
        case.loss,
        name,
        case.n,
        case.d,
        case.num_references,
        case.samples_per_class,
        case.listing,
        listed,
        case.dtype,
        case.direction,
        usage.outcome,
        *(timing.median_ms, timing.p20_ms, timing.p80_ms),
        timing.rounds,
        usage.peak_extra_mb,
        **asdict(machine),
    )
