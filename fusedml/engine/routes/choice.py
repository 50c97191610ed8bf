"""Which route a batch takes, by what it is called with."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from fusedml.curves import AFFINE
from fusedml.distances import Measure, check_distance, fused_measure, sign_of
from fusedml.engine import autograd
from fusedml.engine.averaged import Interval
from fusedml.engine.backends import DENSE, has_kernels, require_backend
from fusedml.engine.list_sizes import ListSize
from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.precision import is_autocast, owned, prepare, prepared, tile_dtype
from fusedml.engine.routes.blocks import BLOCK_ELEMENTS, BlockedPairs, Matrix, listed_measures
from fusedml.engine.routes.dense_pairs import DensePairs, matrix_of
from fusedml.engine.routes.few_listed import FewListedPairs
from fusedml.engine.routes.fused import FusedPairs
from fusedml.engine.routes.listed import ListedPairs, PairIndices
from fusedml.engine.routes.pair_losses import ListedMeasures, PairLosses
from fusedml.engine.routes.row_strips import (
    RowStrips,
    fused_measures,
    joined_extremes,
    other_measures,
)
from fusedml.engine.unit_rows import row_normalizer
from fusedml.engine.whole import is_small, may_hold_matrices
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


def fused_listed_pairs(
    indices: PairIndices,
    anchors: Tensor,
    references: Tensor | None,
    measure: Measure,
    backend: str,
) -> ListedPairs:
    """The pairs of an index tuple, by one of the tiles' measures."""
    require_backend(backend, anchors, "pair_values")
    measured = _Sides(anchors, references, measure, backend)
    matrices = measured if measured.is_held else None
    size = indices.size(anchors, references)
    is_held = matrices is not None and (size.may_be_held or size.fills_matrix)
    is_transformed = torch._C._are_functorch_transforms_active()
    kind = FewListedPairs if is_held and not is_transformed else ListedPairs
    return kind(indices, measured.values, anchors, references, measure.sign, matrices=matrices)


def reads_matrix(
    indices: PairIndices, anchors: Tensor, references: Tensor | None, backend: str
) -> bool:
    """Whether listed pairs are read from a matrix, which is held whole, of products in float32."""
    size, is_held = indices.size(anchors, references), may_hold_matrices(backend, anchors)
    return (
        _is_matrix_read(size, is_small(backend, anchors, references), is_held)
        and not is_autocast(anchors)
        and not torch._C._are_functorch_transforms_active()
    )


def _is_matrix_read(size: ListSize, is_small: bool, is_held: bool) -> bool:
    """Whether the matrix of all pairs is less work than the list: a small one, or one that is no
    larger than the list and may be held.
    """
    if is_small:
        return size.is_dense
    # asked first: in a compiled graph the size may be unknown
    return is_held and size.fills_matrix


# of problems whose pairs are marked
_NO_LABELS = torch.empty(0, device="cpu")


class _Sides:
    """The rows of an index tuple's pairs, which a fused distance measures.

    They are prepared when they are asked for: in one block of a matrix the operator does it.
    """

    are_finite = False

    def __init__(
        self, anchors: Tensor, references: Tensor | None, measure: Measure, backend: str
    ) -> None:
        self.given = anchors, references
        self.measure, self.backend = measure, backend
        self.dtype = tile_dtype(anchors)
        self.is_held = may_hold_matrices(backend, anchors)
        self.is_small = self.is_held and is_small(backend, anchors, references)
        self._prepared: tuple[Tensor, Tensor | None] | None = None

    def prepared(self) -> tuple[Tensor, Tensor | None]:
        """Anchors and references as they are measured."""
        if self._prepared is None:
            normalizer = row_normalizer(self.backend, self.given[0])
            a, r = (
                None
                if side is None
                else prepare(side, self.dtype, self.measure.normalize, normalizer=normalizer)
                for side in self.given
            )
            assert a is not None  # there are always anchors
            self._prepared = a, r
        return self._prepared

    def values(self, rows: Tensor, columns: Tensor) -> Tensor:
        """What is measured of the pairs (rows[k], columns[k])."""
        if self.reads_matrix(PairIndices(rows, columns, rows[:0], columns[:0])):
            values = autograd.listed_values(self.problem(AFFINE.name), rows, columns)
            if values is not None:
                self.are_finite = True
                return values
        return autograd.pair_values(
            *self.prepared(), rows, columns, self.measure.name, self.backend
        )

    def reads_matrix(self, indices: PairIndices) -> bool:
        """Whether the matrix is held, and less work than the list."""
        return _is_matrix_read(indices.size(*self.given), self.is_small, self.is_held)

    def marks_dtype(self) -> torch.dtype:
        """In which pairs are marked: that of the statistics where these need no more memory."""
        return accumulation_dtype(self.given[0].dtype) if self.is_small else torch.bool

    def marked_losses(
        self,
        marks: Tensor,
        formula: RowFormula,
        epsilon: Hyperparameter | None,
        interval: Interval | None = None,
    ) -> Tensor | None:
        logit, problem = formula.logit(self.measure.sign), self.problem(formula.curve)
        closed = formula.closed_form(logit)
        if closed is not None:
            return autograd.marked_row_losses(problem, logit, *closed, marks, epsilon, interval)
        if interval is not None:
            return None
        rows = autograd.marked_statistics(problem, logit, marks, epsilon)
        return None if rows is None else formula.losses(rows)

    def counted_losses(
        self, formula: PairFormula, indices: PairIndices, interval: Interval | None = None
    ) -> Tensor | None:
        def losses(listed: ListedPairs, logit: Tensor) -> Tensor:
            return listed.pair_losses(formula._replace(logit=lambda _: logit)).listed().losses

        logit = formula.logit(self.measure.sign)
        problem = self.problem(formula.curve, indices.size(*self.given).is_short)
        given = problem, logit, formula, indices, self._by_list(losses)
        return autograd.counted_pair_losses(*given, interval)

    def listed_row_loss(
        self, formula: RowFormula, indices: PairIndices, interval: Interval
    ) -> Tensor | None:
        def losses(listed: ListedPairs, logit: Tensor) -> Tensor:
            return listed.row_losses(formula._replace(logit=lambda _: logit))

        logit = formula.logit(self.measure.sign)
        closed = formula.closed_form(logit)
        if closed is None:
            return None
        problem = self.problem(formula.curve, indices.size(*self.given).is_short)
        given = problem, logit, *closed, indices, self._by_list(losses)
        return autograd.listed_row_losses(*given, interval)

    def _by_list(
        self, losses: Callable[[ListedPairs, Tensor], Tensor]
    ) -> Callable[[Sequence[Tensor], Tensor, Tensor | None, Tensor], Tensor]:
        """For second derivatives: the losses of a list and of a logit."""
        measure, backend = self.measure, self.backend

        def by_list(
            indices: Sequence[Tensor], a: Tensor, r: Tensor | None, logit: Tensor
        ) -> Tensor:
            def values(rows: Tensor, columns: Tensor) -> Tensor:
                return autograd.pair_values(a, r, rows, columns, measure.name, backend)

            listed = ListedPairs(PairIndices(*indices), values, a, r, measure.sign)
            return losses(listed, logit)

        return by_list

    def problem(self, curve: str, is_short: bool = False) -> PairProblem:
        """All pairs, without labels; a small problem is normalised within its operator, and so are
        the rows of a short list.
        """
        a, r = self.given
        is_cast = a.dtype == self.dtype and (r is None or r.dtype == self.dtype)
        is_within = self.measure.normalize and is_cast and (self.is_small or is_short)
        if not is_within:
            a, r = self.prepared()
        return PairProblem(
            a, r, _NO_LABELS, None, self.measure.name, normalize=is_within, curve=curve
        )


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
    warnings.warn(
        f"{owner}: {name} (power {getattr(distance, 'power', 1)}) is not a distance that fusedml "
        "fuses; it is computed in blocks of rows, which is slower but bounded in memory",
        UserWarning,
        stacklevel=2,
    )
