"""The pairs of an index tuple in a small problem, where calls cost more than numbers.

One operator measures the pairs of both kinds, on the matrix of all, and makes sums and means of
them.  What is made of single measures is ordinary PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fusedml.engine.averaged import Interval
from fusedml.engine.precision import is_free_to_read
from fusedml.engine.routes.listed import ListedPairs, Matrices
from fusedml.engine.routes.pair_losses import ListedMeasures
from fusedml.formulas import Hyperparameter, SumFormula
from fusedml.heads import PairSums


class FewListedPairs(ListedPairs):
    """Listed pairs on a CPU, in no graph and under no transform."""

    _both: tuple[Tensor, Tensor] | None = None

    def both_measures(self) -> tuple[Tensor, Tensor]:
        """x of the listed positives and of the listed negatives: measured once."""
        if self._both is None:
            self._both = super().both_measures()
        return self._both

    def measures_of(self, is_positive: bool) -> ListedMeasures:
        x = self.poisoned(self.both_measures()[0 if is_positive else 1])
        rows, columns = self.indices[:2] if is_positive else self.indices[2:]
        return ListedMeasures(x, rows, columns)

    def pair_sums(self, formula: SumFormula) -> PairSums:
        sums = self._few.summed_terms(formula, self.indices)  # where all embeddings are finite
        return super().pair_sums(formula) if sums is None else sums

    def mean_terms(
        self, formula: SumFormula, weights: Sequence[float], of_all: bool
    ) -> Tensor | None:
        """sum_k weights[k] mean_k, 0-d, over the pairs in the term's interval, or all of its kind.

        None where the list tells it.
        """
        return self._few.mean_terms(formula, weights, of_all, self.indices)

    def mean_triplet(
        self, margin: Hyperparameter, form: str, triplets: tuple[Tensor, Tensor], interval: Interval
    ) -> Tensor | None:
        """The mean loss of triplets of the pairs, see ``autograd.mean_listed_triplet``; None as
        above.
        """
        return self._few.mean_triplet(margin, form, self.indices, triplets, interval)

    @property
    def _few(self) -> Matrices:
        assert self._matrices is not None  # which there are of a small problem
        return self._matrices


def numbers_of(logit: Tensor) -> list[Hyperparameter]:
    """The four numbers of a logit: floats, or 0-d tensors where they are learnt."""
    is_learnt = logit.requires_grad or not is_free_to_read(logit)
    numbers: list[Hyperparameter] = [*logit.unbind()] if is_learnt else logit.tolist()
    return numbers
