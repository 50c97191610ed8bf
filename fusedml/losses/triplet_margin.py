"""Triplet margin loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from fusedml.engine.arguments import check_choice, check_count_or_all, check_flag
from fusedml.engine.inputs import Batch
from fusedml.engine.routes.pair_losses import ListedLosses, PairLosses
from fusedml.engine.routes.triplets import HINGE, SOFTPLUS, TripletFormula, as_listed
from fusedml.engine.triplet_lists import batch_hard, nearest_semihard, random_triplets
from fusedml.formulas import Hyperparameter
from fusedml.hyperparameters import Checks, any_number
from fusedml.losses.base import IndicesTuple, LossOptions, Promises
from fusedml.losses.tripletwise import TripletwiseLoss
from fusedml.reducers import AvgNonZeroReducer, MeanReducer

if TYPE_CHECKING:
    from typing_extensions import Unpack

_WINDOWS = ("all", "hard", "semihard", "easy")
_LISTED = {"batch_hard": batch_hard, "nearest_semihard": nearest_semihard}
_MININGS = (*_WINDOWS, *_LISTED)


class TripletMarginLoss(TripletwiseLoss):
    """L_ipn = max(0, d_ip - d_in + margin) of every anchor, positive and negative.

    The mean over the triplets whose loss is above 0; with a similarity the signs of both change.
    The mean, the sum and the mean of what lies between two bounds list no triplet: each anchor's
    negatives are compared with its sorted positives, in memory that does not grow with the
    triplets' number; with ``swap`` strips of positive pairs meet all negatives, in bounded memory,
    too.  Other reducers and index tuples take memory for each triplet.

    A triplet of an index tuple counts as often as it is listed; of a tuple of pairs all positives
    and negatives with the same anchor make triplets.

    Args:
        margin: how much farther than the positive the negative should be.
        swap: take the distance from the positive to the negative where it is smaller than that from
            the anchor (Balntas et al., BMVC 2016).  With references it is measured among these;
            pytorch-metric-learning reads the row of an embedding there.
        smooth_loss: log(1 + e^x) in place of max(0, x): every triplet counts.
        triplets_per_anchor: "all", or how many to draw at random, from PyTorch's generator.
        mining: None for all triplets; or which of them count, found in the same sweep:
            "all": d_in - d_ip <= margin; of these "hard": d_in <= d_ip, and "semihard":
            d_in > d_ip; "easy": d_in - d_ip > margin.  The loss is pytorch-metric-learning's
            on the tuple of its ``TripletMarginMiner(margin, type_of_triplets=mining)``.
            "batch_hard": of each anchor the farthest positive and the nearest negative (Hermans et
            al., 2017), as by its ``BatchHardMiner``.
            "nearest_semihard": for each positive the nearest negative that is farther, or the
            farthest of all where none is (Schroff et al.).

    Raises:
        ValueError: for another ``mining`` or ``triplets_per_anchor``, for ``mining`` of randomly
            drawn triplets, and for an index tuple beside ``mining``.

    Source: Schroff et al., "FaceNet: A Unified Embedding for Face Recognition and Clustering",
    CVPR 2015.
    """

    default_reducer = AvgNonZeroReducer
    hyperparameters: ClassVar[Checks] = {"margin": any_number}
    switches = ("swap", "smooth_loss", "triplets_per_anchor", "mining")
    promises = Promises(relative={128: 3.0}, not_slower_from=128)
    value_jumps = True
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "nearest_semihard": {"mining": "nearest_semihard", "reducer": MeanReducer()}
    }
    in_sentence_transformers: ClassVar[Mapping[str, str]] = {
        "": "BatchAllTripletLoss",
        "nearest_semihard": "BatchSemiHardTripletLoss",
    }

    def __init__(
        self,
        margin: float | Tensor = 0.05,
        swap: bool = False,
        smooth_loss: bool = False,
        triplets_per_anchor: int | str = "all",
        *,
        mining: Literal["all", "hard", "semihard", "easy", "batch_hard", "nearest_semihard"]
        | None = None,
        **kwargs: Unpack[LossOptions],
    ) -> None:
        super().__init__(**kwargs)
        if mining is not None:
            check_choice("mining", mining, _MININGS, "None or ")
        triplets_per_anchor = check_count_or_all("triplets_per_anchor", triplets_per_anchor)
        if mining is not None and triplets_per_anchor != "all":
            raise ValueError(
                f'triplets_per_anchor must be "all" with mining={mining!r}, got '
                f"{triplets_per_anchor}"
            )
        self.margin = margin
        self.swap = check_flag("swap", swap)
        self.smooth_loss = check_flag("smooth_loss", smooth_loss)
        self.triplets_per_anchor = triplets_per_anchor
        self.mining = mining

    def formula(self) -> TripletFormula:
        margin = self.value_of("margin")
        at_least, below = self._window(margin)
        return TripletFormula(margin, SOFTPLUS if self.smooth_loss else HINGE, at_least, below)

    def _window(self, margin: Hyperparameter) -> tuple[Hyperparameter, Hyperparameter]:
        """Which differences d_ip - d_in count: the least of them, and what all are below."""
        if self.mining not in _WINDOWS:
            return -math.inf, math.inf
        least = -margin.detach() if isinstance(margin, Tensor) else -margin
        if self.mining == "easy":
            return -math.inf, least
        if self.mining == "hard":
            least = least.clamp(min=0) if isinstance(least, Tensor) else max(least, 0.0)
        return least, 0.0 if self.mining == "semihard" else math.inf

    def losses_of_tuple(
        self, batch: Batch, indices_tuple: IndicesTuple
    ) -> PairLosses | ListedLosses | None:
        if self.mining is not None:
            raise ValueError(f"indices_tuple must be None with mining={self.mining!r}")
        return super().losses_of_tuple(batch, indices_tuple)

    def losses_by_label(self, batch: Batch) -> PairLosses | ListedLosses:
        losses = self.triplets_of(batch)
        if self.mining in _LISTED:
            with torch.no_grad():
                owner = type(self).__name__
                found = _LISTED[self.mining](batch.problem(), self.distance, owner, self.backend)
            return losses.of_list(as_listed(found))
        if isinstance(self.triplets_per_anchor, int):
            drawn = random_triplets(batch.problem(), self.triplets_per_anchor)
            return losses.of_list(as_listed(drawn))
        return losses.by_label()
