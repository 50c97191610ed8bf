"""Losses of single triplets: a function of the difference of two measures."""

from __future__ import annotations

import abc

from fusedml.engine.few_triplets import MOST_TRIPLETS, number_of_triplets
from fusedml.engine.inputs import Batch, pair_indices
from fusedml.engine.precision import is_free_to_read
from fusedml.engine.routes.pair_losses import ListedLosses, PairLosses
from fusedml.engine.routes.triplets import (
    TripletFormula,
    TripletLosses,
    as_listed,
    joined,
    may_be_compared,
)
from fusedml.losses.base import BaseLoss, IndicesTuple, triplet_info
from fusedml.reducers import LossInfo


class TripletwiseLoss(BaseLoss):
    """One loss per anchor, positive and negative: f(y_in - y_ip + margin), y = s or -d.

    All triplets by label are summed without being listed: for the mean, the sum, and the mean of
    what lies between two bounds.  Other reducers, and index tuples, take memory for each triplet.
    A triplet of an index tuple counts as often as it is listed; of a tuple of pairs all positives
    and negatives with the same anchor make triplets.

    A subclass says what f is (``formula``).
    """

    has_second_derivative = False
    waits_for_host = True
    has_row_losses = False
    #: whether a negative is measured against the positive, too, and the harder one counts
    swap: bool = False

    @abc.abstractmethod
    def formula(self) -> TripletFormula:
        """f, and which triplets count, with the present hyper-parameters."""

    def triplets_of(self, batch: Batch) -> TripletLosses:
        """The losses of the triplets of a batch."""
        name = type(self).__name__
        distance, swaps = self.part("distance"), bool(self.swap)
        return TripletLosses(batch, self.formula(), distance, self.backend, name, swaps)

    def losses_of_tuple(
        self, batch: Batch, indices_tuple: IndicesTuple
    ) -> PairLosses | ListedLosses | None:
        """Those of an index tuple; None of one that is known to make no triplet."""
        indices, is_of_pairs = pair_indices(indices_tuple, batch), len(indices_tuple) == 4
        number = number_of_triplets(indices, is_of_pairs)
        if number == 0:
            return None
        if is_of_pairs and not self.swap and may_be_compared(indices):
            return self.triplets_of(batch).of_all_pairs(indices)
        if number is not None and number <= MOST_TRIPLETS:
            return self.triplets_of(batch).of_few(indices, is_of_pairs)
        triplets = joined(indices) if is_of_pairs else as_listed(indices)
        numbers = triplets.positives
        if numbers is not None and is_free_to_read(numbers) and numbers.shape[0] == 0:
            return None
        return self.triplets_of(batch).of_list(triplets)

    def losses_by_label(self, batch: Batch) -> PairLosses | ListedLosses:
        """Those that the labels make."""
        return self.triplets_of(batch).by_label()

    def sub_losses(
        self, batch: Batch, indices_tuple: IndicesTuple | None
    ) -> dict[str, LossInfo | PairLosses]:
        losses: PairLosses | ListedLosses | None
        if indices_tuple is None:
            losses = self.losses_by_label(batch)
        else:
            losses = self.losses_of_tuple(batch, indices_tuple)
        if losses is None:
            return self.losses_without_pairs(batch)
        return {"loss": triplet_info(losses) if isinstance(losses, ListedLosses) else losses}
