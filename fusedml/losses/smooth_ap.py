"""Smooth average precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from fusedml.distances import CosineSimilarity
from fusedml.engine.inputs import Batch
from fusedml.engine.routes.pair_losses import PairLosses, losses_of_rows
from fusedml.engine.routes.proxies import tuple_weights
from fusedml.engine.routes.ranks import mean_rank_loss, rank_losses
from fusedml.formulas import pack
from fusedml.hyperparameters import Checks, temperature_of_steps
from fusedml.losses.base import BaseLoss, IndicesTuple, LossOptions, Promises, element_losses
from fusedml.reducers import LossInfo

if TYPE_CHECKING:
    from typing_extensions import Unpack

_FORM = "share_behind"


class SmoothAPLoss(BaseLoss):
    """L_i = 1 - mean_p (1 + R+_ip) / (1 + R+_ip + R-_ip), R_ip = sum_j sigma((s_ij - s_ip) / T).

    p runs over the positives of i and i itself; j over these, p excepted, in R+ and over the
    negatives in R-: smooth ranks, so that the fraction is the precision at p.  The mean over all
    anchors, whatever the labels: pytorch-metric-learning takes only classes of equal size that
    follow one another in the batch, and is right where there are as many classes as samples in
    each.

    An index tuple becomes a weight for each loss: how often it lists the sample, relative to the
    most listed one.

    Args:
        temperature: T > 0, at least 1e-36, of the steps.

    Raises:
        ValueError: without labels or with references.
        DistanceError: (a ValueError and AssertionError) for a distance that is no cosine.

    Source: Brown et al., "Smooth-AP: Smoothing the Path Towards Large-Scale Image Retrieval", ECCV
    2020.
    """

    default_distance = required_distance = CosineSimilarity
    takes_references = False
    has_second_derivative = False
    waits_for_host = True
    takes_label_sets = False
    needs_labels = True
    agrees_with_pml = False
    hyperparameters: ClassVar[Checks] = {"temperature": temperature_of_steps}
    promises = Promises(relative={128: 10.0}, not_slower_from=128)

    def __init__(self, temperature: float | Tensor = 0.01, **kwargs: Unpack[LossOptions]) -> None:
        super().__init__(**kwargs)
        self.temperature = temperature

    def _sub_loss_names(self) -> list[str]:
        return ["ap_loss"]

    def sub_losses(
        self, batch: Batch, indices_tuple: IndicesTuple | None
    ) -> dict[str, LossInfo | PairLosses]:
        if batch.embeddings.shape[0] < 2:
            return {"ap_loss": element_losses(self.no_losses(batch))}
        problem, numbers = batch.problem(), pack(self.value_of("temperature"))
        weights = tuple_weights(indices_tuple, batch)

        def losses() -> Tensor:
            owner = type(self).__name__
            return rank_losses(problem, self.distance, self.backend, owner, numbers, _FORM)

        if weights is not None:
            weighted = losses()
            return {"ap_loss": element_losses(weighted * weights.to(weighted))}

        def mean(low: float | None, high: float | None) -> Tensor | None:
            given = problem, self.distance, self.backend, numbers, _FORM
            return mean_rank_loss(*given, (low, high))

        return {"ap_loss": losses_of_rows(losses, mean)}
