"""The pairs of an index tuple in a small problem, where calls cost more than numbers.

One operator measures the pairs of both kinds, on the matrix of all; what is made of them is
ordinary PyTorch, whose backward calls no Python.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fusedml.engine.precision import is_free_to_read
from fusedml.engine.routes.listed import ListedPairs
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
        n, logit = self.shape[0], numbers_of(formula.logit(self.sign))
        of_kinds = []
        for side, x in enumerate(self.both_measures()):
            rows = self.indices[2 * side]
            scale, shift = logit[2 * side : 2 * side + 2]
            z = formula.curve.logits(x, scale, shift, side == 0)
            if formula.shifts is not None:
                z = z + formula.shifts[side].to(z).index_select(0, rows)
            of_kinds.append((rows, z))
        sums, counts = [], []
        for term in formula.terms:
            rows, z = of_kinds[0 if term.is_positive else 1]
            sums.append(z.new_zeros(n).index_add(0, rows, term.values(z)))
            counts.append(torch.bincount(rows[term.counts(z)], minlength=n))
        numbers = (torch.bincount(rows, minlength=n) for rows, _ in of_kinds)
        return PairSums(self.poisoned(torch.stack(sums)), torch.stack(counts), *numbers)


def numbers_of(logit: Tensor) -> list[Hyperparameter]:
    """The four numbers of a logit: floats, or 0-d tensors where they are learnt."""
    is_learnt = logit.requires_grad or not is_free_to_read(logit)
    numbers: list[Hyperparameter] = [*logit.unbind()] if is_learnt else logit.tolist()
    return numbers
