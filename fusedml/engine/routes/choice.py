"""Which route a batch takes, by what it is called with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor, nn

from fusedml.distances import check_distance, fused_measure, sign_of
from fusedml.engine import autograd
from fusedml.engine.backends import DENSE, has_kernels, require_backend
from fusedml.engine.caller import warn_caller
from fusedml.engine.pairs import PairProblem
from fusedml.engine.precision import owned, prepared, tile_dtype
from fusedml.engine.routes.blocks import BLOCK_ELEMENTS, BlockedPairs, Matrix, listed_measures
from fusedml.engine.routes.dense_pairs import DensePairs, matrix_of
from fusedml.engine.routes.fused import FusedPairs
from fusedml.engine.routes.listed import ListedPairs, PairIndices
from fusedml.engine.routes.listed_sides import fused_listed_pairs
from fusedml.engine.routes.pair_losses import ListedMeasures, PairLosses
from fusedml.engine.routes.row_strips import (
    RowStrips,
    fused_measures,
    joined_extremes,
    other_measures,
)
from fusedml.formulas import Formula, Hyperparameter, PairFormula, RowFormula, SumFormula
from fusedml.heads import PairSums, RowStatistics


class Pairs(Protocol):
    """The pairs of a batch, and what the losses ask of them."""

    def row_losses(self, formula: RowFormula, epsilon: Hyperparameter | None = None) -> Tensor:
        """L_i, [n].  epsilon: the Multi-Similarity mining margin."""

    def row_statistics(self, formula: Formula) -> RowStatistics:
        """The statistics of each row, differentiable."""

    def pair_losses(self, formula: PairFormula) -> PairLosses:
        """One loss per positive pair."""

    def pair_sums(self, formula: SumFormula) -> PairSums:
        """Sums of the formula's terms over the pairs of each row, differentiable."""

    def measures_of(self, is_positive: bool) -> ListedMeasures:
        """The pairs of one kind, listed: memory proportional to their number."""

    def has_negative(self) -> Tensor | bool:
        """Whether there is any negative pair; 0-d where reading it costs a host sync."""


class PairsOf(Protocol):
    """Makes the pairs of a problem; see ``labelled_pairs`` for the arguments."""

    def __call__(
        self, problem: PairProblem, matrix: Matrix | None = None, is_prepared: bool = False, /
    ) -> Pairs: ...


def labelled_pairs(
    problem: PairProblem,
    distance: nn.Module,
    backend: str,
    owner: str = "fusedml",
    matrix: Matrix | None = None,
    is_prepared: bool = False,
) -> Pairs:
    """All pairs of a problem: fused if the tiles can measure the distance, else by blocks.

    problem: with the embeddings as given; its ``measure`` is ignored.
    owner: the name of the loss, for the warning that a distance is not fused.
    matrix: (anchors, references) -> [n, m] by that distance, if it is not the distance itself.
    is_prepared: whether the embeddings of a fused distance are normalised already.
    """
    measure = fused_measure(distance)
    if measure is not None and is_prepared:
        measure = measure._replace(normalize=False)
    if backend == DENSE:
        whole = (matrix or distance) if measure is None else matrix_of(measure)
        return DensePairs(problem, whole, sign_of(distance))
    if measure is not None:
        require_backend(backend, problem.anchors)
        return FusedPairs(problem, measure, backend)
    require_any_backend(backend, distance)
    check_distance(distance)
    warn_once(owner, distance)
    watched = distance.parameters()
    return BlockedPairs(problem, matrix or distance, sign_of(distance), watched=watched)


def row_strips(problem: PairProblem, distance: nn.Module, owner: str) -> RowStrips:
    """All pairs of a problem in strips of whole rows, measured by a distance of any kind.

    problem, owner: as in :func:`labelled_pairs`.
    """
    anchors, references = problem[:2]
    measure = fused_measure(distance)
    if measure is not None:
        measures = fused_measures(anchors, references, measure.name, measure.normalize)
        fused = problem._replace(measure=measure.name, normalize=measure.normalize)
        return RowStrips(problem, measures, measure.sign, fused=fused)
    check_distance(distance)
    warn_once(owner, distance)
    measures = other_measures(anchors, references, distance)
    return RowStrips(problem, measures, sign_of(distance), BLOCK_ELEMENTS)


class Look(Protocol):
    """Some rows with all of their pairs: a strip, or what kernels find of all rows.

    lines: the numbers of the rows.
    """

    @property
    def lines(self) -> Tensor | slice: ...

    def extremes(
        self,
        largest: Sequence[bool],
        intervals: Tensor | None = None,
        wanted: Sequence[bool] = (True, True),
    ) -> tuple[Tensor, Tensor]:
        """Measures and columns, [2, k], see ``row_strips.extreme_pairs``.

        wanted: which of the two kinds are; what is said of another means nothing.
        """

    def extreme_measures(self, largest: Sequence[bool]) -> Tensor:
        """The measures alone."""


class AllRows:
    """All rows at once, by the operators, which take ``problem``."""

    lines = slice(None)

    def __init__(self, given: PairProblem, backend: str) -> None:
        self.problem, self.backend = prepared(given, tile_dtype(given.anchors)), backend

    def extremes(
        self,
        largest: Sequence[bool],
        intervals: Tensor | None = None,
        wanted: Sequence[bool] = (True, True),
    ) -> tuple[Tensor, Tensor]:
        return autograd.extreme_pairs(self.problem, largest, intervals, self.backend)

    def extreme_measures(self, largest: Sequence[bool]) -> Tensor:
        return self.extremes(largest)[0]


def all_rows(pairs: RowStrips, backend: str = "auto") -> AllRows | None:
    """All rows at once, if kernels find their extreme pairs and those in windows."""
    fused, anchors = pairs.fused, pairs.problem.anchors
    if fused is None or backend == DENSE:
        return None
    if not has_kernels(backend, anchors, "extreme_pairs"):
        return None
    return AllRows(fused, backend)


def looks(pairs: RowStrips, backend: str = "auto") -> Iterator[Look]:
    """The rows in parts, each of which may be asked more than once for its extreme pairs."""
    whole = all_rows(pairs, backend)
    if whole is None:
        yield from pairs.strips()
    else:
        yield whole


def extremes(
    pairs: RowStrips, most_alike: tuple[bool, bool], backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Measures and columns, [2, n], of each row's extreme pairs.

    most_alike: of positives and of negatives whether the most alike pair is wanted, or the least.
    """
    largest = pairs.largest(most_alike)
    found = ((part.lines, part.extremes(largest)) for part in looks(pairs, backend))
    return joined_extremes(pairs, found, largest)


def listed_pairs(
    indices: PairIndices,
    anchors: Tensor,
    references: Tensor | None,
    distance: nn.Module,
    backend: str,
    owner: str = "fusedml",
) -> ListedPairs:
    """The pairs of an index tuple, measured by a distance of any kind."""
    measure = fused_measure(distance)
    if backend == DENSE:
        whole = distance if measure is None else matrix_of(measure)
        problem = PairProblem(anchors, references, anchors.new_zeros(0), None)
        dense = DensePairs(problem, whole, sign_of(distance))
        return ListedPairs(indices, dense.measures, anchors, references, dense.sign)
    others = anchors if references is None else references
    if measure is None:
        require_any_backend(backend, distance)
        check_distance(distance)
        warn_once(owner, distance)
        watched, sides = tuple(distance.parameters()), (owned(anchors), owned(others))
        return ListedPairs(
            indices,
            lambda rows, columns: listed_measures(distance, *sides, rows, columns, watched),
            anchors,
            references,
            sign_of(distance),
        )
    return fused_listed_pairs(indices, anchors, references, measure, backend)


def require_any_backend(backend: str, distance: nn.Module) -> None:
    """Raises ValueError for backend="cuda": no kernel computes the distance."""
    if backend == "cuda":
        raise ValueError(
            "backend='cuda' computes cosine, dot-product and Euclidean distances only, got "
            f"{type(distance).__name__}; use backend='auto'"
        )


_WARNED: set[tuple[str, str]] = set()


def warn_once(owner: str, distance: nn.Module) -> None:
    """Says that a distance is not fused, once for each name of a loss."""
    name = type(distance).__name__
    if (owner, name) in _WARNED:
        return
    _WARNED.add((owner, name))
    warn_caller(
        f"{owner}: {name} (power {getattr(distance, 'power', 1)}) is not a distance that fusedml "
        "fuses; it is computed in blocks of rows, which is slower but bounded in memory"
    )
