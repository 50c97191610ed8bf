"""The farthest positive and the nearest negative of each anchor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from fusedml.miners.base import Mined, MinerOptions
from fusedml.miners.batch_easy_hard import BatchEasyHardMiner

if TYPE_CHECKING:
    from typing_extensions import Unpack


class BatchHardMiner(BatchEasyHardMiner):
    """(a, p, n) with p the farthest positive and n the nearest negative of a.

    One triplet for each anchor that has both; of equal pairs the one with the lowest number.
    ``BatchEasyHardMiner("hard", "hard")`` as triplets, with its statistics.

    Source: Hermans, Beyer and Leibe, "In Defense of the Triplet Loss for Person
    Re-Identification", 2017, eq. (5).
    """

    def __init__(self, **kwargs: Unpack[MinerOptions]) -> None:
        super().__init__(self.HARD, self.HARD, **kwargs)

    def mine(
        self, embeddings: Tensor, labels: Tensor | None, ref_emb: Tensor, ref_labels: Tensor | None
    ) -> Mined:
        anchors, positives, _, negatives = super().mine(embeddings, labels, ref_emb, ref_labels)
        return anchors, positives, negatives
