"""Embeddings that come as anchor, positive, negative, anchor, ..."""

from __future__ import annotations

import torch
from torch import Tensor

from fusedml.errors import TupleError
from fusedml.miners.base import BaseMiner, Mined


class EmbeddingsAlreadyPackagedAsTriplets(BaseMiner):
    """Triplets (0, 1, 2), (3, 4, 5), ...: of embeddings that are packaged as triplets already.

    Labels are not looked at, and nothing is measured.

    Raises TupleError (a ValueError and AssertionError) if n is no multiple of 3.
    """

    needs_labels = False
    measures_pairs = False

    def mine(
        self, embeddings: Tensor, labels: Tensor | None, ref_emb: Tensor, ref_labels: Tensor | None
    ) -> Mined:
        n = embeddings.shape[0]
        if n % 3:
            raise TupleError(
                f"embeddings must have 3 rows for each triplet, got shape {tuple(embeddings.shape)}"
            )
        anchors, positives, negatives = torch.arange(n, device=embeddings.device).view(-1, 3).T
        return anchors, positives, negatives
