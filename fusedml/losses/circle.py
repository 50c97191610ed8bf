"""Circle loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from fusedml.curves import CIRCLE
from fusedml.distances import CosineSimilarity
from fusedml.formulas import pack
from fusedml.heads import RowForm, RowLoss, Rows, RowSummary
from fusedml.hyperparameters import Checks, any_number, positive_number
from fusedml.losses.base import LossOptions, Promises
from fusedml.losses.formula_loss import RowwiseLoss
from fusedml.reducers import AvgNonZeroReducer

# where PyTorch's softplus, and pytorch-metric-learning's with it, becomes linear: 2e-9 less
LINEAR_FROM = 20.0

if TYPE_CHECKING:
    from typing_extensions import Unpack


class CircleLoss(RowwiseLoss):
    """L_i = log(1 + sum_P e^{-gamma [1 + m - s]+ (s - 1 + m)} sum_N e^{gamma [s + m]+ (s - m)}).

    The brackets [x]+ = max(0, x) are constants of the gradient, as in the authors' code, also with
    respect to m.  The mean over the anchors whose loss is above 0 (AvgNonZeroReducer); an anchor
    without positives or without negatives has the loss 0.

    Args:
        m: the relaxation: similarities beyond 1 - m, or below m, count as good enough.
        gamma: > 0, the scale.  The authors: m = 0.25 with gamma = 256 for faces and 128 for
            persons, 0.4 with 80 for fine-grained retrieval.

    Raises:
        DistanceError: (a ValueError and AssertionError) for a distance that is no CosineSimilarity.

    Source: Sun et al., "Circle Loss: A Unified Perspective of Pair Similarity Optimization",
    CVPR 2020, eq. (6) and (8).
    """

    default_distance = CosineSimilarity
    required_distance = CosineSimilarity
    default_reducer = AvgNonZeroReducer
    hyperparameters: ClassVar[Checks] = {"m": any_number, "gamma": positive_number}
    promises = Promises({128: 5.0}, not_slower_from=256)
    curve = CIRCLE
    gradient_is_derivative = False
    has_second_derivative = False

    def __init__(
        self, m: float | Tensor = 0.4, gamma: float | Tensor = 80, **kwargs: Unpack[LossOptions]
    ) -> None:
        super().__init__(**kwargs)
        self.m = m
        self.gamma = gamma

    def logit(self, sign: float) -> Tensor:
        m, gamma = self.value_of("m"), self.value_of("gamma")
        return pack(-gamma, gamma * (1 - m), gamma, -gamma * m)

    def head(self, row: Rows) -> Tensor:
        has_both = (row.num_positive > 0) & (row.num_negative > 0)
        # an empty set's -inf is replaced before it is added, so that the gradient is 0
        inner = torch.where(has_both, row.lse_positive, 0) + torch.where(
            has_both, row.lse_negative, 0
        )
        return torch.nn.functional.softplus(inner) * has_both

    def closed_head(self) -> RowForm:
        return _loss_of_rows


def _loss_of_rows(row: RowSummary, parameters: Tensor) -> RowLoss:
    """The head, with its partial derivatives."""
    lse = row.lse
    has_both = (lse.amin(0) > -math.inf).to(lse.dtype)
    inner = lse.clamp(min=torch.finfo(lse.dtype).min).mul_(has_both).sum(0)
    slope = torch.sigmoid(inner).masked_fill_(inner > LINEAR_FROM, 1).mul_(has_both)
    return RowLoss(torch.nn.functional.softplus(inner).mul_(has_both), slope.expand_as(lse))
