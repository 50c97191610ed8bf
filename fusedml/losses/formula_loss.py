"""The two kinds of losses most are of: one term per anchor, or one per positive pair.

A loss is a class in a file of its own::

    class MyLoss(RowwiseLoss):
        \"\"\"L_i = log(1 + sum_N e^{scale (s - margin)}).\"\"\"

        default_distance = CosineSimilarity
        hyperparameters: ClassVar[Checks] = {"scale": positive_number, "margin": any_number}

        def __init__(self, scale: float = 8, margin: float = 0.5, **kwargs: Unpack[LossOptions]):
            super().__init__(**kwargs)
            self.scale, self.margin = scale, margin

        def logit(self, sign: float) -> Tensor:
            return pack(0, 0, sign * self.scale, -sign * self.scale * self.margin)

        def head(self, row: Rows) -> Tensor:
            return softplus(row.lse_negative)
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from fusedml.curves import AFFINE, Curve
from fusedml.engine.inputs import Batch, pair_indices
from fusedml.engine.routes.choice import Pairs
from fusedml.engine.routes.fused import FusedPairs
from fusedml.engine.routes.listed import DistinctPairs, PairIndices
from fusedml.engine.routes.pair_losses import ListedLosses, PairLosses
from fusedml.formulas import Hyperparameter, PairFormula, RowFormula, pack
from fusedml.heads import RowForm, Rows
from fusedml.losses.base import BaseLoss, IndicesTuple
from fusedml.reducers import LossInfo, RowSums


def has_too_few_pairs(indices: PairIndices) -> bool:
    """pytorch-metric-learning's rule: the loss is 0 if no list has more than one entry."""
    return all(index.shape[0] <= 1 for index in indices)


class FormulaLoss(BaseLoss):
    """A loss that is a formula on all pairs by label, or on those of an index tuple.

    form: a name of ``fusedml.heads``, computed in the kernel that finishes the statistics.
    curve: one of ``fusedml.curves``; all but AFFINE need ``required_distance = CosineSimilarity``.
    """

    form: ClassVar[str | None] = None
    curve: ClassVar[Curve] = AFFINE
    #: whether a pair that is listed twice in an index tuple counts once
    counts_pairs_once: ClassVar[bool]
    #: whether the loss is 0 if no list of pairs has more than one entry, as in most of
    #: pytorch-metric-learning's losses
    drops_single_pairs: ClassVar[bool] = True
    #: whether the loss is 0 if no pair is positive, or none negative
    needs_both_kinds: ClassVar[bool] = False

    @abc.abstractmethod
    def logit(self, sign: float) -> Tensor:
        """(scale+, shift+, scale-, shift-) of the logits, [4], float64: scale x + shift, or what
        the class's ``curve`` makes of them.

        sign: +1 where a larger x means more alike, -1 where it means less alike.
        """

    def losses_of(self, pairs: Pairs) -> LossInfo | PairLosses:
        """The losses of the given pairs, before reduction."""
        raise NotImplementedError

    def sub_losses(
        self, batch: Batch, indices_tuple: IndicesTuple | None
    ) -> dict[str, LossInfo | PairLosses]:
        pairs = self._pairs(batch, indices_tuple)
        if pairs is None:
            return self.losses_without_pairs(batch)
        return {"loss": self.losses_of(pairs)}

    def _pairs(self, batch: Batch, indices_tuple: IndicesTuple | None) -> Pairs | None:
        drops = self.drops_single_pairs
        if indices_tuple is None:
            too_few = drops and batch.has_too_few_pairs()
            return None if too_few else self.pairs_of(batch.problem())
        indices = pair_indices(indices_tuple, batch)
        if drops and has_too_few_pairs(indices):
            return None
        if self.needs_both_kinds and indices.lacks_a_kind:
            return None
        pairs = self.listed_pairs(indices, batch)
        return pairs.distinct() if self.counts_pairs_once else pairs


class RowwiseLoss(FormulaLoss):
    """One loss per anchor, from the statistics of its row.

    In an index tuple a pair counts once however often it is listed, and listing it both as positive
    and as negative raises PairConflictError.

    A subclass writes ``head``, or names a ``form`` of ``fusedml.heads.ROW_FORMS``; beside a head it
    may write ``closed_head``, which makes small batches faster.
    """

    counts_pairs_once = True

    def head(self, row: Rows) -> Tensor:
        """L_i, [n], from the statistics of the rows, in differentiable PyTorch.

        An empty set has the log-sum-exp -inf and the sum 0.
        """
        raise NotImplementedError

    def closed_head(self) -> RowForm | None:
        """None; or ``head`` with its partial derivatives in closed terms, for small problems."""
        return None

    def form_parameters(self) -> Sequence[Hyperparameter]:
        """The parameters of the form."""
        return ()

    def make_formula(self) -> RowFormula:
        """The formula with the present hyper-parameters."""
        numbers = self.form_parameters()
        parameters = pack(*numbers) if numbers else None
        closed = self.closed_head()
        return RowFormula(self.logit, self.head, self.form, parameters, self.curve.name, closed)

    def mining_margin(self) -> Hyperparameter | None:
        """The margin of Multi-Similarity's mining; None for all pairs."""
        return None

    def row_losses(self, pairs: Pairs) -> Tensor:
        """L_i, [n]."""
        losses = pairs.row_losses(self.make_formula(), self.mining_margin())
        return self._if_any_negative(losses, pairs)

    def _if_any_negative(self, losses: Tensor, pairs: Pairs) -> Tensor:
        if not self.needs_both_kinds:
            return losses
        has_negative = pairs.has_negative()
        # multiplied, not selected: NaN stays NaN
        return losses if has_negative is True else losses * has_negative

    def losses_of(self, pairs: Pairs) -> LossInfo | PairLosses:
        def rows() -> RowSums:
            return RowSums(self.row_losses(pairs), None)

        def listed() -> ListedLosses:
            losses = self.row_losses(pairs)
            rows = torch.arange(losses.shape[0], device=losses.device)
            return ListedLosses(losses, rows, rows)

        def mean(low: float | None, high: float | None) -> Tensor | None:
            # a class may make other losses of the rows
            if not self._has_own_row_losses:
                return None
            if not isinstance(pairs, DistinctPairs | FusedPairs):
                return None
            value = pairs.mean_row_loss(self.make_formula(), self.mining_margin(), (low, high))
            return None if value is None else self._if_any_negative(value, pairs)

        return PairLosses(rows, listed, reduction_type="element", mean=mean)

    @property
    def _has_own_row_losses(self) -> bool:
        return type(self).row_losses is RowwiseLoss.row_losses


class PairwiseLoss(FormulaLoss):
    """One loss per ordered positive pair, from its logit and the negatives of its two rows.

    Mean and sum (ours or pytorch-metric-learning's reducers) and PerAnchorReducer need no list of
    the pairs; any other reducer costs memory in proportion to the number of positive pairs.  In an
    index tuple a pair counts as often as it is listed.

    A subclass names a ``form`` of ``fusedml.heads.PAIR_FORMS``, and says whether that looks at the
    negatives of the pair's second row (``needs_reference_lse``).
    """

    counts_pairs_once = False
    has_row_losses = False
    needs_both_kinds = True
    form: ClassVar[str]
    needs_reference_lse: ClassVar[bool] = False

    def make_formula(self) -> PairFormula:
        """The formula with the present hyper-parameters."""
        return PairFormula(self.logit, self.form, self.needs_reference_lse, self.curve.name)

    def losses_of(self, pairs: Pairs) -> LossInfo | PairLosses:
        return pairs.pair_losses(self.make_formula())
