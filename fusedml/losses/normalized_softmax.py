"""Normalised softmax loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from fusedml.distances import DotProductSimilarity, fused_measure
from fusedml.formulas import Hyperparameter
from fusedml.hyperparameters import Checks, temperature
from fusedml.losses.base import Promises
from fusedml.losses.class_softmax import ClassSoftmaxLoss
from fusedml.losses.class_weights import WeightOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


class NormalizedSoftmaxLoss(ClassSoftmaxLoss):
    """L_i = -log(e^{s_iy / temperature} / sum_c e^{s_ic / temperature}).

    s_ic is the dot product of embedding i and of the vector of class c, both of length 1.  The
    vectors are the columns of the parameter ``W``, [embedding_size, num_classes], drawn from a
    normal distribution.  They are normalised whatever the distance, the embeddings if it does so.

    Args:
        num_classes: labels are integers in [0, num_classes).
        embedding_size: columns of the embeddings.
        temperature: > 0.

    Raises:
        ValueError: without labels or with references.
        LabelError: (a ValueError and RuntimeError) for labels that are not integers in
            [0, num_classes), the range being checked on the CPU only.

    Source: Zhai and Wu, "Classification is a Strong Baseline for Deep Metric Learning", BMVC 2019.
    """

    pml_hooks = ("get_logits",)  # theirs makes the loss of them
    default_distance = DotProductSimilarity
    hyperparameters: ClassVar[Checks] = {"temperature": temperature}
    promises = Promises({128: 3.0})
    form = "cross_entropy"

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        temperature: float | Tensor = 0.05,
        **kwargs: Unpack[WeightOptions],
    ) -> None:
        super().__init__(num_classes, embedding_size, **kwargs)
        self.temperature = temperature

    def logit_scale(self) -> Hyperparameter:
        return 1 / self.value_of("temperature")

    def cast_vectors(self, embeddings: Tensor) -> Tensor:
        vectors = super().cast_vectors(embeddings)
        measure = fused_measure(self.distance)
        if measure is not None and measure.normalize:
            return vectors  # this will be done to both sides
        return self.normalized(vectors)
