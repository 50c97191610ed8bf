"""ArcFace."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from fusedml.distances import CosineSimilarity
from fusedml.formulas import Hyperparameter, pack
from fusedml.hyperparameters import Checks, any_number, positive_number
from fusedml.losses.base import Promises
from fusedml.losses.class_softmax import HOOKS_OF_MARGINS, ClassSoftmaxLoss
from fusedml.losses.class_weights import WeightOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


class ArcFaceLoss(ClassSoftmaxLoss):
    """L_i = log(1 + sum_{c != y_i} e^{scale (cos theta_ic - psi(theta_iy))}), psi = cos(theta + m).

    theta_ic is the angle between embedding i and the vector of class c, a column of the parameter
    ``W``, [embedding_size, num_classes], drawn from a normal distribution; m is the margin in
    radians.  Beyond theta = pi - m, where the cosine would rise again, psi = cos theta - m sin m.

    Where an embedding points along its own vector the slope of psi, which is infinite there, counts
    only as far as it acts: the gradient is finite (pytorch-metric-learning: NaN).

    Args:
        num_classes: labels are integers in [0, num_classes).
        embedding_size: columns of the embeddings.
        margin: an angle in degrees; it stays in degrees (pytorch-metric-learning's attribute of
            that name is in radians).
        scale: > 0.

    Raises:
        ValueError: without labels, with references, or for a distance that is no CosineSimilarity.
        LabelError: (a ValueError and RuntimeError) for labels that are not integers in
            [0, num_classes), the range being checked on the CPU only.

    Source: Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition",
    CVPR 2019, eq. (3).
    """

    pml_hooks = HOOKS_OF_MARGINS
    default_distance = CosineSimilarity
    required_distance = CosineSimilarity
    hyperparameters: ClassVar[Checks] = {"margin": any_number, "scale": positive_number}
    promises = Promises({128: 3.0}, to_a_million_classes=True)

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float | Tensor = 28.6,
        scale: float | Tensor = 64,
        **kwargs: Unpack[WeightOptions],
    ) -> None:
        super().__init__(num_classes, embedding_size, **kwargs)
        self.margin = margin
        self.scale = scale

    def logit_scale(self) -> Hyperparameter:
        return self.value_of("scale")

    def target(self, own: Tensor) -> Tensor:
        scale = self.value_of("scale")
        return scale * with_angle(own / scale, self.value_of("margin"))


def with_angle(cosine: Tensor, degrees: Hyperparameter) -> Tensor:
    """cos(acos(cosine) + m), and cosine - m sin m beyond pi - m, where that would rise."""
    m = pack(degrees)[0] * (math.pi / 180)
    cos_m, sin_m = m.cos(), m.sin()
    # the root's slope is infinite where the angle is 0 or pi
    square = (1 - cosine) * (1 + cosine)
    is_proper = square > 0
    sine = torch.where(is_proper, torch.where(is_proper, square, 1).sqrt(), 0)
    return torch.where(cosine >= -cos_m, cosine * cos_m - sine * sin_m, cosine - m * sin_m)
