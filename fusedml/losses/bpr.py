"""Bayesian personalised ranking loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusedml.distances import CosineSimilarity
from fusedml.engine.routes.triplets import SOFTPLUS, TripletFormula
from fusedml.losses.base import LossOptions, Promises
from fusedml.losses.tripletwise import TripletwiseLoss

if TYPE_CHECKING:
    from typing_extensions import Unpack


class BPRLoss(TripletwiseLoss):
    """L_ipn = log(1 + e^{s_in - s_ip}) of every anchor, positive and negative.

    The mean over all triplets, 0 without one; with a distance the signs of both change.  Mean and
    sum list no triplet: each anchor's negatives are compared with its positives, in memory that
    does not grow with the triplets' number.  Other reducers and index tuples take memory for each.

    Source: Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009,
    without its regulariser.
    """

    default_distance = CosineSimilarity
    promises = Promises(relative={128: 10.0}, not_slower_from=128)

    def __init__(self, **kwargs: Unpack[LossOptions]) -> None:
        super().__init__(**kwargs)

    def formula(self) -> TripletFormula:
        return TripletFormula(0.0, SOFTPLUS)
