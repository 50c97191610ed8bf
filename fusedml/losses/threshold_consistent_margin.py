"""Threshold-consistent margin loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from fusedml.distances import CosineSimilarity
from fusedml.engine.routes.choice import Pairs
from fusedml.engine.routes.term_losses import sum_of_means
from fusedml.formulas import SumFormula, pack
from fusedml.hyperparameters import Checks, any_number
from fusedml.losses.base import LossOptions, Promises
from fusedml.losses.sums import SumsLoss
from fusedml.terms import hinge

if TYPE_CHECKING:
    from typing_extensions import Unpack


class ThresholdConsistentMarginLoss(SumsLoss):
    """L = lambda_plus mean_P [margin_plus - s]+ + lambda_minus mean_N [s - margin_minus]+.

    The means are over the positive pairs with s <= margin_plus, and over the negative pairs with
    s >= margin_minus, each 0 if there is none; a pair at the margin counts.  It is a regulariser,
    to be added to another loss.

    pytorch-metric-learning ignores ``ref_emb`` and takes rows of the embeddings in its place, and
    it does not ask the distance, which may be a subclass; here both are used, as in all losses.

    Args:
        lambda_plus: weight of the positive pairs.
        lambda_minus: weight of the negative pairs.
        margin_plus: the similarity from which on positives cost nothing.
        margin_minus: the similarity up to which negatives cost nothing.

    Raises:
        DistanceError: for another distance than a CosineSimilarity.

    Source: Zhang et al., "Threshold-Consistent Margin Loss for Open-World Deep Metric Learning",
    ICLR 2024.
    """

    default_distance = CosineSimilarity
    required_distance = CosineSimilarity
    hyperparameters: ClassVar[Checks] = dict.fromkeys(
        ("lambda_plus", "lambda_minus", "margin_plus", "margin_minus"), any_number
    )
    promises = Promises({128: 6.0}, not_slower_from=128)
    agrees_with_pml_on_references = False
    agrees_with_pml_on_other_distances = False
    drops_single_pairs = False
    has_single_losses = False
    value_jumps = True
    terms = (hinge(True, is_closed=True), hinge(False, is_closed=True))

    def __init__(
        self,
        lambda_plus: float | Tensor = 1.0,
        lambda_minus: float | Tensor = 1.0,
        margin_plus: float | Tensor = 0.9,
        margin_minus: float | Tensor = 0.5,
        **kwargs: Unpack[LossOptions],
    ) -> None:
        super().__init__(**kwargs)
        self.lambda_plus = lambda_plus
        self.lambda_minus = lambda_minus
        self.margin_plus = margin_plus
        self.margin_minus = margin_minus

    def logit(self, sign: float) -> Tensor:
        margin_plus, margin_minus = self.value_of("margin_plus"), self.value_of("margin_minus")
        return pack(-sign, sign * margin_plus, sign, -sign * margin_minus)

    def loss_of(self, pairs: Pairs, formula: SumFormula) -> Tensor:
        weights = self.value_of("lambda_plus"), self.value_of("lambda_minus")
        return sum_of_means(pairs, formula, weights)
