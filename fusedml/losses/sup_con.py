"""Supervised contrastive loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from fusedml.distances import CosineSimilarity
from fusedml.formulas import pack
from fusedml.hyperparameters import Checks, temperature
from fusedml.losses.base import LossOptions, Promises
from fusedml.losses.formula_loss import RowwiseLoss
from fusedml.reducers import AvgNonZeroReducer

if TYPE_CHECKING:
    from typing_extensions import Unpack


class SupConLoss(RowwiseLoss):
    """L_i = log sum_{P u N} e^{s / temperature} - mean_P s / temperature.

    The mean over the anchors whose loss is above 0 (AvgNonZeroReducer); an anchor without positives
    has none.  As in pytorch-metric-learning a batch without any negative has the loss 0.

    Args:
        temperature: > 0, at least 1e-38.

    Source: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, eq. (2).
    """

    default_distance = CosineSimilarity
    default_reducer = AvgNonZeroReducer
    hyperparameters: ClassVar[Checks] = {"temperature": temperature}
    promises = Promises(not_slower_in_retrieval_from=128)
    form = "mean_cross_entropy"
    needs_both_kinds = True

    def __init__(self, temperature: float | Tensor = 0.1, **kwargs: Unpack[LossOptions]) -> None:
        super().__init__(**kwargs)
        self.temperature = temperature

    def logit(self, sign: float) -> Tensor:
        scale = sign / self.value_of("temperature")
        return pack(scale, 0.0, scale, 0.0)
