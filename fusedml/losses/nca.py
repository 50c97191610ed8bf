"""Neighbourhood components analysis."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from fusedml.distances import LpDistance
from fusedml.engine.inputs import Batch
from fusedml.engine.pairs import PairProblem
from fusedml.engine.precision import is_free_to_read
from fusedml.engine.routes.pair_losses import ListedLosses, PairLosses
from fusedml.engine.routes.proxies import tuple_weights
from fusedml.formulas import pack
from fusedml.heads import Rows, softplus
from fusedml.hyperparameters import Checks, positive_number
from fusedml.losses.base import IndicesTuple, LossOptions, Promises, already_reduced
from fusedml.losses.formula_loss import RowwiseLoss
from fusedml.reducers import LossInfo, RowSums, zero_loss

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

    hyperparameters: ClassVar[Checks] = {"softmax_scale": positive_number}
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
            return {"loss": already_reduced(zero_loss(batch.embeddings))}
        statistics = self.pairs_of(_problem(batch)).row_statistics(self.make_formula())
        losses, has_positive = self.head(statistics), statistics.num_positive > 0
        if weights is not None:
            losses = losses * weights.to(losses)

        def listed() -> ListedLosses:
            anchors = has_positive.nonzero().squeeze(1)
            return ListedLosses(losses[anchors], anchors, anchors)

        def rows() -> RowSums:
            return RowSums(losses, has_positive.long())

        def mean(low: float | None, high: float | None) -> Tensor | None:
            if not (low is None and high is None and is_free_to_read(losses)):
                return None
            return losses.sum() / max(has_positive.count_nonzero().item(), 1)

        return {"loss": PairLosses(rows, listed, reduction_type="element", mean=mean)}


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
