"""Sub-center ArcFace."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from fusedml.distances import CosineSimilarity
from fusedml.engine.inputs import check_embeddings, check_labels
from fusedml.engine.reductions.entries import add_at
from fusedml.engine.routes.proxies import check_class_labels
from fusedml.formulas import Hyperparameter
from fusedml.hyperparameters import Checks, any_number, positive_number
from fusedml.losses.arc_face import with_angle
from fusedml.losses.base import Promises
from fusedml.losses.class_centers import ClassCentersLoss
from fusedml.losses.class_softmax import HOOKS_OF_MARGINS
from fusedml.losses.class_weights import WeightOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


class SubCenterArcFaceLoss(ClassCentersLoss):
    """L_i = log(1 + sum_{c != y_i} e^{scale (cos theta_ic - psi(theta_iy))}), psi = cos(theta + m).

    theta_ic is the smallest of the angles between embedding i and the sub_centers vectors of class
    c, m the margin in radians; psi as in ArcFaceLoss.  The vectors are the columns of the parameter
    ``W``, [embedding_size, num_classes sub_centers], those of a class side by side, drawn from a
    normal distribution.  Of equal cosines the gradient goes to the first vector.

    Args:
        num_classes: labels are integers in [0, num_classes).
        embedding_size: columns of the embeddings.
        margin: an angle in degrees; it stays in degrees.
        scale: > 0.
        sub_centers: vectors of each class, any number of them.

    Raises:
        ValueError: without labels, with references, for less than one sub-center, or for a distance
            that is no CosineSimilarity.
        LabelError: (a ValueError and RuntimeError) for labels that are not integers in
            [0, num_classes), the range being checked on the CPU only.

    Source: Deng et al., "Sub-center ArcFace: Boosting Face Recognition by Large-Scale Noisy Web
    Faces", ECCV 2020.
    """

    pml_hooks = HOOKS_OF_MARGINS
    gradient_jumps = True
    default_distance = CosineSimilarity
    required_distance = CosineSimilarity
    hyperparameters: ClassVar[Checks] = {"margin": any_number, "scale": positive_number}
    switches = ("sub_centers",)
    default_vectors_per_class = 3
    # the gradient of the vectors alone takes 15 MB at 10,000 classes
    promises = Promises({128: 3.0})
    group = "maximum"
    vectors_per_class_name = "sub_centers"

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float | Tensor = 28.6,
        scale: float | Tensor = 64,
        sub_centers: int = 3,
        **kwargs: Unpack[WeightOptions],
    ) -> None:
        super().__init__(num_classes, embedding_size, vectors_per_class=sub_centers, **kwargs)
        self.margin = margin
        self.scale = scale

    @property
    def sub_centers(self) -> int:
        """Vectors of each class."""
        return self.vectors_per_class

    def logit_scale(self) -> Hyperparameter:
        return self.value_of("scale")

    def target(self, own: Tensor) -> Tensor:
        scale = self.value_of("scale")
        return scale * with_angle(own / scale, self.value_of("margin"))

    @torch.no_grad()
    def get_outliers(
        self,
        embeddings: Tensor,
        labels: Tensor,
        threshold: float = 75,
        return_dominant_centers: bool = True,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Samples that are far from the sub-center that most samples of their class are nearest to.

        embeddings: [n, d].  labels: [n], integers in [0, num_classes).
        threshold: an angle in degrees; larger ones are outliers.

        Returns the outliers' numbers, int64, class by class; and the dominant sub-centers,
        [d, num_classes] in the dtype of the embeddings, 0 for a class without samples, unless
        return_dominant_centers is False (pytorch-metric-learning returns both all the same).
        """
        check_embeddings(embeddings)
        check_labels(labels, embeddings)
        check_class_labels(labels, self.num_classes)
        labels, shape = labels.to(torch.int64), (self.num_classes, self.vectors_per_class, -1)
        vectors = self.cast_vectors(embeddings).view(shape)
        rows, unit = self.normalized(embeddings), self.normalized(vectors.flatten(0, 1)).view(shape)
        # [n], a sub-center after the other: no n x K x d array
        cosines = torch.stack([(rows * one[labels]).sum(1) for one in unit.unbind(1)], 1)
        places = labels * self.vectors_per_class + cosines.argmax(1)
        counts = add_at(places.new_zeros(shape[0] * shape[1]), places, torch.ones_like(places))
        dominant = counts.view(shape[:2]).argmax(1)
        angles = cosines.gather(1, dominant[labels, None])[:, 0]
        order = labels.argsort(stable=True)
        outliers = order[(angles < math.cos(math.radians(threshold)))[order]]
        if not return_dominant_centers:
            return outliers
        centers = vectors[torch.arange(self.num_classes, device=labels.device), dominant]
        is_present = counts.view(shape[:2]).sum(1) > 0
        return outliers, (centers * is_present[:, None]).T
