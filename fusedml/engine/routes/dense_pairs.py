"""The full matrix: ``backend="dense"``, to compare with and for derivatives of any order."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from fusedml import dense
from fusedml.curves import CURVES
from fusedml.distances import Measure
from fusedml.engine.pairs import PairProblem, measure_matrix
from fusedml.engine.precision import normalized, owned
from fusedml.engine.routes.pair_losses import (
    ListedLosses,
    ListedMeasures,
    PairLosses,
    has_negative,
)
from fusedml.formulas import Formula, Hyperparameter, PairFormula, RowFormula, SumFormula
from fusedml.heads import PairSums, RowStatistics
from fusedml.reducers import RowSums

Matrix = Callable[[Tensor, Tensor], Tensor]


def matrix_of(measure: Measure) -> Matrix:
    """The measure as a function of anchors and references, in ordinary PyTorch."""

    def matrix(anchors: Tensor, references: Tensor) -> Tensor:
        is_self = references is anchors
        anchors = anchors.to(references)  # proxies may have a dtype of their own
        if measure.normalize:
            anchors = normalized(anchors)[0]
            references = anchors if is_self else normalized(references)[0]
        return measure_matrix(anchors, references, measure.name)

    return matrix


class DensePairs:
    """All pairs of a problem by ``fusedml.dense``.

    problem: with the embeddings as given.  matrix: (anchors, references) -> [n, m].
    sign: +1 for similarities, else -1.
    """

    def __init__(self, problem: PairProblem, matrix: Matrix, sign: float) -> None:
        anchors = owned(problem.anchors)
        references = None if problem.references is None else owned(problem.references)
        measure = "dot" if sign > 0 else "euclidean"
        self.problem = problem._replace(anchors=anchors, references=references, measure=measure)
        self.matrix = matrix
        self.sign = sign

    def _losses(self, formula: Formula, epsilon: Hyperparameter | None = None) -> Tensor:
        return dense.losses(self.problem, formula, epsilon, lambda a, r, _: self.matrix(a, r))

    def row_losses(self, formula: RowFormula, epsilon: Hyperparameter | None = None) -> Tensor:
        return self._losses(formula, epsilon)

    def row_statistics(self, formula: Formula) -> RowStatistics:
        masks, logit = dense.pair_masks(self.problem), formula.logit(self.sign)
        return dense.row_statistics(self._measures(), *masks, logit, CURVES[formula.curve])

    def pair_sums(self, formula: SumFormula) -> PairSums:
        masks = dense.pair_masks(self.problem)
        return dense.pair_sums(self._measures(), *masks, formula, self.sign)

    def measures_of(self, is_positive: bool) -> ListedMeasures:
        mask = dense.pair_masks(self.problem)[0 if is_positive else 1]
        rows, columns = mask.nonzero(as_tuple=True)
        return ListedMeasures(self._measures()[rows, columns], rows, columns)

    def pair_losses(self, formula: PairFormula) -> PairLosses:
        losses = self._losses(formula)
        positive = dense.pair_masks(self.problem)[0]

        def listed() -> ListedLosses:
            rows, columns = positive.nonzero(as_tuple=True)
            return ListedLosses(losses[rows, columns], rows, columns)

        return PairLosses(lambda: RowSums(losses.sum(1), positive.sum(1)), listed)

    def has_negative(self) -> Tensor | bool:
        return has_negative(self.problem)

    def measures(self, rows: Tensor, columns: Tensor) -> Tensor:
        """x of each listed pair, [num_pairs]."""
        return self._measures()[rows, columns]

    def _measures(self) -> Tensor:
        """x, [n, m]."""
        problem = self.problem
        references = problem.anchors if problem.references is None else problem.references
        return self.matrix(problem.anchors, references)
