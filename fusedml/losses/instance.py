"""Instance loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from fusedml.distances import CosineSimilarity
from fusedml.engine.inputs import Batch
from fusedml.engine.labels import label_codes, label_ranks
from fusedml.engine.pairs import PairProblem
from fusedml.engine.routes.pair_losses import PairLosses, losses_of_rows
from fusedml.engine.routes.target_rows import mean_target_loss
from fusedml.formulas import pack
from fusedml.heads import Rows, softplus
from fusedml.hyperparameters import Checks, positive_number
from fusedml.losses.base import IndicesTuple, LossOptions, Promises
from fusedml.losses.formula_loss import RowwiseLoss
from fusedml.reducers import LossInfo

if TYPE_CHECKING:
    from typing_extensions import Unpack


class InstanceLoss(RowwiseLoss):
    """L_i = -log(e^{gamma s_{i r_i}} / sum_j e^{gamma s_ij}), r_i the rank of the label of row i.

    s_ij is the cosine similarity, the diagonal included.  The rank of a label is its place, from 0,
    among the different labels of the batch; each row is drawn to the row of that *number*, as in
    pytorch-metric-learning.  With labels 0, 1, ..., n - 1 that is the row itself: every sample is
    a class of its own, as in the paper.

    Args:
        gamma: > 0, the inverse of a temperature.

    Raises:
        ValueError: without labels, with references or an index tuple, or for a distance that is no
            CosineSimilarity.

    Source: Zheng et al., "Dual-Path Convolutional Image-Text Embeddings with Instance Loss", ACM
    TOMM 2020, with the batch itself in the place of the classifier's weights.
    """

    default_distance = CosineSimilarity
    required_distance = CosineSimilarity
    takes_references = False
    takes_label_sets = False
    takes_tuples = False
    pairs_equal_labels = False
    hyperparameters: ClassVar[Checks] = {"gamma": positive_number}
    promises = Promises({128: 3.0})

    def __init__(self, gamma: float | Tensor = 64, **kwargs: Unpack[LossOptions]) -> None:
        super().__init__(**kwargs)
        self.gamma = gamma

    def logit(self, sign: float) -> Tensor:
        gamma = sign * self.value_of("gamma")
        return pack(gamma, 0.0, gamma, 0.0)

    def head(self, row: Rows) -> Tensor:
        # exact where the loss is small: log-sum-exps of logits about gamma are not
        return softplus(row.lse_negative - row.sum_positive)

    def sub_losses(
        self, batch: Batch, indices_tuple: IndicesTuple | None
    ) -> dict[str, LossInfo | PairLosses]:
        assert batch.labels is not None  # it takes no references
        embeddings, ranks = batch.embeddings, label_ranks(label_codes(batch.labels))

        def losses() -> Tensor:
            columns = torch.arange(embeddings.shape[0], device=embeddings.device)
            problem = PairProblem(embeddings, embeddings, ranks, columns, exclude_diagonal=False)
            return self.row_losses(self.pairs_of(problem))

        def mean(low: float | None, high: float | None) -> Tensor | None:
            given, distance = (embeddings, None, ranks), self.part("distance")
            interval = low, high
            return mean_target_loss(*given, self.make_formula(), distance, self.backend, interval)

        return {"loss": losses_of_rows(losses, mean)}
