"""The pairs of an index tuple by one of the tiles' measures: one by one, or read from a matrix.

The matrix is that of all pairs, where it may be held whole and is less work than the list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fusedml.curves import AFFINE
from fusedml.distances import Measure
from fusedml.engine import autograd
from fusedml.engine.averaged import Interval
from fusedml.engine.backends import require_backend
from fusedml.engine.list_sizes import ListSize
from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.precision import is_autocast, prepare, tile_dtype
from fusedml.engine.routes.few_listed import FewListedPairs
from fusedml.engine.routes.listed import ListedPairs, PairIndices
from fusedml.engine.unit_rows import row_normalizer
from fusedml.engine.whole import is_small, may_hold_matrices
from fusedml.formulas import Hyperparameter, PairFormula, RowFormula

# of problems whose pairs are marked
_NO_LABELS = torch.empty(0, device="cpu")


def fused_listed_pairs(
    indices: PairIndices,
    anchors: Tensor,
    references: Tensor | None,
    measure: Measure,
    backend: str,
) -> ListedPairs:
    """The pairs of an index tuple, by one of the tiles' measures."""
    require_backend(backend, anchors, "pair_values")
    measured = ListedSides(anchors, references, measure, backend)
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


class ListedSides:
    """The rows at the pairs' ends.

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
        problem = self.problem(formula.curve, indices)
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
        problem = self.problem(formula.curve, indices)
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

    def problem(self, curve: str, indices: PairIndices | None = None) -> PairProblem:
        """All pairs, without labels; a small problem is normalised within its operator, and so are
        the rows of a short list of indices.
        """
        a, r = self.given
        is_short = indices is not None and indices.size(a, r).is_short
        is_cast = a.dtype == self.dtype and (r is None or r.dtype == self.dtype)
        is_within = self.measure.normalize and is_cast and (self.is_small or is_short)
        if not is_within:
            a, r = self.prepared()
        return PairProblem(
            a, r, _NO_LABELS, None, self.measure.name, normalize=is_within, curve=curve
        )
