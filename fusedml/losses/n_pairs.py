"""N-pair loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from fusedml.distances import DotProductSimilarity
from fusedml.engine.arguments import check_flag
from fusedml.engine.inputs import Batch, pair_indices
from fusedml.engine.routes.choice import Pairs
from fusedml.engine.routes.class_pairs import (
    class_pair_losses,
    first_listed_pairs,
    first_positive_pairs,
)
from fusedml.engine.routes.pair_losses import PairLosses
from fusedml.formulas import RowFormula, SumFormula, pack
from fusedml.losses.base import BaseLoss, IndicesTuple, LossOptions, Promises
from fusedml.reducers import LossInfo
from fusedml.terms import identity
from fusedml.terms import softplus as softplus_of

if TYPE_CHECKING:
    from typing_extensions import Unpack


class NPairsLoss(BaseLoss):
    """L_k = -log(e^{<a_k, p_k>} / sum_l e^{<a_k, p_l>}) with one pair (a_k, p_k) for each class.

    The pair of a class is its first two members in the order of the batch, or the first listed
    positive pair with that anchor label; classes without a pair are left out.  The mean over the
    classes; 0 if there is none.  Embeddings are normalised by default; the paper's form is
    ``distance=DotProductSimilarity(normalize_embeddings=False)`` with an embedding regulariser.

    Args:
        one_vs_one: L_k = sum_{l != k} log(1 + e^{<a_k, p_l> - <a_k, p_k>}) instead, the paper's
            N-pair-ovo.

    Raises:
        ValueError: without labels or with references.

    Source: Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", NIPS 2016;
    N-pair-ovo: section 3.
    """

    switches = ("one_vs_one",)
    default_distance = DotProductSimilarity
    takes_references = False
    takes_label_sets = False
    has_row_losses = False
    members_per_class = 2
    promises = Promises(growth_at=(128, 512))

    def __init__(self, *, one_vs_one: bool = False, **kwargs: Unpack[LossOptions]) -> None:
        super().__init__(**kwargs)
        self.one_vs_one = check_flag("one_vs_one", one_vs_one)
        self.num_pairs = 0

    @classmethod
    def matrix_shape(
        cls, class_sizes: Sequence[int], num_references: int, num_classes: int
    ) -> tuple[int, int]:
        num_pairs = sum(size >= 2 for size in class_sizes)
        return num_pairs, num_pairs

    def logit(self, sign: float) -> Tensor:
        return pack(sign, 0.0, sign, 0.0)

    def sub_losses(
        self, batch: Batch, indices_tuple: IndicesTuple | None
    ) -> dict[str, LossInfo | PairLosses]:
        assert batch.labels is not None  # it takes no references
        if indices_tuple is None:
            pairs = first_positive_pairs(batch.labels)
        else:
            indices = pair_indices(indices_tuple, batch, reads_negatives=False)
            pairs = first_listed_pairs(
                batch.labels, indices.positive_rows, indices.positive_columns
            )
        if self.collect_stats:
            counted = pairs.num_pairs
            self.num_pairs = pairs.members.shape[1] if counted is None else int(counted)
        if pairs.num_pairs is None and pairs.members.shape[1] == 0:
            return self.losses_without_pairs(batch)
        of_pairs, of_matrix = self._of_pairs, _cross_entropy
        if self.one_vs_one:
            of_pairs, of_matrix = self._one_vs_one, _one_vs_one
        where = self.distance, self.backend, self.pairs_of
        losses = class_pair_losses(batch.embeddings, pairs, of_pairs, of_matrix, *where)
        return {"loss": losses}

    def _of_pairs(self, pairs: Pairs) -> Tensor:
        return pairs.row_losses(RowFormula(self.logit, None, "cross_entropy"))

    def _one_vs_one(self, pairs: Pairs) -> Tensor:
        own = pairs.pair_sums(SumFormula(self.logit, (identity(True),))).sums[0]
        shifts = torch.stack([torch.zeros_like(own), -own])
        return pairs.pair_sums(SumFormula(self.logit, (softplus_of(False),), shifts)).sums[0]


def _cross_entropy(products: Tensor) -> Tensor:
    classes = torch.arange(len(products), device=products.device)
    return cross_entropy(products, classes, reduction="none")


def _one_vs_one(products: Tensor) -> Tensor:
    # (k, k) is no negative: e^{-inf} of it
    is_own = torch.eye(len(products), dtype=torch.bool, device=products.device)
    gaps = products - products.diagonal()[:, None]
    return softplus(gaps.masked_fill(is_own, -torch.inf), threshold=40).sum(1)
