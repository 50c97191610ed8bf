"""Normalised temperature-scaled cross-entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from fusedml.distances import CosineSimilarity
from fusedml.formulas import pack
from fusedml.hyperparameters import Checks, temperature
from fusedml.losses.base import LossOptions, Promises
from fusedml.losses.formula_loss import PairwiseLoss

if TYPE_CHECKING:
    from typing_extensions import Unpack


class NTXentLoss(PairwiseLoss):
    """L_ip = -log(e^{s_ip / T} / (e^{s_ip / T} + sum_{N_i} e^{s_in / T})), T the temperature.

    The mean over all ordered positive pairs; 0 if there is none, or no negative.  Each positive
    competes with the negatives only, not with the anchor's other positives.

    pytorch-metric-learning adds finfo.tiny inside the logarithm, which caps its loss at 87.3
    (float32) with zero gradient; here the loss is exact.

    Args:
        temperature: > 0, at least 1e-38.

    Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations",
    ICML 2020, eq. (1); van den Oord et al., 2018 (InfoNCE).
    """

    default_distance = CosineSimilarity
    hyperparameters: ClassVar[Checks] = {"temperature": temperature}
    promises = Promises(relative={128: 2.0}, growth_at=(128,), not_slower_in_retrieval_from=128)
    form = "softplus_gap"

    def __init__(self, temperature: float | Tensor = 0.07, **kwargs: Unpack[LossOptions]) -> None:
        super().__init__(**kwargs)
        self.temperature = temperature

    def logit(self, sign: float) -> Tensor:
        scale = sign / self.value_of("temperature")
        return pack(scale, 0.0, scale, 0.0)
