"""Lifted structure losses: generalised (a term per anchor) and original (a term per pair)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from fusedml import formulas
from fusedml.hyperparameters import Checks, any_number
from fusedml.losses.formula_loss import PairwiseLoss, RowwiseLoss


class GeneralizedLiftedStructureLoss(RowwiseLoss):
    """L_i = relu(log sum_P e^{d - pos_margin} + log sum_N e^{neg_margin - d}).

    d is the Euclidean distance of normalised embeddings by default.  The mean over all anchors; the
    logarithm of an empty sum is taken as 0, so an anchor without positives still has a loss.

    neg_margin, pos_margin: distances.

    Source: Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification", 2017,
    eq. (8), which sums over the anchors.
    """

    formula = formulas.GeneralizedLiftedStructure
    hyperparameters: ClassVar[Checks] = {"neg_margin": any_number, "pos_margin": any_number}

    def __init__(
        self, neg_margin: float | Tensor = 1, pos_margin: float | Tensor = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.neg_margin = neg_margin
        self.pos_margin = pos_margin


class LiftedStructureLoss(PairwiseLoss):
    """L_ip = relu(log(sum_{N_i} e^{neg_margin - d_ik} + sum_{N_p} e^{neg_margin - d_pk})
                   + d_ip - pos_margin)^2 / 2.

    d is the Euclidean distance of normalised embeddings by default.  The mean over all ordered
    positive pairs; 0 if there is none, or no negative.

    neg_margin, pos_margin: distances.

    With references the negatives of the positive p, which is a reference, are the references of
    other classes.  pytorch-metric-learning looks for them under the number of p among the anchors,
    which are other samples; its value differs.  With references and an index tuple they are the
    listed negative pairs (k, p) in which p takes part, and nothing else is compared.

    Source: Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding", CVPR 2016,
    eq. (4).
    """

    formula = formulas.LiftedStructure
    hyperparameters: ClassVar[Checks] = {"neg_margin": any_number, "pos_margin": any_number}

    def __init__(
        self, neg_margin: float | Tensor = 1, pos_margin: float | Tensor = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.neg_margin = neg_margin
        self.pos_margin = pos_margin
