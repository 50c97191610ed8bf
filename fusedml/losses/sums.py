"""Losses made of sums over pairs: one loss per pair that is a term, or a head on sums of terms.

A term is a function of a pair's logit (``fusedml.terms``: hinges, squares, exponentials, softplus),
summed over the positives or the negatives of each row in bounded memory.  A loss is a class in a
file of its own::

    class MyLoss(SumsLoss):
        \"\"\"L = sum_P [margin - s]+^2 / |P| + sum_N s^2 / |N|.\"\"\"

        hyperparameters: ClassVar[Checks] = {"margin": any_number}
        terms = (squared_hinge(True), square(False))

        def logit(self, sign: float) -> Tensor:  # z+ = margin - s, z- = s
            return pack(-sign, sign * self.value_of("margin"), sign, 0)

        def head(self, sums: PairSums) -> Tensor:  # [n] tensors, ordinary PyTorch; [n], or 0-d
            of_positives, of_negatives = sums.sums
            return of_positives / sums.num_positive.clamp(min=1) + ...

``shifts`` adds numbers of each row to its logits (differentiable), ``sums.counts`` says how many
pairs were in a term's interval.  Where the losses are those of single pairs, and a reducer makes
one number of them, derive from ``TermwiseLoss`` instead: it needs no head.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fusedml.distances import sign_of
from fusedml.engine.inputs import Batch
from fusedml.engine.routes.choice import Pairs
from fusedml.engine.routes.pair_losses import PairLosses
from fusedml.engine.routes.term_losses import term_losses
from fusedml.formulas import SumFormula
from fusedml.heads import PairSums
from fusedml.losses.base import IndicesTuple, already_reduced, element_losses
from fusedml.losses.formula_loss import FormulaLoss
from fusedml.reducers import LossInfo
from fusedml.terms import Term


class _TermLoss(FormulaLoss):
    """A loss whose pairs enter as terms of their logits."""

    counts_pairs_once = False
    #: the terms, if they do not depend on arguments
    terms: ClassVar[tuple[Term, ...]]

    def make_terms(self) -> tuple[Term, ...]:
        """The terms with the present arguments."""
        return self.terms

    def shifts(self, batch: Batch) -> Tensor | None:
        """None, or what is added to the logits of the pairs of each row, [2, n]: of its positives
        and of its negatives.
        """
        return None

    def make_formula(self, batch: Batch | None = None) -> SumFormula:
        """The formula with the present hyper-parameters, for a batch if rows have shifts."""
        shifts = None if batch is None else self.shifts(batch)
        return SumFormula(self.logit, self.make_terms(), shifts, self.curve.name)


class SumsLoss(_TermLoss):
    """A head on sums of terms over the pairs of each row.

    In an index tuple a pair counts as often as it is listed.
    """

    def head(self, sums: PairSums) -> Tensor:
        """L_i, [n], or the loss of the batch, 0-d, in differentiable PyTorch.

        A class of the second kind says ``has_single_losses = False``.
        """
        raise NotImplementedError

    def loss_of(self, pairs: Pairs, formula: SumFormula) -> Tensor:
        """What ``head`` makes of the sums; to be overridden where it needs less than these."""
        return self.head(pairs.pair_sums(formula))

    def sub_losses(
        self, batch: Batch, indices_tuple: IndicesTuple | None
    ) -> dict[str, LossInfo | PairLosses]:
        pairs = self._pairs(batch, indices_tuple)
        if pairs is None:
            return self.losses_without_pairs(batch)
        value = self.loss_of(pairs, self.make_formula(batch))
        return {"loss": element_losses(value) if value.ndim else already_reduced(value)}


class TermwiseLoss(_TermLoss):
    """One loss per positive pair, "pos_loss", and one per negative pair, "neg_loss": two terms.

    Mean and sum, PerAnchorReducer and, if the terms are hinges, ThresholdReducer and
    AvgNonZeroReducer (ours or pytorch-metric-learning's) need no list of the pairs; any other
    reducer costs memory in proportion to the number of pairs.  In an index tuple a pair counts as
    often as it is listed.
    """

    lists_sub_losses = True
    has_row_losses = False

    def _sub_loss_names(self) -> list[str]:
        return ["pos_loss", "neg_loss"]

    def sub_losses(
        self, batch: Batch, indices_tuple: IndicesTuple | None
    ) -> dict[str, LossInfo | PairLosses]:
        pairs = self._pairs(batch, indices_tuple)
        if pairs is None:
            return self.losses_without_pairs(batch)
        may_repeat, sign = indices_tuple is not None, sign_of(self.part("distance"))
        losses = self.losses_of_terms(pairs, self.make_formula(batch), sign, may_repeat)
        return dict(zip(self._sub_loss_names(), losses, strict=True))

    def losses_of_terms(
        self, pairs: Pairs, formula: SumFormula, sign: float, may_repeat: bool
    ) -> list[PairLosses]:
        """The losses of the positives and of the negatives."""
        return term_losses(pairs, formula, sign, may_repeat=may_repeat)
