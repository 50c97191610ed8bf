"""SoftTriple loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from fusedml.distances import CosineSimilarity, sign_of
from fusedml.errors import DistanceError
from fusedml.formulas import Hyperparameter
from fusedml.hyperparameters import Checks, any_number, finite_temperature, positive_number
from fusedml.losses.base import Promises
from fusedml.losses.class_centers import ClassCentersLoss
from fusedml.losses.class_weights import WeightOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


class SoftTripleLoss(ClassCentersLoss):
    """L_i = log(1 + sum_{c != y_i} e^{la (S_ic - S_iy + margin)}), S_ic = sum_k p_k s_ick.

    s_ick is the cosine similarity of embedding i and centre k of class c, and p_k the softmax of
    s_ick / gamma over the centres of the class.  The centres are the columns of the parameter
    ``fc``, [embedding_size, num_classes centers_per_class], those of a class side by side, drawn
    from kaiming_uniform_(a=sqrt(5)).

    Args:
        num_classes: labels are integers in [0, num_classes).
        embedding_size: columns of the embeddings.
        centers_per_class: any number of them.
        la: > 0, the scale of the logits.
        gamma: > 0 and finite, the temperature among the centres of a class; it stays as given
            (pytorch-metric-learning's attribute of that name is its inverse).
        margin: a similarity.

    Raises:
        ValueError: without labels, with references, for less than one centre, or for a distance
            that is no similarity.
        LabelError: (a ValueError and RuntimeError) for labels that are not integers in
            [0, num_classes), the range being checked on the CPU only.

    Source: Qian et al., "SoftTriple Loss: Deep Metric Learning Without Triplet Sampling",
    ICCV 2019, without its regulariser of the number of centres.
    """

    pml_hooks = ("get_logits",)  # theirs makes the loss of them
    default_distance = CosineSimilarity
    hyperparameters: ClassVar[Checks] = {
        "la": positive_number,
        "gamma": finite_temperature,
        "margin": any_number,
    }
    switches = ("centers_per_class",)
    weights_name = "fc"
    default_vectors_per_class = 10
    # the vectors and their gradients alone take 100 MB at 10,000 classes
    promises = Promises({128: 4.0}, extra_mb=190)
    group = "soft_maximum"
    vectors_per_class_name = "centers_per_class"

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        centers_per_class: int = 10,
        la: float | Tensor = 20,
        gamma: float | Tensor = 0.1,
        margin: float | Tensor = 0.01,
        **kwargs: Unpack[WeightOptions],
    ) -> None:
        super().__init__(num_classes, embedding_size, vectors_per_class=centers_per_class, **kwargs)
        if sign_of(self.distance) < 0:
            raise DistanceError(
                f"distance must be a similarity for {type(self).__name__}, got "
                f"{type(self.distance).__name__}"
            )
        self.la = la
        self.gamma = gamma
        self.margin = margin

    @property
    def centers_per_class(self) -> int:
        """Centres of each class."""
        return self.vectors_per_class

    def get_default_weight_init_func(self) -> Callable[[Tensor], Any]:
        return partial(nn.init.kaiming_uniform_, a=math.sqrt(5))

    def sharpness(self) -> Hyperparameter:
        return 1 / self.value_of("gamma")

    def logit_scale(self) -> Hyperparameter:
        return self.value_of("la")

    def target(self, own: Tensor) -> Tensor:
        return own - self.value_of("la") * self.value_of("margin")

    def get_logits(self, embeddings: Tensor) -> Tensor:
        """The similarities S of all classes, [n, num_classes]."""
        return self.matrix(*self.operands(embeddings))
