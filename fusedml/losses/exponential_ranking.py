"""Exponential ranking loss."""

from __future__ import annotations

import torch
from torch import Tensor

from fusedml.distances import CosineSimilarity
from fusedml.formulas import pack
from fusedml.heads import RowForm, RowLoss, Rows, RowSummary
from fusedml.losses.base import Promises
from fusedml.losses.formula_loss import RowwiseLoss


class ExponentialRankingLoss(RowwiseLoss):
    """L_i = sum_{p in P(i)} sum_{n in N(i)} e^{s_in - s_ip}.

    The sum over all triplets of an anchor is a product of two sums, e^{lse+ + lse-}: nothing is
    listed.  It is 0 for an anchor without positives or without negatives, which counts in the mean
    over the anchors.  With a distance d in place of the similarity s it is e^{d_ip - d_in}.

    The loss of similarities that are not bounded, such as dot products of rows that are not
    normalised, overflows where the largest differences exceed 88 in float32.

    Source: Freund et al., "An Efficient Boosting Algorithm for Combining Preferences", JMLR 2003,
    whose ranking loss this is of the differences of similarities.
    """

    default_distance = CosineSimilarity
    promises = Promises({128: 6.0})

    def logit(self, sign: float) -> Tensor:
        return pack(-sign, 0.0, sign, 0.0)

    def head(self, row: Rows) -> Tensor:
        # of an empty set e^{-inf}
        return torch.exp(row.lse_positive + row.lse_negative)

    def closed_head(self) -> RowForm:
        return _loss_of_rows


def _loss_of_rows(row: RowSummary, parameters: Tensor) -> RowLoss:
    """The head, with its partial derivatives."""
    value = torch.exp(row.lse.sum(0))
    return RowLoss(value, value.expand(2, -1))
