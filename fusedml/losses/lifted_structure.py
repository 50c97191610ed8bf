"""Lifted structure losses: the generalised one of Hermans et al. and the original of Song et al."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from fusedml.formulas import pack
from fusedml.hyperparameters import Checks, HyperparameterModule, any_number
from fusedml.losses.base import LossOptions, Promises
from fusedml.losses.formula_loss import PairwiseLoss, RowwiseLoss

if TYPE_CHECKING:
    from typing_extensions import Unpack


def _margins(loss: HyperparameterModule, sign: float) -> Tensor:
    """z+ = d - pos_margin and z- = neg_margin - d."""
    pos_margin, neg_margin = loss.value_of("pos_margin"), loss.value_of("neg_margin")
    return pack(-sign, sign * pos_margin, sign, -sign * neg_margin)


class GeneralizedLiftedStructureLoss(RowwiseLoss):
    """L_i = relu(log sum_P e^{d - pos_margin} + log sum_N e^{neg_margin - d}).

    The mean over all anchors.  The log-sum-exp of an empty set counts 0.

    Args:
        neg_margin: a distance.
        pos_margin: a distance.

    Source: Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification", 2017,
    eq. (8).
    """

    hyperparameters: ClassVar[Checks] = {"neg_margin": any_number, "pos_margin": any_number}
    promises = Promises({128: 8.0, 512: 4.0})
    form = "hinge_sum"

    def __init__(
        self,
        neg_margin: float | Tensor = 1,
        pos_margin: float | Tensor = 0,
        **kwargs: Unpack[LossOptions],
    ) -> None:
        super().__init__(**kwargs)
        self.neg_margin = neg_margin
        self.pos_margin = pos_margin

    def logit(self, sign: float) -> Tensor:
        return _margins(self, sign)


class LiftedStructureLoss(PairwiseLoss):
    """L_ip = relu(log(sum_{N_i} e^{neg_margin - d_ik} + sum_{N_p} e^{neg_margin - d_pk})
                   + d_ip - pos_margin)^2 / 2.

    d is the Euclidean distance of normalised embeddings by default.  The mean over all ordered
    positive pairs; 0 if there is none, or no negative.

    With references the negatives of the positive p, which is a reference, are the references of
    other classes.  pytorch-metric-learning looks for them under the number of p among the anchors,
    which are other samples; its value differs.  With references and an index tuple they are the
    listed negative pairs (k, p) in which p takes part, and nothing else is compared.

    Args:
        neg_margin: a distance.
        pos_margin: a distance.

    Source: Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding", CVPR 2016,
    eq. (4).
    """

    hyperparameters: ClassVar[Checks] = {"neg_margin": any_number, "pos_margin": any_number}
    promises = Promises(relative={128: 2.0})
    agrees_with_pml_on_references = False
    form = "squared_hinge"
    needs_reference_lse = True

    def __init__(
        self,
        neg_margin: float | Tensor = 1,
        pos_margin: float | Tensor = 0,
        **kwargs: Unpack[LossOptions],
    ) -> None:
        super().__init__(**kwargs)
        self.neg_margin = neg_margin
        self.pos_margin = pos_margin

    def logit(self, sign: float) -> Tensor:
        return _margins(self, sign)
