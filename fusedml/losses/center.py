"""Center loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from fusedml.distances import LpDistance, fused_measure
from fusedml.engine.arguments import check_number
from fusedml.engine.backends import DENSE, require_backend
from fusedml.engine.inputs import Batch
from fusedml.engine.pairs import accumulation_dtype
from fusedml.engine.precision import is_free_to_read, owned
from fusedml.engine.recorded import Gradient, UntransformedFunction
from fusedml.engine.reductions.entries import add_at
from fusedml.engine.routes.pair_losses import PairLosses, losses_of_rows
from fusedml.errors import DistanceError
from fusedml.heads import times
from fusedml.losses.base import IndicesTuple, Promises
from fusedml.losses.class_weights import ClassWeightsLoss, WeightOptions
from fusedml.reducers import LossInfo

if TYPE_CHECKING:
    from typing_extensions import Unpack


class CenterLoss(ClassWeightsLoss):
    """L_i = |x_i - c_{y_i}|^2 / 2, the embedding's squared distance from the centre of its class.

    The centres are the parameter ``centers``, [num_classes, embedding_size], drawn from a normal
    distribution.  With ``update_rate`` they are a buffer instead, which each call in training mode
    moves by the authors' rule, after the loss and whatever its weight and its optimiser:
    c_j -= update_rate sum_{y_i = j} (c_j - x_i) / (1 + number of samples of class j).

    There is no sum over pairs, and nothing to fuse: embeddings and centres are taken as they are,
    or both at length 1 with ``distance=LpDistance(power=2)``.  An index tuple becomes a weight for
    each loss: how often it lists the sample, relative to the most listed one.

    Args:
        num_classes: labels are integers in [0, num_classes).
        embedding_size: columns of the embeddings.
        update_rate: None, or a number in (0, 1].

    Raises:
        ValueError: without labels, with references, for an update rate out of its range, or for a
            distance that is no squared Euclidean one.
        LabelError: (a ValueError and RuntimeError) for labels that are not integers in
            [0, num_classes).  The range is checked on the CPU only; elsewhere, and under
            torch.compile, such a sample has the loss NaN.

    Source: Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition",
    ECCV 2016, eq. (2) to (4).
    """

    weights_name = "centers"
    promises = Promises(not_slower_from=256)

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        update_rate: float | None = None,
        **kwargs: Unpack[WeightOptions],
    ) -> None:
        super().__init__(num_classes, embedding_size, **kwargs)
        if update_rate is not None:
            check_number("update_rate", update_rate)
            if not 0 < update_rate <= 1:
                raise ValueError(f"update_rate must be in (0, 1], got {update_rate}")
        self.update_rate = update_rate
        if update_rate is not None:
            centers: Tensor = self._parameters.pop("centers")  # type: ignore[assignment]
            self.register_buffer("centers", centers.detach())

    @classmethod
    def matrix_shape(
        cls, class_sizes: Sequence[int], num_references: int, num_classes: int
    ) -> tuple[int, int]:
        return sum(class_sizes), 1

    def get_default_distance(self) -> nn.Module:
        return LpDistance(normalize_embeddings=False, power=2)

    def _check_kind(self, distance: nn.Module) -> None:
        measure = fused_measure(distance)
        if measure is None or measure.name != "squared_euclidean":
            raise DistanceError(
                "distance must be LpDistance(power=2), with or without normalize_embeddings, for "
                f"{type(self).__name__}, got {type(distance).__name__}"
            )

    def has_independent_rows(self) -> bool:
        return self.update_rate is None

    def sub_losses(
        self, batch: Batch, indices_tuple: IndicesTuple | None
    ) -> dict[str, LossInfo | PairLosses]:
        require_backend(self.backend, batch.embeddings)
        labels = self.class_labels(batch)
        if not is_free_to_read(labels):  # then their range has not been checked
            labels = labels.clamp(0, self.num_classes - 1)
        embeddings = batch.embeddings.to(accumulation_dtype(batch.embeddings.dtype))
        centers = self.class_vectors(embeddings)
        weights = self.weights_of(indices_tuple, batch)
        if weights is None and self._may_be_averaged(embeddings, centers, labels):
            averaged = self._averaged(embeddings, centers, labels, batch)
            return {"loss": averaged, **self.weight_regularization(batch.embeddings)}
        losses = self._losses(embeddings, centers, labels, batch)
        if self.update_rate is not None and self.training:
            self._move(centers, labels, embeddings)
        return self.reducible(times(losses, weights), batch)

    def _may_be_averaged(self, *given: Tensor) -> bool:
        """Whether the mean may be found without the losses, and later: of centres that stay."""
        if self.backend == DENSE or self.update_rate is not None:
            return False
        is_plain = not self.part("distance").normalize_embeddings
        return is_plain and all(map(is_free_to_read, given))

    def _averaged(
        self, embeddings: Tensor, centers: Tensor, labels: Tensor, batch: Batch
    ) -> PairLosses:
        """The losses, of which the mean is found in fewer passes over memory."""

        def mean(low: float | None, high: float | None) -> Tensor | None:
            if not (low is None and high is None and labels.numel()):
                return None
            value: Tensor = _MeanHalfSquare.apply(owned(embeddings), owned(centers), labels)
            return value if math.isfinite(value.item()) else None

        return losses_of_rows(lambda: self._losses(embeddings, centers, labels, batch), mean)

    def _losses(self, embeddings: Tensor, centers: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        own = embedding(labels, centers.to(embeddings))
        distance: Any = self.distance
        sides = distance.maybe_normalize(embeddings), distance.maybe_normalize(own)
        # a vmap within a vmap knows no rule for the latter
        if self.backend == DENSE or torch._C._are_functorch_transforms_active():
            squares = (sides[0] - sides[1]).square()
        else:  # in fewer passes over memory, its gradient too
            squares = torch.ops.aten.mse_loss(*sides, 0)  # of no reduction
        losses = squares.sum(1) / 2
        if is_free_to_read(losses) and math.isfinite(losses.detach().sum().item()):
            return losses
        return losses + self.no_losses(batch)  # of inf the loss would be inf

    @torch.no_grad()
    def _move(self, centers: Tensor, labels: Tensor, embeddings: Tensor) -> None:
        """The authors' rule."""
        assert self.update_rate is not None
        steps = embeddings - embedding(labels, centers.to(embeddings))  # to each sample
        counts = add_at(labels.new_zeros(self.num_classes), labels, torch.ones_like(labels))
        rates = self.update_rate / (1 + counts[labels]).to(steps)
        add_at(centers, labels, (steps * rates[:, None]).to(centers.dtype))


class _MeanHalfSquare(UntransformedFunction):
    """The mean of |x_i - c_{y_i}|^2 / 2, 0-d, of rows [n, d] on a CPU; c_{y_i} - x_i are kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
        steps = _steps(x, centers, labels)
        ctx.save_for_backward(x, centers, labels, steps)
        return steps.square().sum().div_(2 * labels.shape[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, centers, labels, steps = ctx.saved_tensors

        def gradient(grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
            x_grad, centers_grad = steps * (grad / labels.shape[0]), None
            if ctx.needs_input_grad[1]:
                of_centers = x_grad.to(centers.dtype)
                centers_grad = add_at(torch.zeros_like(centers), labels, of_centers)
            return x_grad.neg_(), centers_grad

        def mean(x: Tensor, centers: Tensor) -> Tensor:
            return _steps(x, centers, labels).square().sum() / (2 * labels.shape[0])

        if torch.is_grad_enabled():  # only under create_graph=True
            return *Gradient.apply(gradient, mean, grad, x, centers), None
        return *gradient(grad), None


def _steps(x: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
    """From each row to the centre of its class, [n, d]."""
    return centers.index_select(0, labels).to(x.dtype) - x
