"""The weight of a pair, dL/ds, for any loss: by differentiating the loss itself.

Most losses see the embeddings only through their products, so the gradient of the stacked rows Z
(the embeddings, and the vectors of classes or the other set) is H Z for one symmetric H whose entry
(i, j) is dL/ds of pair {i, j}, in both orders where the loss has both.  Of linearly independent
rows H = grad Z^+; dividing the rows by their lengths adds to the diagonal only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn

from benchmarks.cases import MEASURED
from fusedml.losses.base import BaseLoss
from fusedml.losses.distillation import DistillationLoss
from fusedml.losses.two_towers import TwoTowerLoss

_CLASSES, _MEMBERS = 4, 3
# how much of each row is orthogonal to all others; they are independent then
_OWN = 0.05
_SEED = 3


@dataclass(frozen=True)
class Batch:
    """Rows that a loss compares: ``anchors`` of them, and the others if it has two sets.

    rows: [anchors + others, d], float64.  labels: those of all rows.  positive, negative: a row of
    the same and of another class than row 0, such that every loss compares row 0 with them.
    """

    rows: Tensor
    labels: Tensor
    anchors: int
    positive: int
    negative: int


def pair_weights(name: str, batch: Batch) -> Tensor:
    """dL/ds of all pairs of rows, [rows, rows], of the loss of that name with its defaults.

    Of several batches that differ in their rows, [k, rows, d], those of each, [k, rows, rows].
    Raises ValueError if the gradient is not finite, or not one of the products of rows.
    """
    grad = _gradient(name, batch)
    weights = grad @ torch.linalg.pinv(batch.rows)
    if not _is_made_of(grad, weights, batch):
        raise ValueError(
            f"{name} must be a function of the rows' products, got the gradient {grad}"
        )
    return weights


@cache
def has_pair_weights(name: str) -> bool:
    """Whether the loss sees nothing but products of rows, so that pairs have weights."""
    if issubclass(MEASURED[name], DistillationLoss):  # what a pair weighs its teacher says
        return False
    batch = batch_of(name)
    grad = _gradient(name, batch)
    return _is_made_of(grad, grad @ torch.linalg.pinv(batch.rows), batch)


def _is_made_of(grad: Tensor, weights: Tensor, batch: Batch) -> bool:
    # there are more dimensions than rows: most gradients are no sums of the rows
    rest = (weights @ batch.rows - grad).abs().amax((-2, -1))
    return bool((rest <= 1e-6 * grad.abs().amax((-2, -1))).all())


def _gradient(name: str, batch: Batch) -> Tensor:
    rows = batch.rows.detach().requires_grad_()
    each = rows.view(-1, *rows.shape[-2:]).unbind()
    total = torch.stack([_value(name, of_one, batch) for of_one in each]).sum()
    (grad,) = torch.autograd.grad(total, rows)
    return grad


def _value(name: str, rows: Tensor, batch: Batch) -> Tensor:
    kind = MEASURED[name]
    own, others = rows[: batch.anchors], rows[batch.anchors :]
    if issubclass(kind, TwoTowerLoss):
        two_towers = kind()
        value: Tensor = two_towers(own, others, **two_towers.example_arguments)
        return value
    assert issubclass(kind, BaseLoss)  # has_pair_weights
    if kind.weights_name is None:
        loss = kind.of_sizes(_CLASSES, rows.shape[1]).double()
        return loss(own, batch.labels[: batch.anchors])
    columns = getattr(kind, "weights_are_columns", False)
    loss = kind.of_weights(nn.Parameter(others.detach().T if columns else others.detach())).double()
    name_of_weights = str(kind.weights_name)
    # functional_call puts a tensor with a graph in the parameter's place
    weights = {name_of_weights: others.T if columns else others}
    return torch.func.functional_call(loss, weights, (own, batch.labels[: len(own)]))


def batch_of(name: str) -> Batch:
    """The batch of a loss's page: a few classes on a sphere of three dimensions."""
    kind = MEASURED[name]
    is_pair, has_weights = issubclass(kind, TwoTowerLoss), kind.weights_name is not None
    members = 1 if is_pair else _MEMBERS
    labels = torch.arange(_CLASSES * _MEMBERS) // members
    anchors, others = len(labels), torch.tensor([], dtype=torch.int64)
    if is_pair:
        others = labels
    elif has_weights:
        others = torch.arange(_CLASSES).repeat_interleave(
            getattr(kind, "default_vectors_per_class", 1)
        )
    both = torch.cat([labels, others])
    generator = torch.Generator().manual_seed(_SEED)
    centres = torch.randn(int(labels.max()) + 1, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(both), 3, generator=generator, dtype=torch.float64)
    directions = nn.functional.normalize(centres[both] + 0.8 * noise)
    rows = torch.cat([directions * (1 - _OWN) ** 0.5, _OWN**0.5 * torch.eye(len(both)).double()], 1)
    start = anchors if len(others) else 1
    is_own = both[start:] == both[0]
    positive, negative = (int(kind.nonzero()[0]) + start for kind in (is_own, ~is_own))
    if not len(others):
        negative += 1  # the N-pair loss compares with the second member of another class
    return Batch(rows, both, anchors, positive, negative)


def all_pairs(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Similarity, weight and whether it is positive, of each pair that the loss can compare."""
    batch = batch_of(name)
    weights, similarities = pair_weights(name, batch), batch.rows @ batch.rows.T
    n = len(batch.rows)
    i, j = torch.triu_indices(n, n, 1)
    if n > batch.anchors:
        is_compared = (i < batch.anchors) & (j >= batch.anchors)
        i, j = i[is_compared], j[is_compared]
    return similarities[i, j], weights[i, j], batch.labels[i] == batch.labels[j]


def swept(name: str, is_positive: bool, angles: Tensor) -> tuple[Tensor, Tensor]:
    """Similarity and weight of one pair whose second row moves along a great circle."""
    batch = batch_of(name)
    column = batch.positive if is_positive else batch.negative
    anchor = batch.rows[0]
    across = batch.rows[column] - anchor * (anchor @ batch.rows[column])
    across = nn.functional.normalize(across, dim=0)
    rows = batch.rows.repeat(len(angles), 1, 1)
    rows[:, column] = torch.outer(angles.cos(), anchor) + torch.outer(angles.sin(), across)
    return angles.cos(), pair_weights(name, replace(batch, rows=rows))[:, 0, column]
