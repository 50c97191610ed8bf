"""ProxyNCA, and ProxyNCA++'s form of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from fusedml.distances import LpDistance
from fusedml.engine.arguments import check_flag
from fusedml.formulas import Hyperparameter, RowFormula
from fusedml.heads import Rows
from fusedml.hyperparameters import Checks, positive_number
from fusedml.losses.base import Promises
from fusedml.losses.class_softmax import ClassSoftmaxLoss
from fusedml.losses.class_weights import ClassWeightsLoss, WeightOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


class ProxyNCALoss(ClassSoftmaxLoss):
    """L_i = -log(e^{-softmax_scale d_iy} / sum_c e^{-softmax_scale d_ic}).

    d_ic is the squared distance of embedding i and proxy c, both of length 1.  The proxies are the
    parameter ``proxies``, [num_classes, embedding_size], drawn from a normal distribution.  The
    own proxy is in the denominator, as in ProxyNCA++; with ``exclude_positive`` it is not, as in
    the first paper, and the loss of a single class is 0.

    pytorch-metric-learning leaves out the samples whose share e^{..} / sum underflows; here the
    loss is exact.  An index tuple's positives and negatives do not count for the weights.

    Args:
        num_classes: labels are integers in [0, num_classes).
        embedding_size: columns of the embeddings.
        softmax_scale: > 0, the inverse of a temperature.
        exclude_positive: whether the sum is over the other proxies only.

    Raises:
        ValueError: without labels or with references.
        LabelError: (a ValueError and RuntimeError) for labels that are not integers in
            [0, num_classes), the range being checked on the CPU only.

    Source: Movshovitz-Attias et al., "No Fuss Distance Metric Learning Using Proxies", ICCV 2017;
    Teh, DeVries and Taylor, "ProxyNCA++", ECCV 2020.
    """

    pml_hooks = ("nca_computation",)
    hyperparameters: ClassVar[Checks] = {"softmax_scale": positive_number}
    switches = ("exclude_positive",)
    weights_name = "proxies"
    weights_are_columns = False
    weighs_anchors_only = True
    promises = Promises({128: 3.0})
    form = "cross_entropy"

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        softmax_scale: float | Tensor = 1,
        exclude_positive: bool = False,
        **kwargs: Unpack[WeightOptions],
    ) -> None:
        super().__init__(num_classes, embedding_size, **kwargs)
        self.softmax_scale = softmax_scale
        self.exclude_positive = check_flag("exclude_positive", exclude_positive)

    def get_default_distance(self) -> nn.Module:
        return LpDistance(power=2)

    def logit_scale(self) -> Hyperparameter:
        return self.value_of("softmax_scale")

    def _losses_of(self, rows: Tensor, vectors: Tensor, labels: Tensor) -> Tensor:
        if not self.exclude_positive:
            return super()._losses_of(rows, vectors, labels)
        pairs = self.pairs(rows, vectors, labels)
        return pairs.row_losses(RowFormula(self.logit, _gap_to_others))

    def loss_of_parts(self, lse: Tensor, target: Tensor) -> Tensor:
        if not self.exclude_positive:
            return super().loss_of_parts(lse, target)
        return (lse if self.num_all_classes() > 1 else target) - target

    def get_logits(self, embeddings: Tensor) -> Tensor:
        """The distance matrix of embeddings [n, d] and proxies, [n, num_classes]."""
        return ClassWeightsLoss.get_logits(self, embeddings)


def _gap_to_others(row: Rows) -> Tensor:
    # without other proxies the loss is 0, or NaN
    others = torch.where(row.num_negative > 0, row.lse_negative, row.sum_positive)
    return others - row.sum_positive
