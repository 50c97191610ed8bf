"""Tuplet margin loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from fusedml.curves import ANGULAR_MARGIN
from fusedml.distances import CosineSimilarity
from fusedml.formulas import pack
from fusedml.hyperparameters import Checks, angle, positive_number
from fusedml.losses.base import LossOptions, Promises
from fusedml.losses.formula_loss import PairwiseLoss

if TYPE_CHECKING:
    from typing_extensions import Unpack


class TupletMarginLoss(PairwiseLoss):
    """L_ip = log(1 + sum_{N_i} e^{scale (cos theta_in - cos(theta_ip - margin))}).

    theta is the angle between two embeddings.  The mean over all ordered positive pairs; 0 if there
    is none, or no negative.

    The cosine is computed as cos theta cos m + sin theta sin m, m the margin in radians; where an
    embedding equals its positive, the sine's slope, which is infinite there, counts 0 and the
    gradient is finite (pytorch-metric-learning: NaN).

    Args:
        margin: an angle in degrees; it stays in degrees (pytorch-metric-learning's attribute of
            that name is in radians).
        scale: > 0.

    Raises:
        DistanceError: (a ValueError and AssertionError) for a distance that is no CosineSimilarity.

    Source: Yu & Tao, "Deep Metric Learning With Tuplet Margin Loss", ICCV 2019.
    """

    pml_hooks = ("set_stats",)
    default_distance = CosineSimilarity
    required_distance = CosineSimilarity
    hyperparameters: ClassVar[Checks] = {"margin": angle, "scale": positive_number}
    promises = Promises(relative={128: 2.0})
    form = "softplus_gap"
    curve = ANGULAR_MARGIN
    agrees_with_pml_on_equal_embeddings = False

    def __init__(
        self,
        margin: float | Tensor = 5.73,
        scale: float | Tensor = 64,
        **kwargs: Unpack[LossOptions],
    ) -> None:
        super().__init__(**kwargs)
        self.margin = margin
        self.scale = scale

    def logit(self, sign: float) -> Tensor:
        scale, degrees = self.value_of("scale"), self.value_of("margin")
        m = torch.deg2rad(degrees) if isinstance(degrees, Tensor) else math.radians(degrees)
        cos, sin = (m.cos(), m.sin()) if isinstance(m, Tensor) else (math.cos(m), math.sin(m))
        return pack(scale * cos, scale * sin, scale, 0.0)
