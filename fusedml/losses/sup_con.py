"""Supervised contrastive loss."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from fusedml import formulas
from fusedml.distances import CosineSimilarity
from fusedml.hyperparameters import Checks, positive_number
from fusedml.losses.formula_loss import RowwiseLoss
from fusedml.reducers import AvgNonZeroReducer
from fusedml.routes.choice import Pairs


class SupConLoss(RowwiseLoss):
    """L_i = log sum_{P u N} e^{s / temperature} - mean_P s / temperature.

    The mean over the anchors whose loss is above 0 (AvgNonZeroReducer); an anchor without positives
    has none.  As in pytorch-metric-learning a batch without any negative has the loss 0.

    temperature: > 0.

    Source: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, eq. (2).
    """

    formula = formulas.SupCon
    hyperparameters: ClassVar[Checks] = {"temperature": positive_number}

    def __init__(self, temperature: float | Tensor = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.temperature = temperature

    def get_default_distance(self) -> nn.Module:
        return CosineSimilarity()

    def get_default_reducer(self) -> nn.Module:
        return AvgNonZeroReducer()

    def row_losses(self, pairs: Pairs) -> Tensor:
        # multiplied, not selected: NaN stays NaN
        return pairs.row_losses(self.make_formula()) * pairs.has_negative()
