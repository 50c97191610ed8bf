"""The pairs of an index tuple that are few, or of a small problem: calls cost more than numbers.

One operator measures the pairs of both kinds, on the matrix of all unless the list is short, and
makes sums and means of them.  What is made of single measures is ordinary PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fusedml.curves import AFFINE
from fusedml.engine import autograd
from fusedml.engine.averaged import Interval
from fusedml.engine.pairs import PairProblem
from fusedml.engine.routes.listed import ListedPairs
from fusedml.engine.whole_means import Over
from fusedml.formulas import Hyperparameter, SumFormula
from fusedml.heads import PairSums
from fusedml.terms import Term


class FewListedPairs(ListedPairs):
    """Listed pairs on a CPU, in no graph and under no transform."""

    def pair_sums(self, formula: SumFormula) -> PairSums:
        sums = None
        if formula.curve == AFFINE.name and self._reads_matrix:
            given = formula.logit(self.sign), formula.terms, formula.shifts
            sums = autograd.listed_sums(self._problem, *given, self.indices)
        return super().pair_sums(formula) if sums is None else sums

    def mean_terms(
        self, formula: SumFormula, weights: Sequence[float], over: Over
    ) -> Tensor | None:
        """sum_k weights[k] mean_k, 0-d, see ``autograd.pair_means``; None where the list tells."""
        if formula.curve != AFFINE.name or formula.shifts is not None:
            return None
        logit = formula.logit(self.sign)
        if self.indices.num_listed == 0 and not logit.requires_grad:
            return self.zero()
        return autograd.pair_means(self._few, logit, formula.terms, weights, over, self.indices)

    def centred_means(
        self, scales: Tensor, terms: tuple[Term, ...], shares: Sequence[float]
    ) -> Tensor | None:
        """See ``autograd.centred_means``; None as above."""
        return autograd.centred_means(self._few, scales, terms, shares, self.indices)

    def mean_triplet(
        self,
        margin: Hyperparameter,
        form: str,
        triplets: tuple[Tensor | None, Tensor | None],
        interval: Interval,
    ) -> Tensor | None:
        """See ``autograd.mean_listed_triplet``; None as above."""
        if not (self._reads_matrix or self.size.is_gathered):
            return None
        given = margin, form, self.indices, triplets, interval
        return autograd.mean_listed_triplet(self._few, *given)

    def mean_few_triplets(self, margin: float, joins: bool, interval: Interval) -> Tensor | None:
        """See ``autograd.mean_few_triplets``; None as above."""
        if not (self._reads_matrix or self.size.is_gathered):
            return None
        return autograd.mean_few_triplets(self._few, margin, self.indices, joins, interval)

    @property
    def _reads_matrix(self) -> bool:
        """Whether the matrix of all pairs is less work than the list."""
        assert self._matrices is not None
        return self._matrices.reads_matrix(self.indices)

    @property
    def _few(self) -> PairProblem:
        assert self._matrices is not None
        return self._matrices.problem(AFFINE.name, self.indices)

    @property
    def _problem(self) -> PairProblem:
        assert self._matrices is not None  # which there are of a small problem
        return self._matrices.problem(AFFINE.name)
