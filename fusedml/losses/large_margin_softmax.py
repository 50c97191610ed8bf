"""Large-margin softmax and SphereFace: the margin multiplies the angle."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import embedding

from fusedml.distances import CosineSimilarity
from fusedml.engine.arguments import check_whole_part
from fusedml.engine.pairs import accumulation_dtype
from fusedml.engine.precision import row_norms
from fusedml.engine.routes.choice import Pairs
from fusedml.formulas import Hyperparameter, RowFormula
from fusedml.heads import softplus
from fusedml.hyperparameters import Checks, positive_number
from fusedml.losses.base import Promises
from fusedml.losses.class_softmax import HOOKS_OF_MARGINS, ClassSoftmaxLoss, Target
from fusedml.losses.class_weights import WeightOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


class LargeMarginSoftmaxLoss(ClassSoftmaxLoss):
    """L_i = log(1 + sum_{c != y_i} e^{scale (<x_i, w_c> - |x_i| |w_y| psi(theta_iy))}).

    theta_iy is the angle between embedding x_i and the vector w_y of its class, a column of the
    parameter ``W``, [embedding_size, num_classes], drawn from a normal distribution.
    psi(theta) = (-1)^k cos(margin theta) - 2 k for theta in [k, k + 1] pi / margin.

    Args:
        num_classes: labels are integers in [0, num_classes).
        embedding_size: columns of the embeddings.
        margin: a whole number of at least 1; its fraction is dropped.
        scale: > 0.

    Raises:
        ValueError: without labels, with references, for a margin below 1, or for a distance that is
            no CosineSimilarity.
        LabelError: (a ValueError and RuntimeError) for labels that are not integers in
            [0, num_classes), the range being checked on the CPU only.

    Source: Liu et al., "Large-Margin Softmax Loss for Convolutional Neural Networks", ICML 2016.
    """

    pml_hooks = HOOKS_OF_MARGINS
    default_distance = CosineSimilarity
    required_distance = CosineSimilarity
    hyperparameters: ClassVar[Checks] = {"scale": positive_number}
    switches = ("margin",)
    promises = Promises({128: 3.0})
    measures_operands = True

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: int = 4,
        scale: float | Tensor = 1,
        **kwargs: Unpack[WeightOptions],
    ) -> None:
        super().__init__(num_classes, embedding_size, **kwargs)
        self.margin = check_whole_part("margin", margin)
        self.scale = scale

    def logit_scale(self) -> Hyperparameter:
        return self.value_of("scale")

    def matrix(self, rows: Tensor, vectors: Tensor) -> Tensor:
        norms = row_norms(rows)[:, None] * row_norms(vectors)
        return super().matrix(rows, vectors) * norms

    def target_of(self, rows: Tensor, vectors: Tensor, labels: Tensor) -> Target:
        own = embedding(labels.clamp(0, len(vectors) - 1), vectors)
        length = self.value_of("scale") * (_norms(rows) * _norms(own))
        divisor = torch.where(length > 0, length, 1)
        return lambda logit: length * with_multiple_angle(logit / divisor, self.margin)

    def losses_of_pairs(self, pairs: Pairs, target: Target) -> Tensor:
        # not a head of row_losses, which may see the rows in another order or in parts
        row = pairs.row_statistics(RowFormula(self.logit, None))
        return softplus(row.lse_negative - target(row.sum_positive))


class SphereFaceLoss(LargeMarginSoftmaxLoss):
    """L_i = log(1 + sum_{c != y_i} e^{scale |x_i| (cos theta_ic - psi(theta_iy))}).

    :class:`LargeMarginSoftmaxLoss`, which see, with vectors of length 1.

    Source: Liu et al., "SphereFace: Deep Hypersphere Embedding for Face Recognition", CVPR 2017.
    """

    def cast_vectors(self, embeddings: Tensor) -> Tensor:
        return self.normalized(super().cast_vectors(embeddings))


def _norms(x: Tensor) -> Tensor:
    return row_norms(x.to(accumulation_dtype(x.dtype)))


def with_multiple_angle(cosine: Tensor, m: int) -> Tensor:
    """(-1)^k cos(m theta) - 2 k of the angles theta in [k, k + 1] pi / m, from their cosines."""
    # cos(m theta) by Chebyshev's recurrence: the slope of acos is infinite at both ends
    before, now = torch.ones_like(cosine), cosine
    for _ in range(m - 1):
        before, now = now, 2 * cosine * now - before
    k = torch.floor(torch.acos(cosine.detach().clamp(-1, 1)) * (m / math.pi))
    return torch.where(k % 2 == 0, now, -now) - 2 * k
