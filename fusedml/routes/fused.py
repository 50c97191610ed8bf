"""Labels and a distance the tiles can measure: everything by the fused operators."""

from __future__ import annotations

import torch
from torch import Tensor

from fusedml import autograd
from fusedml.distances import Measure
from fusedml.formulas import Formula, Hyperparameter
from fusedml.heads import ROW_HEADS, RowStatistics
from fusedml.pairs import PairProblem
from fusedml.precision import prepared, tile_dtype
from fusedml.reducers import RowSums
from fusedml.routes.pair_losses import (
    ListedLosses,
    PairLosses,
    has_negative,
    losses_of_positives,
    positive_pairs,
)
from fusedml.whole import is_small


class FusedPairs:
    """All pairs of a problem, in O(n + m) memory.

    problem: with the embeddings as given; they are normalised and cast here or in the operators.
    """

    def __init__(self, problem: PairProblem, measure: Measure, backend: str) -> None:
        references = problem.references
        # proxies may have another dtype than the embeddings, which are the references
        dtype = tile_dtype(problem.anchors if references is None else references)
        problem = problem._replace(measure=measure.name, normalize=measure.normalize)
        # a small problem is normalised within its operator
        is_cast = all(x is None or x.dtype == dtype for x in problem[:2])
        if not is_cast or not is_small(backend, problem.anchors, references):
            problem = prepared(problem, dtype)
            if torch.compiler.is_compiling():
                problem = _without_shared_tensors(problem)
        self.problem = problem
        self.sign = measure.sign
        self.backend = backend

    def row_losses(self, formula: Formula, epsilon: Hyperparameter | None = None) -> Tensor:
        thresholds = None if epsilon is None else self.mining_thresholds(epsilon)
        logit, parameters = formula.logit(self.sign), formula.head_parameters()
        if parameters.requires_grad:
            # the fused head has no derivative with respect to its own parameters
            row = autograd.pair_statistics(self.problem, logit, thresholds, self.backend)
            return ROW_HEADS[formula.head](row, parameters).value
        return autograd.row_losses(
            self.problem, logit, formula.head, parameters, thresholds, self.backend
        )

    def row_statistics(self, formula: Formula) -> RowStatistics:
        return autograd.pair_statistics(
            self.problem, formula.logit(self.sign), backend=self.backend
        )

    def mining_thresholds(self, epsilon: Hyperparameter) -> Tensor:
        """[2, n]: what a mined positive must stay below and a mined negative must exceed.

        Wang et al., CVPR 2019, eq. (11) and (12), see :func:`fusedml.dense.mined_masks`.
        """
        with torch.no_grad():
            positive, negative = autograd.pair_extrema(self.problem, self.backend)
            return torch.stack([negative + epsilon, positive - epsilon]).to(positive)

    def pair_losses(self, formula: Formula) -> PairLosses:
        def rows() -> RowSums:
            sums, counts = autograd.positive_pair_losses(
                self.problem,
                formula.logit(self.sign),
                self._reference_lse(formula),
                formula.head,
                formula.head_parameters(),
                self.backend,
            )
            return RowSums(sums, counts)

        def listed() -> ListedLosses:
            problem = prepared(self.problem, self.problem.anchors.dtype)
            i, j = positive_pairs(problem)
            anchor_lse = self.row_statistics(formula).lse_negative
            reference_lse = self._reference_lse(formula)
            if reference_lse is None:
                is_self = problem.references is None
                lse_of_positive = anchor_lse[j] if is_self else torch.zeros_like(anchor_lse[i])
            else:
                lse_of_positive = reference_lse[j]
            x = autograd.pair_values(
                problem.anchors, problem.references, i, j, problem.measure, self.backend
            )
            losses = losses_of_positives(formula, self.sign, x, anchor_lse[i], lse_of_positive)
            return ListedLosses(losses, i, j)

        return PairLosses(rows, listed)

    def _reference_lse(self, formula: Formula) -> Tensor | None:
        """Log-sum-exp over the negatives of each reference, the other references, [m].

        None in a self problem, where the anchors have it, and for heads that do not ask for it.
        """
        references, labels = self.problem.references, self.problem.reference_labels
        if references is None or labels is None or not formula.needs_reference_lse:
            return None
        among_references = self.problem._replace(
            anchors=references,
            references=None,
            anchor_labels=labels,
            reference_labels=None,
            exclude_diagonal=True,
        )
        return autograd.pair_statistics(
            among_references, formula.logit(self.sign), backend=self.backend
        ).lse_negative

    def has_negative(self) -> Tensor:
        return has_negative(self.problem)


def _without_shared_tensors(problem: PairProblem) -> PairProblem:
    """torch.compile refuses a tensor that is two arguments of one autograd.Function."""
    references, labels = problem.references, problem.reference_labels
    if references is problem.anchors:
        references = references.view_as(references)
    if labels is not None and labels is problem.anchor_labels:
        labels = labels.clone()
    return problem._replace(references=references, reference_labels=labels)
