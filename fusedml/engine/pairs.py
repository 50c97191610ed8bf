"""The pair problem: which pairs there are, and what is measured of each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from fusedml.engine.traced import WithProperties

MEASURES = ("dot", "euclidean", "squared_euclidean")


class _Fields(NamedTuple):
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
    self_offset: int = 0
    curve: str = "affine"


class PairProblem(WithProperties, _Fields):
    """All pairs (anchor i, reference j) of a batch.

    A pair is positive when its labels are equal, or sets that have a member in common; negative
    when not; and ignored when it lies on an excluded diagonal or outside ``extent``.

    anchors: [n, d].  references: [m, d], or None when the anchors are their own references.
    anchor_labels: int64, codes [n], or sets [n, W], see ``engine.label_sets``.
    reference_labels: the same, [m] or [m, W], or None with ``references``.
    measure: what x_ij is, see :func:`measure_matrix`.
    exclude_diagonal: whether the pairs (i, (i + self_offset) mod m) are ignored: a row and itself.
    extent: None, or int64 [2]: only the first extent[0] anchors and the first extent[1] references
        take part.  The numbers stay on the device, so a data-dependent size needs no host sync.
    normalize: whether the rows of both sides are still to be divided by their norms.
    anchors_sorted: whether anchor_labels are known to ascend.
    labels_sorted: whether those of both sides are known to ascend.
    self_offset: of the excluded diagonal: 0, or below m, with references, at least n of them, and
        no extent; or with the sides of such a problem exchanged, see :meth:`turned`.
    curve: what makes a logit of x_ij, a name of ``fusedml.curves.CURVES``; all but "affine" take
        dot products.
    """

    __slots__ = ()

    @property
    def excluded(self) -> int | None:
        """``self_offset``, or None where no diagonal is excluded: what the operators take."""
        return self.self_offset if self.exclude_diagonal else None

    @property
    def arguments(self) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None, str, int | None]:
        """What the operators take that are not of logits."""
        return *self[:5], self.excluded

    @property
    def diagonals(self) -> tuple[int, ...]:
        """The numbers k of which the pairs (i, i + k) are ignored."""
        if not self.exclude_diagonal:
            return ()
        offset = self.self_offset
        return (0,) if offset == 0 else (offset, offset - max(self.shape))

    def own_columns(self, rows: Tensor) -> Tensor:
        """The columns that rows are themselves; m and further ones are none."""
        return own_columns(rows, self.self_offset, max(self.shape))

    def columns_from_own(self) -> Tensor:
        """All columns in the order in which the excluded diagonal has no offset, [m]; n <= m."""
        n, m = self.shape
        assert n <= m, "of fewer columns than rows no order has each row's own in its place"
        return torch.arange(m, device=self.anchors.device).roll(-self.self_offset)

    def pairs_of_rows(self) -> Tensor:
        """How many pairs each row has, positive or negative, int64 [n]."""
        n, m = self.shape
        counts = torch.full((n,), m, device=self.anchors.device)
        for rows, _ in crossed(self.diagonals, n, m):
            counts[rows] -= 1
        return counts

    def turned(self) -> PairProblem:
        """The same pairs with the references for rows and the anchors for columns."""
        assert self.references is not None and self.reference_labels is not None
        return self._replace(
            anchors=self.references,
            references=self.anchors,
            anchor_labels=self.reference_labels,
            reference_labels=self.anchor_labels,
            self_offset=-self.self_offset % max(1, *self.shape),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m)."""
        others = self.anchors if self.references is None else self.references
        return self.anchors.shape[0], others.shape[0]


def problem_of(
    anchors: Tensor,
    references: Tensor | None,
    anchor_labels: Tensor,
    reference_labels: Tensor | None,
    measure: str,
    self_offset: int | None,
) -> PairProblem:
    """The problem of an operator's arguments; self_offset: ``PairProblem.excluded``."""
    sides = anchors, references, anchor_labels, reference_labels
    problem = PairProblem(*sides, measure, self_offset is not None)
    return problem._replace(self_offset=self_offset or 0)


def own_columns(rows: Tensor, self_offset: int, size: int) -> Tensor:
    """The columns that rows are themselves, (i + offset) mod ``size``."""
    return rows if self_offset == 0 else (rows + self_offset) % size


def crossed(
    diagonals: tuple[int, ...], num_rows: int, num_cols: int
) -> Iterator[tuple[slice, slice]]:
    """Of each diagonal k the rows i, and the columns i + k, of its pairs."""
    for k in diagonals:
        begin = max(0, -k)
        end = max(begin, min(num_rows, num_cols - k))
        yield slice(begin, end), slice(begin + k, end + k)


def fill_excluded(x: Tensor, problem: PairProblem, value: float, first_row: int = 0) -> Tensor:
    """Writes ``value`` on the excluded diagonals of x, [..., k, m], rows from ``first_row`` on."""
    for k in problem.diagonals:
        x.diagonal(first_row + k, -2, -1).fill_(value)
    return x


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
