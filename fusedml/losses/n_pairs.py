"""N-pair loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fusedml import formulas
from fusedml.distances import DotProductSimilarity
from fusedml.losses.base import BaseLoss, IndicesTuple
from fusedml.losses.inputs import Batch, pair_indices
from fusedml.pairs import PairProblem
from fusedml.reducers import LossInfo, RowSums
from fusedml.routes import ListedLosses, PairLosses, labelled_pairs


def first_positive_pairs(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The first two members of each class that has two, in the order of the class labels.

    Returns anchors [n // 2] and positives [n // 2], of which the first ``num_pairs`` (int64, 0-d)
    are meant: a fixed shape and no host sync.
    """
    values, order = torch.sort(labels, stable=True)
    is_same = values[1:] == values[:-1]
    is_first = torch.ones_like(is_same)
    is_first[1:] = ~is_same[:-1]
    is_pair = is_same & is_first  # member k is the first of its class and k + 1 is of it, too
    slots = _true_first(is_pair)[: labels.shape[0] // 2]
    return order[slots], order[slots + 1], is_pair.sum()


def first_listed_pairs(labels: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, ...]:
    """The first listed pair of each anchor label, as :func:`first_positive_pairs` returns it."""
    values, order = torch.sort(labels[rows], stable=True)
    is_first = torch.ones_like(values, dtype=torch.bool)
    is_first[1:] = values[1:] != values[:-1]
    chosen = order[_true_first(is_first)][: labels.shape[0]]
    return rows[chosen], columns[chosen], is_first.sum()


def _true_first(mask: Tensor) -> Tensor:
    """Positions of the True entries in order, then those of the others."""
    return torch.argsort((~mask).to(torch.uint8), stable=True)


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

    sees_every_embedding = False

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
        embeddings, labels = batch.embeddings, batch.labels
        assert labels is not None  # check_call
        if indices_tuple is None:
            anchors, positives, num_pairs = first_positive_pairs(labels)
        else:
            indices = pair_indices(indices_tuple, batch)
            anchors, positives, num_pairs = first_listed_pairs(labels, *indices[:2])
        if self.collect_stats:
            self.num_pairs = int(num_pairs)
        classes = torch.arange(anchors.shape[0], device=embeddings.device)
        is_used = classes < num_pairs
        problem = PairProblem(
            embeddings[anchors],
            embeddings[positives],
            classes,
            classes,
            exclude_diagonal=False,
            extent=torch.stack([num_pairs, num_pairs]),
        )
        pairs = labelled_pairs(problem, self.distance, self.backend, type(self).__name__)
        losses = pairs.row_losses(formulas.NPairs())

        def listed() -> ListedLosses:
            count = int(num_pairs)
            return ListedLosses(losses[:count], anchors[:count], positives[:count])

        losses_of_pairs = PairLosses(
            lambda: RowSums(losses, is_used.long()), listed, reduction_type="element"
        )
        return {"loss": losses_of_pairs}


def require_labels_without_references(
    embeddings: Tensor, labels: Tensor | None, ref_emb: Tensor | None, ref_labels: Tensor | None
) -> None:
    """Raises ValueError unless there are labels and no references."""
    if labels is None:
        raise ValueError("labels are required for this loss function")
    if ref_emb is not None and (ref_emb is not embeddings or ref_labels is not labels):
        raise ValueError("ref_emb is not supported for this loss function")
