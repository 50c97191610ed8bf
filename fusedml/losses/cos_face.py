"""CosFace, also called additive-margin softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from fusedml.distances import CosineSimilarity
from fusedml.formulas import Hyperparameter
from fusedml.hyperparameters import Checks, any_number, positive_number
from fusedml.losses.base import Promises
from fusedml.losses.class_softmax import HOOKS_OF_MARGINS, ClassSoftmaxLoss
from fusedml.losses.class_weights import WeightOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


class CosFaceLoss(ClassSoftmaxLoss):
    """L_i = log(1 + sum_{c != y_i} e^{scale (s_ic - s_iy + margin)}).

    s_ic is the cosine similarity of embedding i and of the vector of class c, a column of the
    parameter ``W``, [embedding_size, num_classes], drawn from a normal distribution.

    Args:
        num_classes: labels are integers in [0, num_classes).
        embedding_size: columns of the embeddings.
        margin: a similarity.
        scale: > 0.

    Raises:
        ValueError: without labels, with references, or for a distance that is no CosineSimilarity.
        LabelError: (a ValueError and RuntimeError) for labels that are not integers in
            [0, num_classes), the range being checked on the CPU only.

    Source: Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", CVPR 2018,
    eq. (4).
    """

    pml_hooks = HOOKS_OF_MARGINS
    default_distance = CosineSimilarity
    required_distance = CosineSimilarity
    hyperparameters: ClassVar[Checks] = {"margin": any_number, "scale": positive_number}
    promises = Promises({128: 3.0})

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float | Tensor = 0.35,
        scale: float | Tensor = 64,
        **kwargs: Unpack[WeightOptions],
    ) -> None:
        super().__init__(num_classes, embedding_size, **kwargs)
        self.margin = margin
        self.scale = scale

    def logit_scale(self) -> Hyperparameter:
        return self.value_of("scale")

    def target(self, own: Tensor) -> Tensor:
        return own - self.value_of("scale") * self.value_of("margin")


class AMSoftmaxLoss(CosFaceLoss):
    """L_i = log(1 + sum_{c != y_i} e^{scale (s_ic - s_iy + margin)}): CosFaceLoss.

    The same loss was found twice; see :class:`CosFaceLoss` for arguments and errors.

    Source: Wang et al., "Additive Margin Softmax for Face Verification", IEEE Signal Processing
    Letters 2018.
    """
