"""Labels and a distance the tiles can measure: everything by the fused operators."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fusedml.curves import AFFINE
from fusedml.distances import Measure
from fusedml.engine import autograd
from fusedml.engine.averaged import Interval
from fusedml.engine.few_positives import may_list_positives
from fusedml.engine.pairs import PairProblem
from fusedml.engine.positives import pairs_of_kind
from fusedml.engine.precision import prepared, tile_dtype
from fusedml.engine.routes.label_order import label_orders
from fusedml.engine.routes.pair_losses import (
    ListedLosses,
    ListedMeasures,
    PairLosses,
    has_negative,
    losses_of_positives,
)
from fusedml.engine.row_order import RowOrder
from fusedml.engine.unit_rows import row_normalizer
from fusedml.engine.whole import is_small
from fusedml.engine.whole_means import Over
from fusedml.formulas import Formula, Hyperparameter, PairFormula, RowFormula, SumFormula
from fusedml.heads import PairSums, RowStatistics
from fusedml.reducers import RowSums
from fusedml.terms import Term


class FusedPairs:
    """All pairs of a problem, in O(n + m) memory.

    problem: with the embeddings as given; they are normalised and cast here or in the operators.
        Where kernels compute, ``self.problem`` has rows and columns in another order; all results
        are in the given one.
    """

    def __init__(self, problem: PairProblem, measure: Measure, backend: str) -> None:
        self.given = problem
        self.has_partners = False  # whether the positives are known to be the pairs i == i
        self.rows: RowOrder | None = None
        self.columns: RowOrder | None = None
        references = problem.references
        # proxies may have another dtype than the embeddings, which are the references
        dtype = tile_dtype(problem.anchors if references is None else references)
        problem = problem._replace(measure=measure.name, normalize=measure.normalize)
        # a small problem is normalised within its operator, which then has copies of its own
        is_cast = problem.anchors.dtype == dtype and (
            references is None or references.dtype == dtype
        )
        is_within = (
            is_cast
            and problem.normalize
            and (
                is_small(backend, problem.anchors, references)
                or may_list_positives(backend, problem, both_sides=False)
            )
        )
        if not is_within:
            self.rows, self.columns = label_orders(problem, backend)
            normalizer = row_normalizer(backend, problem.anchors)
            ascend = self.rows is not None or problem.anchors_sorted
            problem = problem._replace(
                labels_sorted=ascend and (references is None or self.columns is not None)
            )
            problem = prepared(problem, dtype, self.rows, self.columns, normalizer)
            if torch.compiler.is_compiling():
                problem = without_shared_tensors(problem)
        self.problem = problem
        self.sign = measure.sign
        self.backend = backend

    def row_losses(self, formula: RowFormula, epsilon: Hyperparameter | None = None) -> Tensor:
        logit, problem = formula.logit(self.sign), self._curved(formula)
        if epsilon is None and formula.form is not None:
            losses = autograd.partner_losses(problem, logit, formula.form, self.backend)
            if losses is not None:
                self.has_partners = True
                return self._restored(losses)
        thresholds = None if epsilon is None else self._thresholds(epsilon)
        parameters = formula.form_parameters()
        if formula.form is None or parameters.requires_grad:
            # a fused form has no derivative with respect to its own parameters
            row = autograd.pair_statistics(problem, logit, thresholds, self.backend)
            return self._restored(formula.losses(row))
        losses = autograd.row_losses(
            problem, logit, formula.form, parameters, thresholds, self.backend
        )
        return self._restored(losses)

    def mean_row_loss(
        self, formula: RowFormula, epsilon: Hyperparameter | None, interval: Interval
    ) -> Tensor | None:
        """The mean of the row losses in the interval, 0-d; None where they are to be made first."""
        logit = formula.logit(self.sign)
        closed = formula.closed_form(logit)
        if closed is None or epsilon is not None or self.rows is not None:
            return None
        problem = self._curved(formula)
        return autograd.mean_row_loss(problem, logit, *closed, interval, self.backend)

    def row_statistics(self, formula: Formula) -> RowStatistics:
        return RowStatistics(*map(self._restored, self._statistics(formula)))

    def mining_thresholds(self, epsilon: Hyperparameter) -> Tensor:
        """[2, n]: what a mined positive must stay below and a mined negative must exceed.

        Wang et al., CVPR 2019, eq. (11) and (12), see :func:`fusedml.dense.mined_masks`.
        """
        return torch.stack([self._restored(of_rows) for of_rows in self._thresholds(epsilon)])

    def pair_losses(self, formula: PairFormula) -> PairLosses:
        def rows() -> RowSums:
            problem, logit = self._curved(formula), formula.logit(self.sign)
            losses = autograd.partner_losses(problem, logit, formula.form, self.backend)
            if losses is not None:
                return RowSums(self._restored(losses), None)
            sums, counts = autograd.positive_pair_losses(
                problem,
                logit,
                self._reference_lse(formula),
                formula.form,
                formula.form_parameters(),
                self.backend,
            )
            return RowSums(self._restored(sums), self._restored(counts))

        def listed() -> ListedLosses:
            problem = self.problem
            x, rows, columns = self.measures_of(is_positive=True)
            i, j = self._places(rows, columns)
            anchor_lse = self._statistics(formula).lse_negative
            reference_lse = self._reference_lse(formula)
            if reference_lse is None:
                is_self = problem.references is None
                lse_of_positive = anchor_lse[j] if is_self else torch.zeros_like(anchor_lse[i])
            else:
                lse_of_positive = reference_lse[j]
            losses = losses_of_positives(formula, self.sign, x, anchor_lse[i], lse_of_positive)
            return ListedLosses(losses, rows, columns)

        return PairLosses(rows, listed)

    def pair_sums(self, formula: SumFormula) -> PairSums:
        shifts = formula.shifts
        if shifts is not None and self.rows is not None:
            shifts = self.rows.apply(shifts.T).T
        logit = formula.logit(self.sign)
        sums = autograd.pair_sums(
            self._curved(formula), logit, formula.terms, shifts, backend=self.backend
        )
        if self.rows is None:
            return sums
        return PairSums._make(self._restored(x.movedim(-1, 0)).movedim(0, -1) for x in sums)

    def mean_terms(
        self, formula: SumFormula, weights: Sequence[float], over: Over
    ) -> Tensor | None:
        """sum_k weights[k] mean_k, 0-d, see ``autograd.pair_means``; None where sums or the list
        tell it.
        """
        if formula.shifts is not None or self.rows is not None:
            return None
        given = self._curved(formula), formula.logit(self.sign), formula.terms, weights, over
        return autograd.pair_means(*given, backend=self.backend)

    def centred_means(
        self, scales: Tensor, terms: tuple[Term, ...], shares: Sequence[float]
    ) -> Tensor | None:
        """sum_k mean f_k(z), 0-d, z = scale (x - share mean x), over all pairs of the term's kind.

        scales, shares: of positives and of negatives.  None where other sums tell it.
        """
        if self.rows is not None:
            return None
        return autograd.centred_means(self.problem, scales, terms, shares, backend=self.backend)

    def measures_of(self, is_positive: bool) -> ListedMeasures:
        problem = prepared(self.problem, self.problem.anchors.dtype)
        rows, columns = pairs_of_kind(self.given, is_positive)
        i, j = self._places(rows, columns)
        x = autograd.pair_values(
            problem.anchors, problem.references, i, j, problem.measure, self.backend
        )
        return ListedMeasures(x, rows, columns)

    # in the order of the rows and columns of self.problem:

    def _places(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Where the given rows and columns are."""
        return (
            rows if self.rows is None else self.rows.places[rows],
            columns if self.columns is None else self.columns.places[columns],
        )

    def _statistics(self, formula: Formula) -> RowStatistics:
        return autograd.pair_statistics(
            self._curved(formula), formula.logit(self.sign), backend=self.backend
        )

    def _curved(self, formula: Formula | SumFormula) -> PairProblem:
        """The problem with the formula's curve."""
        name = formula.curve
        return self.problem if name == AFFINE.name else self.problem._replace(curve=name)

    def _thresholds(self, epsilon: Hyperparameter) -> Tensor:
        with torch.no_grad():
            positive, negative = autograd.pair_extrema(self.problem, self.backend)
            return torch.stack([negative + epsilon, positive - epsilon]).to(positive)

    def _reference_lse(self, formula: PairFormula) -> Tensor | None:
        """Log-sum-exp over the negatives of each reference, the other references, [m].

        None in a self problem, where the anchors have it, and for heads that do not ask for it.
        """
        references, labels = self.problem.references, self.problem.reference_labels
        if references is None or labels is None or not formula.needs_reference_lse:
            return None
        among_references = self._curved(formula)._replace(
            anchors=references,
            references=None,
            anchor_labels=labels,
            reference_labels=None,
            exclude_diagonal=True,
            self_offset=0,
        )
        return autograd.pair_statistics(
            among_references, formula.logit(self.sign), backend=self.backend
        ).lse_negative

    def has_negative(self) -> Tensor | bool:
        if self.has_partners and self.problem.shape[1] > 1:
            return True
        return has_negative(self.problem)

    def _restored(self, of_rows: Tensor) -> Tensor:
        """Numbers of the rows of self.problem, [n], in the order of the rows as given."""
        return of_rows if self.rows is None else self.rows.restore(of_rows)


def normalized_within(problem: PairProblem, backend: str, dtype: torch.dtype) -> PairProblem:
    """A problem as given, prepared unless it is small and its operator normalises rows itself."""
    sides = (side for side in problem[:2] if side is not None)
    is_cast = all(side.dtype == dtype for side in sides)
    if is_cast and problem.normalize and is_small(backend, problem.anchors, problem.references):
        return problem
    return prepared(problem, dtype, normalizer=row_normalizer(backend, problem.anchors))


def without_shared_tensors(problem: PairProblem) -> PairProblem:
    """torch.compile refuses a tensor that is two arguments of one autograd.Function."""
    references, labels = problem.references, problem.reference_labels
    if references is problem.anchors:
        references = references.view_as(references)
    if labels is not None and labels is problem.anchor_labels:
        labels = labels.clone()
    return problem._replace(references=references, reference_labels=labels)
