"""Queries and documents, row i of one side belonging to row i of the other, and to no other.

Where that is all, the loss is PyTorch's cross-entropy of a matrix of products.  A strip of its rows
is one softmax: while the strip is in the cache it makes the losses of its rows and the gradients of
both sides, in the forward.  So a step takes three matrix products, no matrix is kept, and each pair
costs one exponential, PyTorch's softmax being faster than its exp.  What
the forward cannot know is dL/dL_i: in a mean or a sum it is one factor of all gradients; where rows
have weights of their own the backward sweeps again for the columns.

Of both directions a pair's weight has the sums of its row and of its column: of as many pairs as a
cache holds the whole matrix is the one strip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fusedml.curves import AFFINE
from fusedml.engine.pairs import PairProblem
from fusedml.engine.whole import Gradients, Needs, Side, may_hold_matrices, side_of

# Elements of a strip: 8 MB in float32, in the cache that cores share; with half of it products take
# a tenth longer at 8192 columns.
STRIP_ELEMENTS = 1 << 21
# Rows of a strip, so that its products are products of matrices, and the columns that leaves.
LEAST_ROWS = 64
MOST_COLUMNS = 1 << 15
# Pairs up to which this is faster with both directions than the list of positives.
MOST_PAIRS_OF_BOTH = 1 << 20

# A loss beside which those of rows without one do not count in a gradient.
_LARGE = 1e-2


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


class _Found(NamedTuple):
    """Losses, and the gradients that are asked for, of the losses' weighted sum.

    logit: [3, n] of each row, what w_ii, w_ii x_ii and the sum of w_ij x_ij are, w being dL/dz.
    """

    losses: Tensor
    anchors: Tensor | None
    references: Tensor | None
    logit: Tensor | None


class PairedLosses:
    """Output: -log(e^{z_ii} / sum_j e^{z_ij}), [n], and with both sides [2, n], the second of the
    columns: -log(e^{z_ii} / sum_j e^{z_ji}).

    The same steps as ``engine.whole.WholeMatrix`` for ``SmallOperator``.
    """

    def __init__(
        self, problem: PairProblem, logit: Tensor, both_sides: bool, needs: Sequence[bool]
    ) -> None:
        """problem: its labels are ignored.  logit: the same on positives and on negatives.  needs:
        whether anchors, references and logit are to have gradients.
        """
        assert problem.references is not None  # may_be_paired
        self.operands = problem.anchors, problem.references
        self.normalize, self.logit, self.both_sides = problem.normalize, logit, both_sides
        self.needs, self.dtypes = needs, [side.dtype for side in self.operands]

    def evaluate(self) -> tuple[Tensor] | None:
        """The losses; None of other logits, and if not all is finite."""
        self.scale, shift, *of_negatives = self.logit.tolist()
        if self.scale == 0 or of_negatives != [self.scale, shift] or not self._load():
            return None
        self.found = self._swept(None, self.needs)
        return (self.found.losses,)

    def _load(self) -> bool:
        """The rows of both sides; False if they are not known to be finite."""
        sides = [side_of(x, self.normalize) for x in self.operands]
        self.anchors, self.references = (side for side, _ in sides)
        largest = abs(self.scale)
        for side, are_unit in sides:
            # 1.01: of rows that are rounded to bfloat16
            largest *= 1.01 if are_unit else torch.linalg.vector_norm(side.rows, dim=1).max().item()
        # so that neither a share of the softmax nor a sum of exponentials underflows or overflows
        most = 300.0 if self.anchors.rows.dtype == torch.float64 else 36.0
        self.is_bounded = largest <= most
        return math.isfinite(largest)

    def parted(self, needs_logit: bool) -> tuple[PairedLosses, list[Tensor | None]]:
        """An object without tensors, and the tensors."""
        bare = object.__new__(PairedLosses)
        bare.__dict__ = {**self.__dict__, "operands": None, "logit": None, "found": None}
        bare.anchors = bare.references = None  # type: ignore[assignment]
        # what needs a gradient is the caller's, and is watched; of all else the rows are a copy
        sides = zip(self.operands, (self.anchors, self.references), self.needs, strict=False)
        operands = [x if need or not self.normalize else side.rows for x, side, need in sides]
        return bare, [*self.found, *(operands if self._may_sweep_again() else ())]

    def _may_sweep_again(self) -> bool:
        return self.both_sides or self.needs[1]

    def joined(self, tensors: Sequence[Any]) -> PairedLosses:
        """The object that was ``parted``."""
        paired = object.__new__(PairedLosses)
        paired.__dict__ = self.__dict__.copy()
        size = len(_Found._fields)
        paired.found, paired.operands = _Found(*tensors[:size]), tuple(tensors[size:])
        return paired

    def gradient(self, grad: Tensor, needs: Needs) -> Gradients:
        """The gradients that are needed of anchors, references and logit."""
        found, (low, high) = self.found, (end.item() for end in torch.aminmax(grad))
        if low == high:  # of a mean or a sum
            anchors, references = (
                None if of is None else of * low for of in (found.anchors, found.references)
            )
            of_rows = None if found.logit is None else found.logit.sum(1) * low
        elif self.both_sides:
            self._load()
            _, anchors, references, of_rows = self._swept(grad, self.needs)
            of_rows = None if of_rows is None else of_rows.sum(1)
        else:
            anchors = None if found.anchors is None else found.anchors * grad[:, None]
            references = found.references
            if references is not None:
                references = self._of_weighted(grad, references)
            of_rows = None if found.logit is None else torch.mv(found.logit, grad)
        grads = zip((anchors, references), self.dtypes, strict=True)
        of_sides = (None if of is None else of.to(dtype) for of, dtype in grads)
        return *of_sides, self._logit_gradient(of_rows), None  # type: ignore[return-value]

    def _of_weighted(self, grad: Tensor, references: Tensor) -> Tensor:
        """The gradient of the references, from that of equal rows."""
        losses = self.found.losses
        factor = grad[losses.argmax()]
        others = losses.masked_fill(grad == factor, 0).max()
        if others.item() == 0 and losses.max().item() > _LARGE:
            # rows whose loss is 0, and which a reducer leaves out, weigh nothing beside the others
            return references * factor
        self._load()
        of_references = self._swept(grad, (False, True, False)).references
        assert of_references is not None
        return of_references

    def _logit_gradient(self, sums: Tensor | None) -> Tensor | None:
        """sums: those of ``_Found.logit`` over all rows."""
        if sums is None:
            return None
        own, own_x, total = sums.unbind()
        return torch.stack([own_x, own, total - own_x, -own])

    def _swept(self, weights: Tensor | None, needs: Sequence[bool]) -> _Found:
        """Losses, and the gradients of their sum with these weights, None for 1."""
        if self.both_sides:
            return self._of_both(weights, needs)
        return _Rows(self.anchors, self.references, self.scale, self.is_bounded, needs).swept(
            weights
        )

    def _of_both(self, weights: Tensor | None, needs: Sequence[bool]) -> _Found:
        a, r, scale = self.anchors.rows, self.references.rows, self.scale
        z = _product(a, r.T, scale)
        losses, w = _bounded_of_both(z, weights) if self.is_bounded else _of_both(z, weights)
        if not any(needs):
            return _Found(losses, None, None, None)
        own = _product(w, r, scale) if needs[0] or needs[2] else None
        logit = None
        if needs[2]:
            assert own is not None
            logit = _of_numbers(w.diagonal(), a, r, torch.linalg.vecdot(own, a) / scale)
        of_anchors = self.anchors.gradient(own) if needs[0] and own is not None else None
        of_references = self.references.gradient(_product(w.T, a, scale)) if needs[1] else None
        return _Found(losses, of_anchors, of_references, logit)


def _bounded_of_both(z: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Losses of rows and columns, [2, n], and dL/dz, from the logits, which are destroyed.

    e^z is the share of the row times e^lse of the row: one exponential serves both.
    """
    of_positive = z.diagonal().clone()
    shares = torch.softmax(z, 1, out=z)
    positive = shares.diagonal()
    of_rows = positive.log().neg_()
    exp_lse = of_positive.add_(of_rows).exp_()
    totals = torch.mv(shares.T, exp_lse)
    losses = torch.stack([of_rows, (positive * exp_lse).div_(totals).log_().neg_()])
    rows, columns = (totals.new_ones(1), totals.reciprocal())
    if weights is not None:
        rows, columns = weights[0].unsqueeze(1), weights[1] / totals
    w = torch.addcmul(rows, exp_lse.unsqueeze(1), columns).mul_(shares)
    w.diagonal().sub_(2 if weights is None else weights.sum(0))
    return losses, w


def _of_both(z: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same, whatever the logits are."""
    logs = torch.log_softmax(z, 1), torch.log_softmax(z, 0)
    losses = torch.stack([of_side.diagonal() for of_side in logs]).neg_()
    w, columns = (of_side.exp_() for of_side in logs)
    if weights is None:
        w.add_(columns).diagonal().sub_(2)
    else:
        w.mul_(weights[0].unsqueeze(1)).addcmul_(columns, weights[1])
        w.diagonal().sub_(weights.sum(0))
    return losses, w


class _Rows:
    """The sweep over strips of rows that makes losses of the rows alone."""

    def __init__(
        self,
        anchors: Side,
        references: Side,
        scale: float,
        is_bounded: bool,
        needs: Sequence[bool],
    ) -> None:
        self.anchors, self.references = anchors, references
        self.scale, self.is_bounded, self.needs = scale, is_bounded, needs
        a, self.n, self.m = anchors.rows, anchors.rows.shape[0], references.rows.shape[0]
        self.step = min(self.n, max(LEAST_ROWS, STRIP_ELEMENTS // self.m))
        self.losses = a.new_empty(self.n)
        self.logit = a.new_empty(3, self.n) if needs[2] else None
        self.own = torch.empty_like(a) if needs[0] or needs[2] else None
        self.others: Tensor | None = None

    def _part(self, x: Tensor, rows: slice) -> Tensor:
        """The rows of a strip; a slice costs as much as a small operation."""
        return x if self.step == self.n else x[rows]

    def swept(self, weights: Tensor | None) -> _Found:
        """Losses, and the gradients of their sum with these weights, None for 1."""
        a, r = self.anchors.rows, self.references.rows
        room = a.new_empty(self.step, self.m)
        for begin in range(0, self.n, self.step):
            rows = slice(begin, min(begin + self.step, self.n))
            z = room if rows.stop - begin == self.step else room[: rows.stop - begin]
            torch.addmm(z, self._part(a, rows), r.T, beta=0, alpha=self.scale, out=z)  # 0: not read
            self._lose(rows, z)
            if any(self.needs):
                self._add(rows, z, None if weights is None else weights[rows].unsqueeze(1))
        of_anchors = of_references = None
        if self.needs[0] and self.own is not None:
            of_anchors = self.anchors.gradient(self.own)
        if self.others is not None:
            of_references = self.references.gradient(self.others)
        return _Found(self.losses, of_anchors, of_references, self.logit)

    def _lose(self, rows: slice, z: Tensor) -> None:
        """The losses of a strip, from its logits, which become w_ij = dL/dz."""
        positive, losses = z.diagonal(rows.start), self._part(self.losses, rows)
        if self.is_bounded:
            torch.softmax(z, 1, out=z)
            torch.log(positive, out=losses).neg_()
        else:
            of_positive, most = positive.clone(), z.amax(1)
            torch.softmax(z, 1, out=z)
            torch.sub(most.sub_(z.amax(1).log_()), of_positive, out=losses)
        positive.sub_(1)

    def _add(self, rows: slice, w: Tensor, weights: Tensor | None) -> None:
        """What w_ij of a strip mean for both sides.  weights: of the rows, [rows, 1]."""
        a, r = self._part(self.anchors.rows, rows), self.references.rows
        if weights is not None:
            w.mul_(weights)
        if self.own is not None:
            own = self._part(self.own, rows)
            torch.addmm(own, w, r, beta=0, alpha=self.scale, out=own)
            if self.logit is not None:
                total = torch.linalg.vecdot(own, a) / self.scale
                self.logit[:, rows] = _of_numbers(w.diagonal(rows.start), a, r[rows], total)
        if self.others is not None:
            torch.addmm(self.others, w.T, a, alpha=self.scale, out=self.others)
        elif self.needs[1]:
            self.others = _product(w.T, a, self.scale)


def _of_numbers(own: Tensor, a: Tensor, r: Tensor, total: Tensor) -> Tensor:
    """See ``_Found.logit``.  own: w_ii.  total: the sum of w_ij x_ij."""
    return torch.stack([own, own * torch.linalg.vecdot(a, r), total])


def _product(one: Tensor, other: Tensor, factor: float) -> Tensor:
    """factor one other."""
    out = one.new_empty(one.shape[0], other.shape[1])
    return torch.addmm(out, one, other, beta=0, alpha=factor, out=out)  # 0: not read
