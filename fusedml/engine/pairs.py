"""The pair problem: which pairs there are, and what is measured of each."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

MEASURES = ("dot", "euclidean", "squared_euclidean")


class PairProblem(NamedTuple):
    """All pairs (anchor i, reference j) of a batch.

    A pair is positive when its labels are equal, or sets that have a member in common; negative
    when not; and ignored when it lies on an excluded diagonal (i == j) or outside ``extent``.

    anchors: [n, d].  references: [m, d], or None when the anchors are their own references.
    anchor_labels: int64, codes [n], or sets [n, W], see ``engine.label_sets``.
    reference_labels: the same, [m] or [m, W], or None with ``references``.
    measure: what x_ij is, see :func:`measure_matrix`.
    exclude_diagonal: whether the pairs i == j are ignored.
    extent: None, or int64 [2]: only the first extent[0] anchors and the first extent[1] references
        take part.  The numbers stay on the device, so a data-dependent size needs no host sync.
    normalize: whether the rows of both sides are still to be divided by their norms.
    anchors_sorted: whether anchor_labels are known to ascend.
    labels_sorted: whether those of both sides are known to ascend.
    curve: what makes a logit of x_ij, a name of ``fusedml.curves.CURVES``; all but "affine" take
        dot products.
    """

    anchors: Tensor
    references: Tensor | None
    anchor_labels: Tensor
    reference_labels: Tensor | None
    measure: str = "dot"
    exclude_diagonal: bool = True
    extent: Tensor | None = None
    normalize: bool = False
    anchors_sorted: bool = False
    labels_sorted: bool = False
    curve: str = "affine"

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m)."""
        others = self.anchors if self.references is None else self.references
        return self.anchors.shape[0], others.shape[0]


def measure_matrix(anchors: Tensor, references: Tensor, measure: str) -> Tensor:
    """x_ij of every pair, [n, m]: the dense definition of the three measures.

    dot: <a_i, r_j>.  squared_euclidean: max(0, |a_i|^2 + |r_j|^2 - 2 <a_i, r_j>).
    euclidean: its square root, with gradient 0 where it is 0.
    """
    product = anchors @ references.T
    if measure == "dot":
        return product
    square = (
        anchors.square().sum(1)[:, None] + references.square().sum(1)[None, :] - 2 * product
    ).clamp(min=0)
    if measure == "squared_euclidean":
        return square
    positive = square > 0
    # sqrt has an infinite slope at 0: take it of 1 there, and drop the result
    root = torch.sqrt(torch.where(positive, square, torch.ones_like(square)))
    return torch.where(positive, root, torch.zeros_like(root))


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of statistics and sums: float64 for float64 embeddings, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def widest_dtype(device: torch.device) -> torch.dtype:
    """Dtype of sums over many tiles: float64, or float32 on devices without it (Apple's)."""
    return torch.float64 if _has_float64(str(device)) else torch.float32


def _has_float64(device: str) -> bool:
    return tries_float64(device)


@cache
def tries_float64(device: str) -> bool:
    """Whether a device has float64: it stays as it is, so one try is enough."""
    try:
        torch.zeros((), dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return False
    return True


# as torch.compiler.assume_constant_result does, see ``engine.backends``
_has_float64._dynamo_marked_constant = True  # type: ignore[attr-defined]
