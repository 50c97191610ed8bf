"""Multi-Similarity loss."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from fusedml import formulas
from fusedml.distances import CosineSimilarity
from fusedml.hyperparameters import Checks, any_number, positive_number
from fusedml.losses.formula_loss import RowwiseLoss
from fusedml.routes.choice import Pairs


class MultiSimilarityLoss(RowwiseLoss):
    """L_i = log(1 + sum_P e^{-alpha (s - base)}) / alpha
           + log(1 + sum_N e^{beta (s - base)}) / beta.

    The mean over all anchors; an anchor without positives (negatives) has 0 for that term.  With a
    distance in place of the cosine similarity the signs of the exponents change.

    alpha, beta: > 0.  base: the similarity at which a pair begins to count.
    mining_epsilon: None for all pairs; a number mines pairs online as the authors do: a positive
        counts if s - epsilon < max_N s, a negative if s + epsilon > min_P s.  The same as
        pytorch-metric-learning's loss together with its ``MultiSimilarityMiner(epsilon)``.

    Source: Wang et al., "Multi-Similarity Loss with General Pair Weighting for Deep Metric
    Learning", CVPR 2019, eq. (15); mining eq. (11) and (12).
    """

    formula = formulas.MultiSimilarity
    hyperparameters: ClassVar[Checks] = {
        "alpha": positive_number,
        "beta": positive_number,
        "base": any_number,
        "mining_epsilon": any_number,
    }
    optional_hyperparameters = frozenset({"mining_epsilon"})

    def __init__(
        self,
        alpha: float | Tensor = 2,
        beta: float | Tensor = 50,
        base: float | Tensor = 0.5,
        mining_epsilon: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.alpha = alpha
        self.beta = beta
        self.base = base
        self.mining_epsilon = mining_epsilon

    def get_default_distance(self) -> nn.Module:
        return CosineSimilarity()

    def row_losses(self, pairs: Pairs) -> Tensor:
        return pairs.row_losses(self.make_formula(), self.optional_value_of("mining_epsilon"))
