"""Multi-Similarity loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from fusedml.distances import CosineSimilarity
from fusedml.engine.caller import warn_caller
from fusedml.engine.inputs import Batch
from fusedml.engine.routes.pair_losses import PairLosses
from fusedml.formulas import Hyperparameter, pack
from fusedml.hyperparameters import Checks, any_number, positive_number
from fusedml.losses.base import IndicesTuple, LossOptions, Promises
from fusedml.losses.formula_loss import RowwiseLoss
from fusedml.reducers import LossInfo

if TYPE_CHECKING:
    from typing_extensions import Unpack


_HINTED: set[str] = set()
# pairs of a batch below which a list costs nothing to speak of
_FEW_PAIRS = 1 << 16


class MultiSimilarityLoss(RowwiseLoss):
    """L_i = log(1 + sum_P e^{-alpha (s - base)}) / alpha
           + log(1 + sum_N e^{beta (s - base)}) / beta.

    The mean over all anchors; an anchor without positives (negatives) has 0 for that term.  With a
    distance in place of the cosine similarity the signs of the exponents change.

    Args:
        alpha: > 0.
        beta: > 0.
        base: the similarity at which a pair begins to count.
        mining_epsilon: None for all pairs; a number mines pairs online as the authors do: a
            positive counts if s - epsilon < max_N s, a negative if s + epsilon > min_P s.  The same
            as pytorch-metric-learning's loss together with its ``MultiSimilarityMiner(epsilon)``.

    Source: Wang et al., "Multi-Similarity Loss with General Pair Weighting for Deep Metric
    Learning", CVPR 2019, eq. (15); mining eq. (11) and (12).
    """

    default_distance = CosineSimilarity
    hyperparameters: ClassVar[Checks] = {
        "alpha": positive_number,
        "beta": positive_number,
        "base": any_number,
        "mining_epsilon": any_number,
    }
    optional_hyperparameters = frozenset({"mining_epsilon"})
    promises = Promises({128: 8.0, 512: 3.5}, growth_at=(128, 512))
    form = "softplus_sum"

    def __init__(
        self,
        alpha: float | Tensor = 2,
        beta: float | Tensor = 50,
        base: float | Tensor = 0.5,
        mining_epsilon: float | Tensor | None = None,
        **kwargs: Unpack[LossOptions],
    ) -> None:
        super().__init__(**kwargs)
        self.alpha = alpha
        self.beta = beta
        self.base = base
        self.mining_epsilon = mining_epsilon

    def logit(self, sign: float) -> Tensor:
        alpha, beta = sign * self.value_of("alpha"), sign * self.value_of("beta")
        base = self.value_of("base")
        return pack(-alpha, alpha * base, beta, -beta * base)

    def form_parameters(self) -> Sequence[Hyperparameter]:
        return self.value_of("alpha"), self.value_of("beta")

    def sub_losses(
        self, batch: Batch, indices_tuple: IndicesTuple | None
    ) -> dict[str, LossInfo | PairLosses]:
        losses = super().sub_losses(batch, indices_tuple)
        if indices_tuple is not None and self.optional_value_of("mining_epsilon") is None:
            _hint_at_mining(batch, indices_tuple)
        return losses

    def mining_margin(self) -> Hyperparameter | None:
        return self.optional_value_of("mining_epsilon")


def _hint_at_mining(batch: Batch, indices_tuple: IndicesTuple) -> None:
    """Says once per process that ``mining_epsilon`` needs no list, if it seems to be a miner's.

    That is, if it lists many pairs by kind, but not all that the labels make.
    """
    if _HINTED or torch.compiler.is_compiling() or len(indices_tuple) != 4:
        return
    references = batch.embeddings if batch.references is None else batch.references
    n, m = batch.embeddings.shape[0], references.shape[0]
    num_listed = sum(len(index) for index in indices_tuple[::2])
    is_mined = n * m > _FEW_PAIRS and n * m / 8 < num_listed < n * m - n
    if batch.labels is None or not is_mined:
        return
    _HINTED.add("mining_epsilon")
    warn_caller(
        f"MultiSimilarityLoss: indices_tuple lists {num_listed} of {n * m} pairs.  If it is of "
        "MultiSimilarityMiner(epsilon), MultiSimilarityLoss(mining_epsilon=epsilon) without it "
        "is the same loss in a fraction of the time and memory (said once per process)"
    )
