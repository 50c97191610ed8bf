"""Normalised temperature-scaled cross-entropy."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from fusedml import formulas
from fusedml.distances import CosineSimilarity
from fusedml.hyperparameters import Checks, positive_number
from fusedml.losses.formula_loss import PairwiseLoss


class NTXentLoss(PairwiseLoss):
    """L_ip = -log(e^{s_ip / T} / (e^{s_ip / T} + sum_{N_i} e^{s_in / T})), T the temperature.

    The mean over all ordered positive pairs; 0 if there is none, or no negative.  Each positive
    competes with the negatives only, not with the anchor's other positives.

    temperature: > 0.

    pytorch-metric-learning adds finfo.tiny inside the logarithm, which caps its loss at 87.3
    (float32) with zero gradient; here the loss is exact.

    Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations",
    ICML 2020, eq. (1); van den Oord et al., 2018 (InfoNCE).
    """

    formula = formulas.NTXent
    hyperparameters: ClassVar[Checks] = {"temperature": positive_number}

    def __init__(self, temperature: float | Tensor = 0.07, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.temperature = temperature

    def get_default_distance(self) -> nn.Module:
        return CosineSimilarity()
