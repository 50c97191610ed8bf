"""Neighbourhood components analysis."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from fusedml.distances import LpDistance
from fusedml.engine.inputs import Batch
from fusedml.engine.pairs import PairProblem
from fusedml.engine.routes.fused import FusedPairs
from fusedml.engine.routes.pair_losses import ListedLosses, PairLosses
from fusedml.engine.routes.proxies import tuple_weights
from fusedml.formulas import pack
from fusedml.heads import RowForm, RowLoss, Rows, RowSummary, softplus
from fusedml.hyperparameters import Checks, positive_number
from fusedml.losses.base import IndicesTuple, LossOptions, Promises
from fusedml.losses.formula_loss import RowwiseLoss
from fusedml.reducers import LossInfo, RowSums

if TYPE_CHECKING:
    from typing_extensions import Unpack


class NCALoss(RowwiseLoss):
    """L_i = -log(sum_P e^{-softmax_scale d_ij} / sum_{P u N} e^{-softmax_scale d_ij}).

    d_ij is the squared distance of unit vectors, and the fraction the probability that a neighbour
    drawn by a softmax has the anchor's label.  The mean over the anchors that have positives; 0 if
    there is none, or a single embedding (pytorch-metric-learning: NaN where no anchor has a
    positive, and anchors whose fraction underflows are left out).

    The diagonal is left out if and only if ``ref_emb`` is the embeddings themselves, whatever
    ``ref_labels`` are.  An index tuple becomes a weight for each anchor's loss: how often it lists
    the sample, relative to the most listed one; with ``ref_emb`` only as an anchor.

    Args:
        softmax_scale: > 0, the inverse of a temperature.

    Raises:
        ValueError: without labels.

    Source: Goldberger et al., "Neighbourhood Components Analysis", NIPS 2004, eq. (6), with the
    logarithm of each probability.
    """

    pml_hooks = ("nca_computation",)
    hyperparameters: ClassVar[Checks] = {"softmax_scale": positive_number}
    has_row_losses = False  # of rows with a positive
    needs_labels = True
    leaves_out_own_labels = False
    promises = Promises({128: 6.0})

    def __init__(self, softmax_scale: float | Tensor = 1, **kwargs: Unpack[LossOptions]) -> None:
        super().__init__(**kwargs)
        self.softmax_scale = softmax_scale

    def get_default_distance(self) -> nn.Module:
        return LpDistance(power=2)

    def logit(self, sign: float) -> Tensor:
        scale = sign * self.value_of("softmax_scale")
        return pack(scale, 0.0, scale, 0.0)

    def head(self, row: Rows) -> Tensor:
        has_positive = row.num_positive > 0
        # multiplied, not selected: NaN stays NaN
        gap = row.lse_negative - row.lse_positive.masked_fill(~has_positive, 0)
        return softplus(gap) * has_positive

    def sub_losses(
        self, batch: Batch, indices_tuple: IndicesTuple | None
    ) -> dict[str, LossInfo | PairLosses]:
        weights = tuple_weights(indices_tuple, batch, anchors_only=batch.references is not None)
        if batch.embeddings.shape[0] <= 1:
            return self.losses_without_pairs(batch)
        pairs, formula = self.pairs_of(_problem(batch)), self.make_formula()

        def rows() -> RowSums:
            statistics = pairs.row_statistics(formula)
            losses = self.head(statistics)
            losses = losses if weights is None else losses * weights.to(losses)
            return RowSums(losses, (statistics.num_positive > 0).long())

        def listed() -> ListedLosses:
            losses, has_positive = rows()
            assert has_positive is not None
            anchors = has_positive.nonzero().squeeze(1)
            return ListedLosses(losses[anchors], anchors, anchors)

        def mean(low: float | None, high: float | None) -> Tensor | None:
            if not (low is None and high is None and isinstance(pairs, FusedPairs)):
                return None
            return pairs.mean_row_loss(formula._replace(closed=_mean(weights)), None, (None, None))

        return {"loss": PairLosses(rows, listed, reduction_type="element", mean=mean)}


def _mean(weights: Tensor | None) -> RowForm:
    """The mean over the rows with positives, 0-d, with its partial derivatives."""

    def form(row: RowSummary, parameters: Tensor) -> RowLoss:
        positive, negative = row.lse.unbind()
        shares = (positive > -math.inf).to(positive.dtype)
        number = max(shares.sum().item(), 1)
        shares = shares.div_(number) if weights is None else shares.mul_(weights).div_(number)
        # a row without positives counts as if its only one were the least alike of all
        gap = negative - positive.clamp(min=torch.finfo(positive.dtype).min / 2)
        slope = torch.sigmoid(gap).mul_(shares)
        return RowLoss(torch.dot(softplus(gap), shares), torch.stack([-slope, slope]))

    return form


def _problem(batch: Batch) -> PairProblem:
    if batch.references is None:
        return batch.problem()
    # of other references with the batch's own labels the pairs i == i count
    is_asked_for = batch.exclude_diagonal and (
        batch.self_offset is not None or batch.reference_labels is not batch.labels
    )
    excluded = is_asked_for or batch.references is batch.embeddings
    # its codes are made before: a NaN does not equal itself
    problem = batch._replace(exclude_diagonal=is_asked_for).problem()
    return problem._replace(exclude_diagonal=excluded)
