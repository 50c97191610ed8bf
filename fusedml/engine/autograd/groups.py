"""Statistics of rows against groups of vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from fusedml.engine.autograd.statistics import pair_statistics
from fusedml.engine.backends import has_kernels
from fusedml.engine.functions import differentiable
from fusedml.engine.pairs import PairProblem
from fusedml.heads import RowStatistics

# of a class, kMostGroupVectors of the kernels
MOST_GROUP_VECTORS = 16


def group_statistics(
    anchors: Tensor,
    vectors: Tensor,
    labels: Tensor,
    logit: Tensor,
    group: str,
    sharpness: Tensor | None = None,
    backend: str = "auto",
) -> RowStatistics:
    """Statistics of anchors [n, d] against the groups of vectors [C, K, d]; differentiable.

    labels: [n], in [0, C).  group: a name of ``engine.groups.REDUCTIONS``.  sharpness: None for 1,
    or one number in float64, constant.
    Compiled kernels compute up to ``MOST_GROUP_VECTORS`` vectors of a class, in the dtype of the
    anchors; beyond, the tiles in PyTorch do on every device.
    """
    num_classes, size = vectors.shape[:2]
    is_for_kernels = size <= MOST_GROUP_VECTORS and vectors.dtype == anchors.dtype
    if backend == "cuda" and not is_for_kernels:
        raise ValueError(
            f"backend='cuda' needs at most {MOST_GROUP_VECTORS} vectors of a class, of the "
            f"anchors' dtype {anchors.dtype}, got {size} of {vectors.dtype}"
        )
    if size == 1 and is_for_kernels and has_kernels(backend, anchors):
        classes = torch.arange(num_classes, device=anchors.device)
        one = PairProblem(anchors, vectors[:, 0], labels, classes, exclude_diagonal=False)
        return pair_statistics(one, logit, None, backend)
    lse, own = differentiable(
        "group_statistics",
        backend if is_for_kernels else "torch",
        anchors,
        vectors,
        labels,
        logit,
        group,
        sharpness,
    ).unbind(0)
    return statistics_of_groups(lse, own, num_classes)


def statistics_of_groups(lse: Tensor, own: Tensor, num_classes: int) -> RowStatistics:
    """From log-sum-exps over the other classes and the logits of the own ones, both [n]."""
    one = torch.ones_like(own, dtype=torch.int64)
    return RowStatistics(own, lse, own, one, one * (num_classes - 1))
