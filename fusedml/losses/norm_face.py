"""NormFace."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from fusedml.distances import CosineSimilarity
from fusedml.engine.arguments import check_flag
from fusedml.formulas import Hyperparameter
from fusedml.hyperparameters import Checks, as_parameter, positive_number
from fusedml.losses.base import Promises
from fusedml.losses.class_softmax import ClassSoftmaxLoss
from fusedml.losses.class_weights import WeightOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


class NormFaceLoss(ClassSoftmaxLoss):
    """L_i = -log(e^{scale s_iy} / sum_c e^{scale s_ic}), with a scale that is learnt.

    s_ic is the cosine similarity of embedding i and of the vector of class c, a column of the
    parameter ``W``, [embedding_size, num_classes], drawn from a normal distribution.

    Args:
        num_classes: labels are integers in [0, num_classes).
        embedding_size: columns of the embeddings.
        scale: > 0.
        learn_scale: whether a number becomes a parameter; a tensor is taken as it is.

    Raises:
        ValueError: without labels, with references, or for a distance that is no CosineSimilarity.
        LabelError: (a ValueError and RuntimeError) for labels that are not integers in
            [0, num_classes), the range being checked on the CPU only.

    Source: Wang et al., "NormFace: L2 Hypersphere Embedding for Face Verification", ACM MM 2017.
    """

    default_distance = CosineSimilarity
    required_distance = CosineSimilarity
    hyperparameters: ClassVar[Checks] = {"scale": positive_number}
    promises = Promises({128: 3.0})
    form = "cross_entropy"

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        scale: float | Tensor = 10.0,
        learn_scale: bool = True,
        **kwargs: Unpack[WeightOptions],
    ) -> None:
        super().__init__(num_classes, embedding_size, **kwargs)
        learns = check_flag("learn_scale", learn_scale) and self._learns
        self.scale = as_parameter("scale", scale, positive_number) if learns else scale

    def logit_scale(self) -> Hyperparameter:
        return self.value_of("scale")
