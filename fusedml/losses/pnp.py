"""Penalising negatives before positives."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from fusedml.distances import CosineSimilarity
from fusedml.engine.arguments import check_choice
from fusedml.engine.inputs import Batch
from fusedml.engine.positives import num_positives
from fusedml.engine.precision import is_free_to_read
from fusedml.engine.routes.pair_losses import PairLosses
from fusedml.engine.routes.ranks import mean_rank_loss, rank_losses
from fusedml.formulas import pack
from fusedml.hyperparameters import Checks, any_number, positive_number, temperature_of_steps
from fusedml.losses.base import BaseLoss, IndicesTuple, LossOptions, Promises, already_reduced
from fusedml.reducers import LossInfo

if TYPE_CHECKING:
    from typing_extensions import Unpack

# each variant's form
_VARIANTS = {
    "O": "rank",
    "Ds": "log_rank",
    "Dq": "power_of_rank",
    "Iu": "rank_log_rank",
    "Ib": "rank_less_log",
}


class PNPLoss(BaseLoss):
    """L_i = mean_p f(R_ip), R_ip = sum_{N(i)} sigma((s_in - s_ip) / anneal), f the variant's.

    p runs over the positives of i and i itself; R is the smooth number of negatives before p.  The
    mean over the anchors with positives, 0 without one.

    Args:
        b: > 0, of variant "Ib".
        alpha: of variant "Dq".
        anneal: > 0, at least 1e-36, of the steps.
        variant: f(R) is "O": R; "Ds": log(1 + R); "Dq": 1 - (1 + R)^-alpha;
            "Iu": (1 + R) log(1 + R); "Ib": (b R - log(1 + b R)) / b^2.

    Raises:
        ValueError: for another variant, without labels, with references or with an index tuple.
        DistanceError: (a ValueError and AssertionError) for a distance that is no cosine.

    Source: Li et al., "Rethinking the Optimization of Average Precision: Only Penalizing Negative
    Instances before Positive Ones is Enough", AAAI 2022.
    """

    pml_hooks = ("sigmoid",)
    default_distance = required_distance = CosineSimilarity
    takes_references = False
    has_second_derivative = False
    waits_for_host = True
    takes_label_sets = False
    takes_tuples = False
    needs_labels = True
    has_single_losses = False
    hyperparameters: ClassVar[Checks] = {
        "b": positive_number,
        "alpha": any_number,
        "anneal": temperature_of_steps,
    }
    switches = ("variant",)
    promises = Promises(relative={128: 10.0}, not_slower_from=128)

    def __init__(
        self,
        b: float | Tensor = 2,
        alpha: float | Tensor = 1,
        anneal: float | Tensor = 0.01,
        variant: Literal["Ds", "Dq", "Iu", "Ib", "O"] = "O",
        **kwargs: Unpack[LossOptions],
    ) -> None:
        super().__init__(**kwargs)
        self.b = b
        self.alpha = alpha
        self.anneal = anneal
        self.variant = check_choice("variant", variant, _VARIANTS)

    def sub_losses(
        self, batch: Batch, indices_tuple: IndicesTuple | None
    ) -> dict[str, LossInfo | PairLosses]:
        form = _VARIANTS[self.variant]
        numbers = pack(*(self.value_of(name) for name in ("anneal", "b", "alpha")))
        problem = batch.problem()
        has_positive = num_positives(problem) > 0
        if is_free_to_read(has_positive) and problem.shape[0] and bool(has_positive.all()):
            mean = mean_rank_loss(problem, self.distance, self.backend, numbers, form)
            if mean is not None:
                return {"loss": already_reduced(mean)}
        losses = rank_losses(
            problem, self.distance, self.backend, type(self).__name__, numbers, form
        )
        # 0 x NaN: an embedding that is not finite concerns all
        total = torch.where(has_positive, losses, losses * 0).sum()
        return {"loss": already_reduced(total / has_positive.sum().clamp(min=1))}
