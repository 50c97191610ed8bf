"""FastAP loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fusedml.distances import LpDistance
from fusedml.engine.arguments import check_whole_part
from fusedml.engine.inputs import Batch
from fusedml.engine.positives import num_positives
from fusedml.engine.routes.histograms import pair_histograms, ranked_problem
from fusedml.engine.routes.pair_losses import ListedLosses, PairLosses
from fusedml.engine.routes.proxies import tuple_weights
from fusedml.errors import DistanceError
from fusedml.losses.base import BaseLoss, IndicesTuple, LossOptions, Promises
from fusedml.reducers import LossInfo, RowSums

if TYPE_CHECKING:
    from typing_extensions import Unpack


class FastAPLoss(BaseLoss):
    """L_i = 1 - sum_k h+_k H+_k / H_k / |P(i)|, h+ the soft histogram of d^2 over the positives.

    H+ and H are the running sums of the histograms of the positives and of all pairs of i, on
    num_bins + 1 edges from 0 to 4; terms without positives are left out.  The mean over the anchors
    with positives, 0 without one.

    An index tuple becomes a weight for each loss: how often it lists the sample, relative to the
    most listed one.

    Args:
        num_bins: > 0.

    Raises:
        ValueError: without labels, with references, or for another ``num_bins``.
        DistanceError: (a ValueError and AssertionError) for a distance that is no
            LpDistance(p=2, normalize_embeddings=True).

    Source: Cakir et al., "Deep Metric Learning to Rank", CVPR 2019.
    """

    required_distance = LpDistance
    takes_references = False
    has_second_derivative = False
    takes_label_sets = False
    needs_labels = True
    has_row_losses = False
    switches = ("num_bins",)
    gradient_jumps = True  # at the edges of the bins
    promises = Promises({128: 10.0})

    def __init__(self, num_bins: int = 10, **kwargs: Unpack[LossOptions]) -> None:
        super().__init__(**kwargs)
        self.num_bins = check_whole_part("num_bins", num_bins)

    def get_default_distance(self) -> nn.Module:
        return LpDistance(power=2)

    def _check_kind(self, distance: nn.Module) -> None:
        super()._check_kind(distance)
        given: Any = distance
        if given.p != 2 or not given.normalize_embeddings:
            raise DistanceError(
                f"distance must have p=2 and normalize_embeddings=True for {type(self).__name__}, "
                f"got p={given.p} and normalize_embeddings={given.normalize_embeddings}"
            )

    def sub_losses(
        self, batch: Batch, indices_tuple: IndicesTuple | None
    ) -> dict[str, LossInfo | PairLosses]:
        problem = ranked_problem(batch)
        largest = 2.0 ** float(self._power())
        grid = 0.0, largest / self.num_bins, self.num_bins + 1
        name = type(self).__name__
        histograms = pair_histograms(problem, self.distance, self.backend, name, grid, True)
        number = num_positives(problem)
        losses = 1 - _average_precision(*histograms) / number.clamp(min=1)
        weights = tuple_weights(indices_tuple, batch)
        if weights is not None:
            losses = losses * weights.to(losses)
        has_positive = number > 0

        def listed() -> ListedLosses:
            rows = has_positive.nonzero().squeeze(1)
            return ListedLosses(losses[rows], rows, rows)

        # multiplied, not selected: an embedding that is not finite concerns all
        sums = losses * has_positive
        return {"loss": PairLosses(lambda: RowSums(sums, has_positive.long()), listed, "element")}

    def _power(self) -> float:
        given: Any = self.distance
        return given.power


def _average_precision(positive: Tensor, negative: Tensor) -> Tensor:
    """sum_k h+_k H+_k / H_k of each row, [n], from its histograms, [n, edges]."""
    product = positive * positive.cumsum(1)
    total = (positive + negative).cumsum(1)
    is_safe = ~(product <= 0) & ~(total <= 0)  # NaN stays in
    return torch.where(is_safe, product / torch.where(is_safe, total, 1), 0).sum(1)
