"""Angular loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fusedml.distances import LpDistance
from fusedml.engine.inputs import Batch, check_labels, pair_indices
from fusedml.engine.labels import alike
from fusedml.engine.pairs import widest_dtype
from fusedml.engine.positives import positive_pairs
from fusedml.engine.routes.joint_pairs import JointPairs
from fusedml.engine.routes.pair_losses import PairLosses
from fusedml.errors import DistanceError
from fusedml.formulas import pack
from fusedml.hyperparameters import Checks, angle
from fusedml.losses.base import IndicesTuple, LossOptions, Promises
from fusedml.losses.formula_loss import PairwiseLoss
from fusedml.reducers import LossInfo

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AngularLoss(PairwiseLoss):
    """L_ip = log(1 + sum_{N_i} e^{4 t <a_i + a_p, x_n> - 2 (1 + t) <a_i, a_p>}), t = tan^2 alpha.

    a is the embedding divided by its length, x the negative as it is given: as in
    pytorch-metric-learning the negatives keep their lengths.  Give it normalised embeddings, else a
    network lowers the loss by shortening them, and tells nothing apart.  The mean over all ordered
    positive pairs; 0 for a pair whose anchor has no negative.

    An index tuple lists the positive pairs, and a pair counts as often as it is listed; their
    negatives are all samples with another label, whatever the tuple says of negatives.  If it lists
    no negative at all, the loss is 0.

    In a batch with k samples a class there are n (k - 1) / 2 sums a_i + a_p, each of which is
    measured against the batch: the time grows with n^2 k, the memory does not.  Of large classes
    the exponentials of sums are products, added up by products of matrices, where PyTorch computes.

    With ``collect_stats`` the mean angle at the negatives is kept in ``average_angle``, in degrees:
    of atan(|a_i - a_p| / (2 |x_n - (a_i + a_p) / 2|)) over all pairs and their negatives.

    Args:
        alpha: an angle in degrees; it stays in degrees (pytorch-metric-learning's attribute of
            that name is in radians).

    Raises:
        ValueError: without labels.
        DistanceError: (a ValueError and AssertionError) for a distance that is no
            LpDistance(p=2, power=1, normalize_embeddings=True).

    Source: Wang et al., "Deep Metric Learning with Angular Loss", ICCV 2017, the
    form with all negatives of a pair.
    """

    pml_hooks = ("get_pairs", "set_stats")
    required_distance = LpDistance
    needs_labels = True
    waits_for_host = True
    hyperparameters: ClassVar[Checks] = {"alpha": angle}
    promises = Promises({128: 2.0}, not_slower_from=256)
    form = "softplus_gap"

    def __init__(self, alpha: float | Tensor = 40, **kwargs: Unpack[LossOptions]) -> None:
        super().__init__(**kwargs)
        self.alpha = alpha
        self.average_angle = 0.0

    @classmethod
    def matrix_shape(
        cls, class_sizes: Sequence[int], num_references: int, num_classes: int
    ) -> tuple[int, int]:
        if num_references:
            return sum(class_sizes) * num_references // len(class_sizes), num_references
        return sum(size * (size - 1) // 2 for size in class_sizes), sum(class_sizes)

    def _check_kind(self, distance: nn.Module) -> None:
        super()._check_kind(distance)
        given: Any = distance
        if given.p != 2 or given.power != 1 or not given.normalize_embeddings:
            raise DistanceError(
                f"distance must have p=2, power=1 and normalize_embeddings=True for "
                f"{type(self).__name__}, got p={given.p}, power={given.power} and "
                f"normalize_embeddings={given.normalize_embeddings}"
            )

    def logit(self, sign: float) -> Tensor:
        degrees = self.value_of("alpha")
        tan = (
            torch.deg2rad(degrees).tan()
            if isinstance(degrees, Tensor)
            else math.tan(math.radians(degrees))
        )
        t = tan * tan
        return pack(2 * (1 + t), 0.0, 4 * t, 0.0)

    def sub_losses(
        self, batch: Batch, indices_tuple: IndicesTuple | None
    ) -> dict[str, LossInfo | PairLosses]:
        if batch.references is not None:
            assert batch.reference_labels is not None  # as there are labels
            given = batch.reference_labels, batch.references, "ref_labels"
            check_labels(*given, batch.label_rule)
        listed = None
        if indices_tuple is not None:
            indices = pair_indices(indices_tuple, batch)
            if indices.lacks_a_kind:
                return self.losses_without_pairs(batch)
            listed = indices.positive_rows, indices.positive_columns
        problem = batch.problem()
        pairs = JointPairs(problem, self.backend, listed)
        if self.collect_stats:
            rows, positives = listed or positive_pairs(problem)
            self.average_angle = _average_angle(batch, rows, positives)
        return {"loss": pairs.pair_losses(self.make_formula())}


@torch.no_grad()
def _average_angle(batch: Batch, rows: Tensor, positives: Tensor) -> float:
    """The mean of atan(|a_i - a_p| / (2 |x_n - (a_i + a_p) / 2|)), in degrees; NaN of none."""
    wide = widest_dtype(batch.embeddings.device)
    x, problem = batch.embeddings.to(wide), batch.problem()
    others = x if batch.references is None else batch.references.to(wide)
    labels = problem.anchor_labels
    other_labels = labels if problem.reference_labels is None else problem.reference_labels
    a, r = normalize(x), normalize(others)
    total, number = 0.0, 0
    step = max(1, (1 << 20) // max(1, others.shape[0]))
    for i, p in zip(rows.split(step), positives.split(step), strict=True):
        is_negative = ~alike(labels[i], other_labels)
        base = (a[i] - r[p]).norm(dim=1, keepdim=True)
        angles = torch.atan2(base, 2 * torch.cdist((a[i] + r[p]) / 2, others))
        total += angles[is_negative].sum().item()
        number += int(is_negative.sum())
    return math.degrees(total / number) if number else math.nan
