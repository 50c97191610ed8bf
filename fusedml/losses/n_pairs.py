"""N-pair loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fusedml.distances import DotProductSimilarity
from fusedml.inputs import Batch, pair_indices, require_labels_without_references
from fusedml.losses.base import BaseLoss, IndicesTuple
from fusedml.reducers import LossInfo
from fusedml.routes.class_pairs import (
    class_pair_losses,
    first_listed_pairs,
    first_positive_pairs,
)
from fusedml.routes.pair_losses import PairLosses


class NPairsLoss(BaseLoss):
    """L_k = -log(e^{<a_k, p_k>} / sum_l e^{<a_k, p_l>}) with one pair (a_k, p_k) for each class.

    The pair of a class is its first two members in the order of the batch, or the first listed
    positive pair with that anchor label; classes without a pair are left out.  The mean over the
    classes; 0 if there is none.  Embeddings are normalised by default; the paper's form is
    ``distance=DotProductSimilarity(normalize_embeddings=False)`` with an embedding regulariser.

    Raises ValueError without labels or with references.

    Source: Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", NIPS 2016,
    eq. (9).
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_pairs = 0

    def get_default_distance(self) -> nn.Module:
        return DotProductSimilarity()

    def check_call(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: IndicesTuple | None,
        ref_emb: Tensor | None,
        ref_labels: Tensor | None,
    ) -> None:
        require_labels_without_references(embeddings, labels, ref_emb, ref_labels)

    def sub_losses(
        self, batch: Batch, indices_tuple: IndicesTuple | None
    ) -> dict[str, LossInfo | PairLosses]:
        assert batch.labels is not None  # check_call
        if indices_tuple is None:
            pairs = first_positive_pairs(batch.labels)
        else:
            indices = pair_indices(indices_tuple, batch)
            pairs = first_listed_pairs(
                batch.labels, indices.positive_rows, indices.positive_columns
            )
        if self.collect_stats:
            counted = pairs.num_pairs
            self.num_pairs = pairs.members.shape[1] if counted is None else int(counted)
        losses = class_pair_losses(
            batch.embeddings,
            pairs,
            self.distance,
            self.backend,
            type(self).__name__,
        )
        return {"loss": losses}
