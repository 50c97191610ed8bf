"""Queries and documents, row i of one side belonging to row i of the other, and to no other.

Where that is all, the loss is PyTorch's cross-entropy of a matrix of products.  A softmax makes the
losses and dL/dz, PyTorch's softmax being faster than its exp, and a step takes three products.

Here the cache holds the matrix.  It is kept for the backward, which takes what a mean or a sum
makes of dL/dL_i into its products: nothing as large as the embeddings is written twice.  A larger
one, of one direction, is for ``paired_strips``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fusedml.curves import AFFINE
from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.precision import owned
from fusedml.engine.whole import Gradients, Needs, Side, may_hold_matrices, side_of

# Pairs of a matrix that is held: 8 MB in float32, in the cache that cores share.
MOST_HELD = 1 << 21
# so that strips of other matrices, of as many pairs, have 64 rows
MOST_COLUMNS = 1 << 15
# Pairs up to which this is faster with both directions than the list of positives.
MOST_PAIRS_OF_BOTH = 1 << 20
# Norms of rows that are taken as they are: of their products none overflows or underflows.
_NORMS = 1e-9, 1e9


def may_be_paired(backend: str, problem: PairProblem, both_sides: bool) -> bool:
    """Whether the problem is this module's, if row i belongs to row i and to no other.

    both_sides: whether the partners have losses as well as the rows.
    """
    is_free = may_hold_matrices(backend, problem.anchors)
    if not is_free or torch._C._are_functorch_transforms_active():
        return False
    if problem.references is None or problem.exclude_diagonal or problem.extent is not None:
        return False
    n, m = problem.shape
    is_of_size = 0 < n * m <= MOST_PAIRS_OF_BOTH and n == m if both_sides else n <= m
    return (
        n > 0
        and is_of_size
        and m <= MOST_COLUMNS
        and problem.measure == "dot"
        and problem.curve == AFFINE.name
    )


def fits_cache(problem: PairProblem) -> bool:
    """Whether the cache holds the matrix; of both directions it is held anyway."""
    n, m = problem.shape
    return n * m <= MOST_HELD


class PairedLosses:
    """What there is of such a problem before its pairs.

    The same steps as ``engine.whole.WholeMatrix`` for ``SmallOperator``.
    """

    anchors: Side
    references: Side

    def __init__(self, problem: PairProblem, logit: Tensor) -> None:
        """problem: its labels are ignored.  logit: the same on positives and on negatives."""
        assert problem.references is not None  # may_be_paired
        self.operands = problem.anchors, problem.references
        if not problem.normalize:  # rows that are kept as they are
            self.operands = owned(problem.anchors), owned(problem.references)
        self.normalize, self.logit = problem.normalize, logit
        self.dtypes = problem.anchors.dtype, problem.references.dtype

    def evaluate(self) -> tuple[Tensor] | None:
        """The losses; None of other logits, and if not all is finite."""
        self.scale, shift, *of_negatives = self.logit.tolist()
        if self.scale == 0 or of_negatives != [self.scale, shift]:
            return None
        losses = self.losses()
        return None if losses is None else (losses,)

    def losses(self) -> Tensor | None:
        """The output; None if not all is finite."""
        raise NotImplementedError

    def load(self) -> float:
        """The rows of both sides, and what no logit exceeds: inf if they may be any rows."""
        anchors, references = self.operands
        self.anchors, are_unit = side_of(anchors, self.normalize)
        self.references, are_too = side_of(references, self.normalize)
        # 1.03: of rows that are rounded to bfloat16
        return 1.03 * abs(self.scale) if are_unit and are_too else math.inf

    def bounds(self, largest: float) -> bool:
        """Whether neither a share of the softmax nor a sum of exponentials underflows or overflows.

        largest: what no logit exceeds.
        """
        return largest <= (300.0 if self.anchors.rows.dtype == torch.float64 else 36.0)

    def in_dtypes(
        self, anchors: Tensor | None, references: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients in the dtypes of what they belong to."""
        of_anchors, of_references = self.dtypes
        if anchors is not None and anchors.dtype != of_anchors:
            anchors = anchors.to(of_anchors)
        if references is not None and references.dtype != of_references:
            references = references.to(of_references)
        return anchors, references


class PairedMatrix(PairedLosses):
    """Output: -log(e^{z_ii} / sum_j e^{z_ij}), [n], and with both sides [2, n], the second of the
    columns: -log(e^{z_ii} / sum_j e^{z_ji}).

    by_norms: whether rows are taken as they are given, and not they but their products are divided
        by the norms, being fewer numbers.
    weights: dL/dz of the sum of the losses, [n, m]; by norms dL/d<a_i, r_j> of rows as they are.
    """

    def __init__(self, problem: PairProblem, logit: Tensor, both_sides: bool) -> None:
        super().__init__(problem, logit)
        self.both_sides = both_sides
        self.by_norms = problem.normalize and self._may_take_rows()

    def _may_take_rows(self) -> bool:
        """Whether the caller's rows may be kept, and it is worth while."""
        a, r = self.operands
        n, m = a.shape[0], r.shape[0]
        is_wide = a.dtype == r.dtype == accumulation_dtype(a.dtype)
        if not is_wide or self.logit.requires_grad or 2 * n * m > (n + m) * a.shape[1]:
            return False
        # what needs no gradient may be overwritten before the backward
        return not torch.is_grad_enabled() or (a.requires_grad and r.requires_grad)

    def load(self) -> float:
        if not self.by_norms:
            return super().load()
        sides = []
        for x in self.operands:
            norms = torch.linalg.vector_norm(x, 2, 1, True)
            low, high = torch.aminmax(norms)
            self.by_norms = _NORMS[0] < low.item() and high.item() < _NORMS[1]
            if not self.by_norms:
                return super().load()
            sides.append(Side(x, None, norms))
        self.anchors, self.references = sides
        return 1.03 * abs(self.scale)

    def losses(self) -> Tensor | None:
        largest = self.load()
        scales = self._scales()
        z = self._logits(scales)
        self.is_bounded = self.bounds(largest)
        if not self.is_bounded:
            low, high = (end.item() for end in torch.aminmax(z))
            largest = max(-low, high)
            if not math.isfinite(largest):
                return None
            self.is_bounded = self.bounds(largest)
        losses, self.weights = self._weighed(z, scales, None)
        return losses

    def parted(self, needs_logit: bool) -> tuple[PairedMatrix, list[Tensor | None]]:
        """An object without tensors, and the tensors."""
        bare = object.__new__(PairedMatrix)
        bare.__dict__ = {
            "both_sides": self.both_sides,
            "scale": self.scale,
            "is_bounded": self.is_bounded,
            "by_norms": self.by_norms,
            "dtypes": self.dtypes,
        }
        return bare, [self.weights, *self.anchors, *self.references]

    def joined(self, tensors: Sequence[Any]) -> PairedMatrix:
        """The object that was ``parted``, as far as ``gradient`` needs it."""
        matrix = object.__new__(PairedMatrix)
        matrix.__dict__ = self.__dict__.copy()
        size = 1 + len(Side._fields)
        matrix.weights = tensors[0]
        matrix.anchors, matrix.references = Side(*tensors[1:size]), Side(*tensors[size:])
        return matrix

    def gradient(self, grad: Tensor, needs: Needs) -> Gradients:
        """The gradients that are needed of anchors, references and logit."""
        factor, w, of_rows = equal_value(grad), self.weights, None
        scale = (1.0 if self.by_norms else self.scale) * (1.0 if factor is None else factor)
        if factor is None and self.both_sides:
            scales = self._scales()
            _, w = self._weighed(self._logits(scales), scales, grad)
        elif factor is None:
            of_rows = grad.unsqueeze(1)
        a, r = self.anchors.rows, self.references.rows
        own = others = logit = None
        if needs[0] or needs[2]:
            own = product(w, r, scale)
            if of_rows is not None:
                own.mul_(of_rows)
        if needs[2]:
            assert own is not None
            of_own = w.diagonal() * (1 if factor is None else factor)
            of_own = of_own if of_rows is None else of_own * grad
            own_x = torch.dot(of_own, torch.linalg.vecdot(a, r[: a.shape[0]]))
            total = torch.linalg.vecdot(own, a).sum() / self.scale
            logit = logit_gradient(of_own.sum(), own_x, total)
        of_anchors = self._led_back(self.anchors, own) if needs[0] and own is not None else None
        if needs[1]:
            weighted = a if of_rows is None else a * of_rows
            others = self._led_back(self.references, product(w.T, weighted, scale))
        return *self.in_dtypes(of_anchors, others), logit, None

    def _led_back(self, side: Side, grad: Tensor) -> Tensor:
        """dL/de of the embeddings from dL/drows, which is overwritten."""
        if not self.by_norms:
            return side.gradient(grad)
        assert side.norms is not None
        along = (grad * side.rows).sum(1, keepdim=True).div_(side.norms).div_(side.norms)
        return grad.addcmul_(side.rows, along, value=-1)

    def _scales(self) -> Tensor | None:
        """By norms: z of each pair over the product of its rows."""
        of_rows, of_columns = self.anchors.norms, self.references.norms
        if not self.by_norms or of_rows is None or of_columns is None:
            return None
        return (self.scale / of_rows) / of_columns.T

    def _logits(self, scales: Tensor | None) -> Tensor:
        a, r = self.anchors.rows, self.references.rows
        return product(a, r.T, self.scale) if scales is None else torch.mm(a, r.T).mul_(scales)

    def _weighed(
        self, z: Tensor, scales: Tensor | None, of_losses: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Losses, and ``weights`` of their sum with these factors, None for 1; z is overwritten."""
        if self.both_sides:
            weigh = _weigh_both_bounded if self.is_bounded else _weigh_both
            losses, w = weigh(z, of_losses)
        else:
            losses, w = weigh_rows(z, 0, self.is_bounded), z
        return losses, w if scales is None else w.mul_(scales)


def weigh_rows(z: Tensor, first: int, is_bounded: bool, out: Tensor | None = None) -> Tensor:
    """Losses of rows, from their logits, which become dL/dz.

    first: the column of the first row's partner.  out: where the losses are to be.
    """
    positive = z.diagonal(first)
    if is_bounded:
        torch.softmax(z, 1, out=z)
        losses = torch.log(positive, out=out).neg_()
    else:
        of_positive, most = positive.clone(), z.amax(1)
        torch.softmax(z, 1, out=z)
        losses = torch.sub(most.sub_(z.amax(1).log_()), of_positive, out=out)
    positive.sub_(1)
    return losses


def _weigh_both_bounded(z: Tensor, of_losses: Tensor | None) -> tuple[Tensor, Tensor]:
    """Losses of rows and columns, [2, n], and dL/dz, in the place of the logits.

    e^z is the share of the row times e^lse of the row: one exponential serves both.
    """
    own = z.diagonal()
    exp_own = own.exp()
    shares = torch.softmax(z, 1, out=z)
    of_rows = exp_own / own
    exp_z = shares * of_rows.unsqueeze(1)
    of_columns = exp_z.sum(0)
    losses = torch.stack([of_rows, of_columns]).div_(exp_own).log_()
    if of_losses is None:
        shares.addcdiv_(exp_z, of_columns)
        own.sub_(2)
    else:
        rows, columns = of_losses.unbind()
        shares.mul_(rows.unsqueeze(1)).addcmul_(exp_z, columns / of_columns)
        own.sub_(of_losses.sum(0))
    return losses, shares


def _weigh_both(z: Tensor, of_losses: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same, whatever the logits are."""
    logs = torch.log_softmax(z, 1), torch.log_softmax(z, 0)
    losses = torch.stack([of_side.diagonal() for of_side in logs]).neg_()
    w, columns = (of_side.exp_() for of_side in logs)
    if of_losses is None:
        w.add_(columns).diagonal().sub_(2)
    else:
        w.mul_(of_losses[0].unsqueeze(1)).addcmul_(columns, of_losses[1])
        w.diagonal().sub_(of_losses.sum(0))
    return losses, w


def equal_value(grad: Tensor) -> float | None:
    """The number that all are, as of a mean or a sum; None if there are others."""
    low, high = torch.aminmax(grad)
    value = low.item()
    return value if value == high.item() else None


def logit_gradient(own: Tensor, own_x: Tensor, total: Tensor) -> Tensor:
    """dL/dlogit from the sums of w_ii, of w_ii x_ii and of all w_ij x_ij.

    The weights of a row, or of a row and a column, add up to 0.
    """
    return torch.stack([own_x, own, total - own_x, -own])


def product(one: Tensor, other: Tensor, factor: float) -> Tensor:
    """factor one other."""
    out = one.new_empty(one.shape[0], other.shape[1])
    return torch.addmm(out, one, other, beta=0, alpha=factor, out=out)  # 0: not read
