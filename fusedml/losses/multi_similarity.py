"""Multi-Similarity loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from fusedml.distances import CosineSimilarity
from fusedml.formulas import Hyperparameter, pack
from fusedml.hyperparameters import Checks, any_number, positive_number
from fusedml.losses.base import LossOptions, Promises
from fusedml.losses.formula_loss import RowwiseLoss
from fusedml.routes.choice import Pairs

if TYPE_CHECKING:
    from typing_extensions import Unpack


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
    promises = Promises({128: 8.0, 512: 4.0}, growth_at=(128, 512))
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

    def row_losses(self, pairs: Pairs) -> Tensor:
        return pairs.row_losses(self.make_formula(), self.optional_value_of("mining_epsilon"))
