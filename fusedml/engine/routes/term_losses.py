"""Losses of single pairs that are terms, f(z): summed over the rows from one sweep, or listed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fusedml.curves import CURVES
from fusedml.engine.routes.choice import Pairs
from fusedml.engine.routes.few_listed import FewListedPairs
from fusedml.engine.routes.fused import FusedPairs
from fusedml.engine.routes.listed import numbers_of
from fusedml.engine.routes.pair_losses import ListedLosses, PairLosses, Together
from fusedml.engine.whole_means import Over
from fusedml.formulas import Hyperparameter, SumFormula, beside
from fusedml.heads import PairSums
from fusedml.reducers import RowSums
from fusedml.terms import Term, hinge, squared_hinge


def term_losses(
    pairs: Pairs, formula: SumFormula, sign: float, *, may_repeat: bool = False
) -> list[PairLosses]:
    """For each term of the formula the losses f(z) of the pairs of its kind.

    Sums over rows, and of hinges means of the losses in an interval, come from sweeps that the
    losses share.  sign: of the measure.  may_repeat: whether a pair can be listed more than once.
    """
    sweeps = _Sweeps(pairs, formula)
    return [_losses_of(sweeps, k, sign, may_repeat) for k in range(len(formula.terms))]


def sum_of_means(pairs: Pairs, formula: SumFormula, weights: Sequence[Hyperparameter]) -> Tensor:
    """sum_k weights[k] mean_k, 0-d, over the pairs in the interval of term k, 0 of none."""
    numbers = [weight for weight in weights if not isinstance(weight, Tensor)]
    if isinstance(pairs, FewListedPairs | FusedPairs) and len(numbers) == len(weights):
        total = pairs.mean_terms(formula, numbers, "interval")
        if total is not None:
            return total
    sums = pairs.pair_sums(formula)
    means = sums.sums.sum(1) / sums.counts.sum(1).clamp(min=1)
    if all(weight == 1 for weight in numbers) and len(numbers) == len(weights):
        return means.sum()
    each = zip(weights, means.unbind(), strict=True)
    products = [beside(mean, weight) * mean for weight, mean in each]  # no copy to the device
    return torch.stack(products).sum().to(means)


class _Sweeps:
    """Sums of terms over the pairs: what several losses ask for is computed once."""

    def __init__(self, pairs: Pairs, formula: SumFormula) -> None:
        self.pairs, self.formula = pairs, formula
        self._numbers: list[Hyperparameter] | None = None
        self._known: dict[tuple[Term, ...], PairSums] = {}

    def numbers(self, sign: float) -> list[Hyperparameter]:
        """Those of the logits."""
        if self._numbers is None:
            self._numbers = numbers_of(self.formula.logit(sign))
        return self._numbers

    def of(self, *terms: Term) -> PairSums:
        sums = self._known.get(terms)
        if sums is None:
            sums = self.pairs.pair_sums(self.formula._replace(terms=terms))
            self._known[terms] = sums
        return sums

    def together(self, low: float | None, high: float | None) -> Tensor | None:
        """The sum of all terms' means; None where the list tells it."""
        assert isinstance(self.pairs, FewListedPairs | FusedPairs)
        formula, of_all = self.formula, low is None and high is None
        if not of_all:
            if low is None or low < 0 or not all(map(_is_hinge, formula.terms)):
                return None
            within = tuple(_between(one, low, high)[0] for one in formula.terms)
            formula = formula._replace(terms=within)
        over: Over = "kind" if of_all else "interval"
        return self.pairs.mean_terms(formula, [1.0] * len(formula.terms), over)


def _losses_of(sweeps: _Sweeps, k: int, sign: float, may_repeat: bool) -> PairLosses:
    formula = sweeps.formula
    term, kind = formula.terms[k], formula.terms[k].is_positive
    side = 0 if kind else 1

    def rows() -> RowSums:
        of_all = sweeps.of(*formula.terms)
        return RowSums(of_all.sums[k], of_all[2 + side])

    def between(low: float | None, high: float | None) -> RowSums:
        # of all terms: the others are mostly asked for the same interval
        within = [_between(one, low, high) for one in formula.terms]
        of_all = sweeps.of(*(part for parts in within for part in parts))
        place = sum(map(len, within[:k]))
        return RowSums(of_all.sums[place], of_all.counts[place + len(within[k]) - 1])

    def listed() -> ListedLosses:
        x, i, j = sweeps.pairs.measures_of(kind)
        scale, shift = sweeps.numbers(sign)[2 * side : 2 * side + 2]
        z = CURVES[formula.curve].logits(x, scale, shift, kind)
        if formula.shifts is not None:
            z = z + formula.shifts[side].to(z)[i]
        return ListedLosses(term.values(z), i, j)

    name = "pos_pair" if kind else "neg_pair"
    is_hinged = all(map(_is_hinge, formula.terms))
    together = None
    if isinstance(sweeps.pairs, FewListedPairs | FusedPairs):
        together = Together(len(formula.terms), sweeps.together)
    if isinstance(sweeps.pairs, FewListedPairs):
        return PairLosses(None, listed, name, may_repeat, together=together)
    by_sums = between if is_hinged else None
    return PairLosses(rows, listed, name, may_repeat, by_sums, together=together)


def _is_hinge(term: Term) -> bool:
    return term in (hinge(term.is_positive), squared_hinge(term.is_positive))


def _between(term: Term, low: float | None, high: float | None) -> tuple[Term, ...]:
    """Terms whose first sums, and whose last counts, the values of a hinge in (low, high)."""
    power = 0.5 if term.square else 1.0
    ceiling = math.inf if high is None else high**power if high > 0 else -math.inf
    if low is not None and low >= 0:
        return (term._replace(floor=low**power, ceiling=ceiling),)
    # pairs with z <= 0 have the loss 0
    return term._replace(ceiling=ceiling), Term(term.is_positive, ceiling=ceiling)
