"""P2SGrad loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, mse_loss

from fusedml.distances import CosineSimilarity
from fusedml.engine.backends import DENSE, require_backend
from fusedml.engine.inputs import Batch
from fusedml.engine.pairs import accumulation_dtype
from fusedml.engine.precision import (
    LEAST_NORM,
    is_free_to_read,
    prepare,
    row_norms,
    tile_dtype,
    without_autocast,
)
from fusedml.engine.routes.pair_losses import PairLosses
from fusedml.engine.routes.proxies import poison_of_labels
from fusedml.engine.whole import MOST_PAIRS
from fusedml.losses.base import IndicesTuple, Promises, already_reduced
from fusedml.losses.class_weights import ClassWeightsLoss, WeightOptions
from fusedml.reducers import LossInfo

if TYPE_CHECKING:
    from typing_extensions import Unpack

# to a length before it divides the column: by torch.renorm, which pytorch-metric-learning uses
_ADDED = 1e-7
_SHORT = 0.1  # below, a part of the length: a step changes one by less


class P2SGradLoss(ClassWeightsLoss):
    """L = (1 / n C) sum_i ((cos theta_iy - 1)^2 + sum_{c != y_i} cos^2 theta_ic).

    theta_ic is the angle between embedding i and the vector of class c, one of C = num_classes:
    the columns of ``weight``, [descriptors_dim, num_classes].  Each call sets these to length 1, as
    pytorch-metric-learning does, and their gradient is that of the columns of length 1, as they
    are: not projected.  (``fusedml.functional`` leaves its argument alone, and gives it the same
    gradient.)  The loss of an empty batch is 0.

    The sum of the squares of all cosines is that of the products of the entries of two matrices of
    descriptors_dim^2 numbers: there is no matrix of n x C, neither here nor in the backward, unless
    it is small and n < descriptors_dim.

    Args:
        descriptors_dim: columns of the embeddings.
        num_classes: labels are integers in [0, num_classes).

    Raises:
        ValueError: without labels, with references, or with an index tuple.
        DistanceError: for another distance than a CosineSimilarity.
        LabelError: (a ValueError and RuntimeError) for labels that are not integers in
            [0, num_classes).  The range is checked on the CPU only; elsewhere, and under
            torch.compile, such a batch has the loss NaN.

    Source: Zhang et al., "P2SGrad: Refined Gradients for Optimizing Deep Face Models", CVPR 2019,
    whose gradient it has.
    """

    default_distance = CosineSimilarity
    required_distance = CosineSimilarity
    agrees_with_pml_on_other_distances = False
    weights_name = "weight"
    embedding_size_name = "descriptors_dim"
    weights_are_columns = True
    takes_tuples = False
    has_single_losses = False
    promises = Promises({128: 6.0}, not_slower_from=256)

    def __init__(
        self, descriptors_dim: int, num_classes: int, **kwargs: Unpack[WeightOptions]
    ) -> None:
        super().__init__(num_classes, descriptors_dim, **kwargs)
        self.descriptors_dim = descriptors_dim

    @classmethod
    def needed_arguments(cls, num_classes: int, embedding_size: int) -> dict[str, Any]:
        return {"descriptors_dim": embedding_size, "num_classes": num_classes}

    def get_default_weight_init_func(self) -> Callable[[Tensor], Any]:
        return _draw_directions

    def has_independent_rows(self) -> bool:
        return False  # a call may change the lengths of the columns

    def sub_losses(
        self, batch: Batch, indices_tuple: IndicesTuple | None
    ) -> dict[str, LossInfo | PairLosses]:
        labels, embeddings = self.class_labels(batch), batch.embeddings
        if self.backend != DENSE:
            require_backend(self.backend, embeddings)
        wide = accumulation_dtype(embeddings.dtype)
        rows = prepare(embeddings, tile_dtype(embeddings), normalize=True).to(wide)
        vectors = self._unit_vectors(embeddings).to(rows.device, rows.dtype)
        poison = poison_of_labels(labels, self.num_classes)
        if poison is not None:
            labels = labels.clamp(0, self.num_classes - 1)
        with without_autocast(embeddings):
            loss = self._mean(rows, vectors, labels)
        if poison is not None:
            loss = loss * poison.to(loss).mean()
        return {"loss": already_reduced(loss), **self.weight_regularization(embeddings)}

    def _mean(self, rows: Tensor, vectors: Tensor, labels: Tensor) -> Tensor:
        """The mean of all squares; 0 of none."""
        (n, d), num_classes = rows.shape, vectors.shape[0]
        num_pairs = max(1, n * num_classes)
        if self.backend == DENSE or num_classes <= d or _is_small(n, d, num_classes):
            cosines = rows @ vectors.T
            if self.backend == DENSE:
                classes = torch.arange(num_classes, device=labels.device)
                squares = (cosines - (labels[:, None] == classes).to(rows)).square()
                return squares.sum() / num_pairs
            if cosines.numel() == 0:
                return cosines.sum()
            own = torch.zeros_like(cosines).scatter(1, labels[:, None], 1.0)
            # PyTorch's mean lies in the memory of all squares, which are not to live as long
            return mse_loss(cosines, own).clone()
        own = (rows * embedding(labels, vectors)).sum()
        # |A W^T|^2 = <A^T A, W^T W>, in d^2 (n + C) instead of d n C operations
        squares = ((rows.T @ rows) * (vectors.T @ vectors)).sum()
        return (squares - 2 * own + n) / num_pairs

    def _unit_vectors(self, embeddings: Tensor) -> Tensor:
        """The columns at length 1, as [num_classes, d]; their gradient is the parameter's."""
        vectors = self.class_vectors(embeddings)
        unit, is_short = _at_length_1(vectors.detach())
        weight = getattr(self, self.weights_name)
        is_own = isinstance(weight, nn.Parameter) and self._learns
        if unit is None:
            return vectors.clone()  # a later call may set the lengths anew
        is_set = is_own and not torch._C._are_functorch_transforms_active()
        if is_set:
            with torch.no_grad():
                weight.copy_(unit.T)
        learnt = vectors if is_short is None else vectors.masked_fill(is_short, 0)
        if is_set and is_free_to_read(weight):
            return learnt.clone()
        return unit + (learnt - learnt.detach())


def _at_length_1(vectors: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Rows that are so long but for rounding stay as they are: twice is once; None if all are.
    And which are too short to have a direction, [num_vectors, 1]; None if none is.
    """
    lengths, is_short = row_norms(vectors, keepdim=True), None
    most, may_be_short = 8 * torch.finfo(lengths.dtype).eps, True
    if lengths.numel() and is_free_to_read(lengths):
        low, high = (end.item() for end in torch.aminmax(lengths))
        if abs(low + _ADDED - 1) <= most and abs(high + _ADDED - 1) <= most:
            return None, None
        may_be_short = not low >= LEAST_NORM
    if may_be_short:  # a column without direction becomes 0
        is_short = lengths < LEAST_NORM
        lengths = lengths.masked_fill(is_short, math.inf)
    lengths = lengths + _ADDED * (lengths / _SHORT).clamp(max=1)
    return vectors / lengths.masked_fill((lengths - 1).abs() <= most, 1), is_short


def _is_small(n: int, d: int, num_classes: int) -> bool:
    """Whether the matrix may be held, and costs less: 3 n d C operations against 2 d^2 C."""
    return n * num_classes <= MOST_PAIRS and 3 * n <= 2 * d


@torch.no_grad()
def _draw_directions(weight: Tensor) -> None:
    weight.uniform_(-1, 1)
    unit, _ = _at_length_1(weight.T)
    if unit is not None:
        weight.copy_(unit.T)
