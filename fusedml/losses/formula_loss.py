"""The two kinds of losses most are of: one term per anchor, or one per positive pair.

To add a loss whose formula exists in ``fusedml.formulas``::

    class MyLoss(RowwiseLoss):
        formula = MyFormula
        hyperparameters: ClassVar[Checks] = {"scale": positive_number}

        def __init__(self, scale: float | Tensor = 1.0, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.scale = scale

and enter it in ``fusedml.losses.LOSSES``, where the tests and benchmarks find it.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar

from torch import Tensor

from fusedml.formulas import Formula
from fusedml.inputs import Batch, pair_indices
from fusedml.losses.base import BaseLoss, IndicesTuple, already_reduced, element_losses
from fusedml.reducers import LossInfo, zero_loss
from fusedml.routes.choice import Pairs
from fusedml.routes.listed import PairIndices
from fusedml.routes.pair_losses import PairLosses


def has_too_few_pairs(indices: PairIndices) -> bool:
    """pytorch-metric-learning's rule: the loss is 0 if no list has more than one entry."""
    return all(index.shape[0] <= 1 for index in indices)


class FormulaLoss(BaseLoss):
    """A loss that is a formula of ``fusedml.formulas``, on labels or on an index tuple.

    formula: the formula's class; its fields are filled with the hyper-parameters of their names.
    counts_pairs_once: whether a pair that is listed twice in an index tuple counts once.
    """

    formula: ClassVar[type[Formula]]
    counts_pairs_once: ClassVar[bool]
    _formula_fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "formula" in cls.__dict__:
            names = (field.name for field in fields(cls.formula))
            cls._formula_fields = tuple(name for name in names if name in cls.hyperparameters)

    def make_formula(self) -> Formula:
        """The formula with the present hyper-parameters."""
        return self.formula(**{name: self.value_of(name) for name in self._formula_fields})

    def losses_of(self, pairs: Pairs) -> LossInfo | PairLosses:
        """The losses of the given pairs, before reduction."""
        raise NotImplementedError

    def sub_losses(
        self, batch: Batch, indices_tuple: IndicesTuple | None
    ) -> dict[str, LossInfo | PairLosses]:
        pairs = self._pairs(batch, indices_tuple)
        if pairs is None:
            return {"loss": already_reduced(zero_loss(batch.embeddings))}
        return {"loss": self.losses_of(pairs)}

    def _pairs(self, batch: Batch, indices_tuple: IndicesTuple | None) -> Pairs | None:
        if indices_tuple is None:
            return None if batch.has_too_few_pairs() else self.labelled_pairs(batch)
        indices = pair_indices(indices_tuple, batch)
        if has_too_few_pairs(indices):
            return None
        pairs = self.listed_pairs(indices, batch)
        return pairs.distinct() if self.counts_pairs_once else pairs


class RowwiseLoss(FormulaLoss):
    """One loss per anchor, from the statistics of its row.

    In an index tuple a pair counts once however often it is listed, and listing it both as positive
    and as negative raises PairConflictError.
    """

    counts_pairs_once = True

    def row_losses(self, pairs: Pairs) -> Tensor:
        """L_i, [n]."""
        return pairs.row_losses(self.make_formula())

    def losses_of(self, pairs: Pairs) -> LossInfo | PairLosses:
        return element_losses(self.row_losses(pairs))


class PairwiseLoss(FormulaLoss):
    """One loss per ordered positive pair, from its logit and the negatives of its two rows.

    Mean and sum (ours or pytorch-metric-learning's reducers) and PerAnchorReducer need no list of
    the pairs; any other reducer costs memory in proportion to the number of positive pairs.  In an
    index tuple a pair counts as often as it is listed.
    """

    counts_pairs_once = False

    def losses_of(self, pairs: Pairs) -> LossInfo | PairLosses:
        return pairs.pair_losses(self.make_formula())
