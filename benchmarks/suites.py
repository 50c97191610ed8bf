"""What is measured to answer which question: the sets of cases behind ``bench --suite``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.cases import FORWARD_BACKWARD, MEASURED, Case, has_partners, has_weights
from benchmarks.miners import MINER_PROVIDERS, MINERS, MinerCase
from benchmarks.providers import (
    ANYWHERE,
    CHECKPOINT,
    COMPILED,
    CROSS_ENTROPY,
    CUT,
    DENSE,
    FUSED,
    GRADIENT_IN_FORWARD,
    INF_CL,
    PML,
    PROVIDERS,
    SENTENCE_TRANSFORMERS,
)
from benchmarks.tuples import TUPLE_LOSSES, TUPLE_PROVIDERS, TupleCase
from fusedml.losses import LOSSES

# compiling takes half a minute a size on a CPU, so only some cases have the compiled provider
_EAGER = tuple(name for name in ANYWHERE if name not in (COMPILED, CROSS_ENTROPY))
_MULTI_SIMILARITY = ("MultiSimilarityLoss",)
_TO_A_MILLION = tuple(name for name, loss in LOSSES.items() if loss.promises.to_a_million_classes)
_ONE_PAIR_A_CLASS = tuple(name for name, loss in LOSSES.items() if loss.members_per_class == 2)
# of queries and their documents
_RETRIEVAL = tuple(
    name
    for name, loss in MEASURED.items()
    if loss.promises.not_slower_in_retrieval_from is not None
)
_OF_TRIPLETS = tuple(
    f"{name} {variant}".strip()
    for name, loss in LOSSES.items()
    for variant in loss.in_sentence_transformers
)
# one whose pairs weigh alike, and one that weighs them
_IN_MEMORY = ("SupConLoss", "MultiSimilarityLoss")
# as many references as embeddings
AS_MANY = -1


def _growing(d: int) -> tuple[str, ...]:
    return tuple(name for name, loss in LOSSES.items() if d in loss.promises.growth_at)


def _promising(d: int) -> tuple[str, ...]:
    return tuple(name for name, loss in MEASURED.items() if d in loss.promises.speedup)


def powers_of_two(first: int, last: int) -> tuple[int, ...]:
    """first, 2 first, 4 first, ... up to last."""
    sizes = [first]
    while sizes[-1] * 2 <= last:
        sizes.append(sizes[-1] * 2)
    return tuple(sizes)


@dataclass(frozen=True)
class Grid:
    """All combinations of its fields.  references: 0 is the batch itself, AS_MANY means n.

    The losses of two sets have one pair a class, whatever references and samples_per_class are.
    """

    losses: tuple[str, ...]
    providers: tuple[str, ...]
    n: tuple[int, ...]
    d: tuple[int, ...] = (128,)
    num_classes: tuple[int, ...] = (10000,)
    references: tuple[int, ...] = (0,)
    samples_per_class: tuple[int, ...] = (4,)
    dtypes: tuple[str, ...] = ("float32",)
    directions: tuple[str, ...] = (FORWARD_BACKWARD,)
    in_memory: bool = False

    def cases(self, device: str) -> list[Case]:
        """The cases, small ones first; num_classes is of the losses that learn their vectors."""
        combinations = itertools.product(
            self.n,
            self.num_classes,
            self.references,
            self.d,
            self.losses,
            self.samples_per_class,
            self.dtypes,
            self.directions,
        )
        return [
            Case(
                loss,
                n,
                d,
                1 if has_partners(loss) else samples,
                # a number of classes means nothing to the others: equal cases, measured once
                classes if has_weights(loss) else self.num_classes[0],
                dtype,
                direction,
                device,
                num_references=n if has_partners(loss) or references == AS_MANY else references,
                in_memory=self.in_memory,
            )
            for n, classes, references, d, loss, samples, dtype, direction in combinations
        ]


@dataclass(frozen=True)
class MinerGrid:
    """All combinations of its fields, of miners with the arguments that their classes say."""

    miners: tuple[str, ...]
    providers: tuple[str, ...]
    n: tuple[int, ...]
    d: tuple[int, ...] = (128,)
    samples_per_class: tuple[int, ...] = (4,)
    dtypes: tuple[str, ...] = ("float32",)

    def cases(self, device: str) -> list[Case]:
        """The cases, small ones first."""
        combinations = itertools.product(
            self.n, self.d, self.miners, self.samples_per_class, self.dtypes
        )
        return [
            MinerCase(miner, n, d, samples, dtype=dtype, device=device)
            for n, d, miner, samples, dtype in combinations
        ]


def _is_possible(loss: str, n: int, references: int, listing: str) -> bool:
    """Whether the loss takes the references, and a list of so many pairs is one of few."""
    if references and not LOSSES[loss].takes_references:
        return False
    m = n if references in (0, AS_MANY) else references
    return not listing.isdecimal() or 2 * int(listing) <= n * m


@dataclass(frozen=True)
class TupleGrid:
    """All combinations of its fields, of losses with index tuples; references as in ``Grid``."""

    losses: tuple[str, ...]
    providers: tuple[str, ...]
    n: tuple[int, ...]
    listings: tuple[str, ...]
    d: tuple[int, ...] = (128,)
    references: tuple[int, ...] = (0, AS_MANY)
    samples_per_class: tuple[int, ...] = (4,)
    dtypes: tuple[str, ...] = ("float32",)
    directions: tuple[str, ...] = (FORWARD_BACKWARD,)

    def cases(self, device: str) -> list[Case]:
        """The cases, small ones first; with references only of losses that take them, and
        without numbers of more than half of the pairs.
        """
        combinations = itertools.product(
            self.n,
            self.d,
            self.losses,
            self.references,
            self.listings,
            self.samples_per_class,
            self.dtypes,
            self.directions,
        )
        return [
            TupleCase(
                loss,
                n,
                d,
                samples,
                dtype=dtype,
                direction=direction,
                device=device,
                num_references=n if references == AS_MANY else references,
                listing=listing,
            )
            for n, d, loss, references, listing, samples, dtype, direction in combinations
            if _is_possible(loss, n, references, listing)
        ]


@dataclass(frozen=True)
class Suite:
    """A question and the cases that answer it.

    seconds: of interleaved rounds for each case, of which there are at least ``rounds``.
    minutes: how long it takes on two cores, for the user to know.
    """

    question: str
    grids: tuple[Grid | MinerGrid | TupleGrid, ...]
    seconds: float
    rounds: int
    minutes: float

    def plan(self, device: str) -> dict[Case, list[str]]:
        """The providers of each case, in the order of PROVIDERS."""
        wanted: dict[Case, set[str]] = {}
        for grid in self.grids:
            for case in grid.cases(device):
                wanted.setdefault(case, set()).update(grid.providers)
        cases = sorted(wanted, key=lambda case: (case.n, case.d))  # stable: else as listed
        return {case: [name for name in PROVIDERS if name in wanted[case]] for case in cases}


_ALL_N = powers_of_two(256, 65536)

SUITES: dict[str, Suite] = {
    "quick": Suite(
        "How much faster and smaller, on this machine?",
        (
            Grid(tuple(MEASURED), _EAGER, (256, 2048)),
            Grid(_MULTI_SIMILARITY, _EAGER, (1024, 4096)),
            Grid(_MULTI_SIMILARITY, _EAGER, (1024,), (32, 256, 1024)),
            Grid(_MULTI_SIMILARITY, (COMPILED,), (2048,)),
        ),
        seconds=1.5,
        rounds=3,
        minutes=4,
    ),
    "losses": Suite(
        "Every loss at a small and at a large batch: the table of docs/measurements.md.",
        (
            Grid(tuple(MEASURED), _EAGER, (256, 1024, 4096)),
            Grid(_promising(512), _EAGER, (256, 1024, 4096), (512,)),
        ),
        seconds=1,
        rounds=3,
        minutes=17,
    ),
    "scaling": Suite(
        "How do time and memory grow with the batch, and where does each provider stop?",
        (
            *(Grid(_growing(d), _EAGER, _ALL_N, (d,)) for d in (128, 512)),
            Grid(_growing(128), (COMPILED,), (1024, 4096, 16384, 32768)),
        ),
        seconds=1,
        rounds=3,
        minutes=27,
    ),
    "proxies": Suite(
        "From a hundred to a million classes.",
        (
            Grid(
                _TO_A_MILLION,
                _EAGER,
                (512,),
                num_classes=(100, 1000, 10_000, 100_000, 1_000_000),
                samples_per_class=(8,),
            ),
        ),
        seconds=3,
        rounds=3,
        minutes=8,
    ),
    "retrieval": Suite(
        "Queries and their documents, as retrieval models are trained: against F.cross_entropy.",
        (
            Grid(
                _RETRIEVAL,
                (FUSED, DENSE, CROSS_ENTROPY),
                powers_of_two(128, 8192),
                (256, 768),
                references=(AS_MANY,),
                samples_per_class=(1,),
            ),
        ),
        seconds=2,
        rounds=5,
        minutes=6,
    ),
    "memory-bank": Suite(
        "A batch against a full CrossBatchMemory, ours and pytorch-metric-learning's.",
        (
            Grid(
                _IN_MEMORY,
                (FUSED, PML),
                (512,),
                references=(65536,),
                samples_per_class=(8,),
                in_memory=True,
            ),
        ),
        seconds=10,
        rounds=5,
        minutes=2,
    ),
    "latency": Suite(
        "What does a step of a small batch cost, Python included, and where does the time go?",
        (Grid(tuple(LOSSES), (FUSED, DENSE, PML), (64, 256, 1024)),),
        seconds=1,
        rounds=9,
        minutes=6,
    ),
    "triplets": Suite(
        "All triplets, and FaceNet's, against libraries that hold a cube, or a matrix, of them.",
        (Grid(_OF_TRIPLETS, (FUSED, DENSE, PML, SENTENCE_TRANSFORMERS), (256, 1024, 4096, 16384)),),
        seconds=2,
        rounds=3,
        minutes=4,
    ),
    "miners": Suite(
        "What does mining cost, and where does a matrix of all pairs, or a cube of triplets, stop?",
        (MinerGrid(tuple(MINERS), tuple(MINER_PROVIDERS), (256, 1024, 4096, 16384)),),
        seconds=1,
        rounds=3,
        minutes=12,
    ),
    "tuples": Suite(
        "Losses of the pairs that an index tuple lists: few, a share of all, and a miner's.",
        (
            TupleGrid(
                TUPLE_LOSSES,
                tuple(TUPLE_PROVIDERS),
                (64, 300),
                ("16", "60", "300", "1/50", "1/4", "MultiSimilarityMiner", "TripletMarginMiner"),
            ),
        ),
        seconds=1.2,
        rounds=5,
        minutes=40,
    ),
    "accuracy": Suite(
        "How far from float64, by number type and, on a GPU, by precision of products?",
        (
            Grid(
                tuple(MEASURED),
                (FUSED, DENSE, GRADIENT_IN_FORWARD, PML),
                (256,),
                dtypes=("float64", "float32", "bfloat16", "float16"),
            ),
        ),
        seconds=0,
        rounds=1,
        minutes=2,
    ),
    "gpu": Suite(
        "The first look at a GPU: fusedml against the dense formula, row chunks and GPU peers.",
        (
            Grid(
                _growing(128),
                (FUSED, DENSE, CHECKPOINT, GRADIENT_IN_FORWARD),
                (1024, 16384),
                (512,),
                dtypes=("bfloat16",),
            ),
            Grid(
                _ONE_PAIR_A_CLASS,
                (FUSED, DENSE, GRADIENT_IN_FORWARD, CUT, INF_CL),
                (65536,),
                (512,),
                dtypes=("bfloat16",),
            ),
            Grid(
                _TO_A_MILLION,
                (FUSED, DENSE, GRADIENT_IN_FORWARD),
                (4096,),
                (512,),
                (100_000,),
                dtypes=("bfloat16",),
            ),
        ),
        seconds=2,
        rounds=5,
        minutes=3,
    ),
}


def refined(suite: Suite, given: dict[str, Sequence[object]]) -> Suite:
    """The suite with the fields that were ``given`` in place of its own, in every grid.

    Grids that differ only in what was given become one.  Raises ValueError for a field that the
    suite has not.
    """
    for name, values in given.items():
        if not all(name in grid.__dataclass_fields__ for grid in suite.grids):
            raise ValueError(f"{name} must not be given for this suite, got {values}")
    grids: list[Grid | MinerGrid | TupleGrid] = [replace(grid, **given) for grid in suite.grids]  # type: ignore[arg-type]
    return Suite(
        suite.question,
        tuple(dict.fromkeys(grids)),
        suite.seconds,
        suite.rounds,
        suite.minutes,
    )
