"""L2-constrained softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from fusedml.distances import CosineSimilarity
from fusedml.engine.arguments import check_flag
from fusedml.formulas import Hyperparameter
from fusedml.hyperparameters import Checks, as_parameter, positive_number
from fusedml.losses.base import Promises
from fusedml.losses.class_softmax import ClassSoftmaxLoss
from fusedml.losses.class_weights import WeightOptions

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class L2SoftmaxLoss(ClassSoftmaxLoss):
    """L_i = -log(e^{z_iy} / sum_c e^{z_ic}), z_ic = alpha <x_i, w_c> / |x_i| + b_c.

    The vectors w_c are the columns of the parameter ``W``, [embedding_size, num_classes], drawn
    from a normal distribution and not normalised; b_c are the entries of the parameter ``bias``,
    [num_classes], which begins with zeros and is rounded to the dtype of the embeddings.

    Args:
        num_classes: labels are integers in [0, num_classes).
        embedding_size: columns of the embeddings.
        alpha: > 0; the length that the embeddings are given.
        learn_alpha: whether a number becomes a parameter; a tensor is taken as it is.

    Raises:
        ValueError: without labels, with references, or for a distance that is no CosineSimilarity.
        LabelError: (a ValueError and RuntimeError) for labels that are not integers in
            [0, num_classes), the range being checked on the CPU only.

    Source: Ranjan, Castillo and Chellappa, "L2-constrained Softmax Loss for Discriminative Face
    Verification", 2017.
    """

    default_distance = CosineSimilarity
    required_distance = CosineSimilarity
    hyperparameters: ClassVar[Checks] = {"alpha": positive_number}
    promises = Promises({128: 3.0})
    form = "cross_entropy"
    measures_operands = True

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        alpha: float | Tensor = 16.0,
        learn_alpha: bool = False,
        **kwargs: Unpack[WeightOptions],
    ) -> None:
        super().__init__(num_classes, embedding_size, **kwargs)
        learns = check_flag("learn_alpha", learn_alpha) and self._learns
        self.alpha = as_parameter("alpha", alpha, positive_number) if learns else alpha
        self.bias = self.zeros_to_learn(num_classes)

    @classmethod
    def of_weights(
        cls, weights: Tensor | None, bias: Tensor | None = None, **arguments: Any
    ) -> Self:
        loss = super().of_weights(weights, **arguments)
        if bias is None:
            return loss
        if bias.shape != (loss.num_classes,):
            raise ValueError(f"bias must have shape ({loss.num_classes},), got {tuple(bias.shape)}")
        loss.bias = bias
        return loss

    def logit_scale(self) -> Hyperparameter:
        return 1.0

    def operands(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        # the bias is one more dimension
        unit = self.normalized(embeddings)
        alpha, bias = self.value_of("alpha"), self.of_own_classes(self.bias).to(embeddings)
        rows = torch.cat([(alpha * unit).to(embeddings.dtype), torch.ones_like(unit[:, :1])], 1)
        return rows, torch.cat([self.cast_vectors(embeddings), bias[:, None]], 1)

    def matrix(self, rows: Tensor, vectors: Tensor) -> Tensor:
        return rows @ vectors.T
