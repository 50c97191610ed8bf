"""Contrastive loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from fusedml.formulas import pack
from fusedml.hyperparameters import Checks, any_number
from fusedml.losses.base import LossOptions, Promises
from fusedml.losses.sums import TermwiseLoss
from fusedml.reducers import AvgNonZeroReducer
from fusedml.terms import hinge

if TYPE_CHECKING:
    from typing_extensions import Unpack


class ContrastiveLoss(TermwiseLoss):
    """L = mean [d_ip - pos_margin]+ over P + mean [neg_margin - d_in]+ over N.

    P and N are all ordered positive and negative pairs; each mean is over the losses above 0
    (AvgNonZeroReducer), 0 if there is none.  With a similarity s in place of the Euclidean distance
    the losses are [pos_margin - s]+ and [s - neg_margin]+.

    Args:
        pos_margin: the distance up to which positives cost nothing; for a similarity such as 1.
        neg_margin: the distance from which on negatives cost nothing; for a similarity such as 0.

    Source: Hadsell et al., "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006,
    without the squares.
    """

    pml_hooks = ("pos_calc", "neg_calc", "get_per_pair_loss")
    default_reducer = AvgNonZeroReducer
    hyperparameters: ClassVar[Checks] = {"pos_margin": any_number, "neg_margin": any_number}
    promises = Promises({128: 6.0})
    value_jumps = True
    terms = (hinge(True), hinge(False))

    def __init__(
        self,
        pos_margin: float | Tensor = 0,
        neg_margin: float | Tensor = 1,
        **kwargs: Unpack[LossOptions],
    ) -> None:
        super().__init__(**kwargs)
        self.pos_margin = pos_margin
        self.neg_margin = neg_margin

    def logit(self, sign: float) -> Tensor:
        pos_margin, neg_margin = self.value_of("pos_margin"), self.value_of("neg_margin")
        return pack(-sign, sign * pos_margin, sign, -sign * neg_margin)
