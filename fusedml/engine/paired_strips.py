"""Queries and documents in strips of rows, of a matrix that is too large to be held.

While a strip is in the cache it makes the losses of its rows and the gradients of both sides, in
the forward: no matrix is kept.  What the forward cannot know is dL/dL_i: in a mean or a sum it is
one factor of all gradients; where rows have weights of their own the backward sweeps again for the
columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fusedml.engine.paired import PairedLosses, equal_value, logit_gradient, product, weigh_rows
from fusedml.engine.pairs import PairProblem
from fusedml.engine.whole import Gradients, Needs, Side

# Elements of a strip: 8 MB in float32, in the cache that cores share; with half of it products take
# a tenth longer at 8192 columns.
STRIP_ELEMENTS = 1 << 21
# Rows of a strip, so that its products are products of matrices.
LEAST_ROWS = 64

# A loss beside which those of rows without one do not count in a gradient.
_LARGE = 1e-2


class _Found(NamedTuple):
    """Losses, and the gradients that are asked for, of the losses' weighted sum.

    logit: [3, n] of each row, what w_ii, w_ii x_ii and the sum of w_ij x_ij are, w being dL/dz.
    """

    losses: Tensor
    anchors: Tensor | None
    references: Tensor | None
    logit: Tensor | None


class PairedStrips(PairedLosses):
    """Output: -log(e^{z_ii} / sum_j e^{z_ij}), [n]."""

    def __init__(self, problem: PairProblem, logit: Tensor, needs: Sequence[bool]) -> None:
        """needs: whether anchors, references and logit are to have gradients."""
        super().__init__(problem, logit)
        self.needs = needs

    def losses(self) -> Tensor | None:
        largest = self.load()
        if not self.bounds(largest):
            largest = abs(self.scale)
            for side in (self.anchors, self.references):
                largest *= torch.linalg.vector_norm(side.rows, dim=1).max().item()
            if not math.isfinite(largest):
                return None
        self.is_bounded = self.bounds(largest)
        self.found = self._swept(None, self.needs)
        return self.found.losses

    def parted(self, needs_logit: bool) -> tuple[PairedStrips, list[Tensor | None]]:
        """An object without tensors, and the tensors."""
        bare = object.__new__(PairedStrips)
        bare.__dict__ = {**self.__dict__, "operands": None, "logit": None, "found": None}
        bare.anchors = bare.references = None  # type: ignore[assignment]
        # what needs a gradient is the caller's, and is watched; of all else the rows are a copy
        sides = zip(self.operands, (self.anchors, self.references), self.needs, strict=False)
        operands = [x if need or not self.normalize else side.rows for x, side, need in sides]
        return bare, [*self.found, *(operands if self.needs[1] else ())]

    def joined(self, tensors: Sequence[Any]) -> PairedStrips:
        """The object that was ``parted``."""
        strips = object.__new__(PairedStrips)
        strips.__dict__ = self.__dict__.copy()
        size = len(_Found._fields)
        strips.found, strips.operands = _Found(*tensors[:size]), tuple(tensors[size:])
        return strips

    def gradient(self, grad: Tensor, needs: Needs) -> Gradients:
        """The gradients that are needed of anchors, references and logit."""
        found, factor = self.found, equal_value(grad)
        sums: Tensor | None = None
        if factor is not None:
            anchors, references = (
                None if of is None else of * factor for of in (found.anchors, found.references)
            )
            if found.logit is not None:
                sums = found.logit.sum(1) * factor
        else:
            anchors = None if found.anchors is None else found.anchors * grad[:, None]
            references = found.references
            if references is not None:
                references = self._of_weighted(grad, references)
            if found.logit is not None:
                sums = torch.mv(found.logit, grad)
        of_logit = None if sums is None else logit_gradient(*sums.unbind())
        return *self.in_dtypes(anchors, references), of_logit, None

    def _of_weighted(self, grad: Tensor, references: Tensor) -> Tensor:
        """The gradient of the references, from that of equal rows."""
        losses = self.found.losses
        factor = grad[losses.argmax()]
        others = losses.masked_fill(grad == factor, 0).max()
        if others.item() == 0 and losses.max().item() > _LARGE:
            # rows whose loss is 0, and which a reducer leaves out, weigh nothing beside the others
            return references * factor
        self.load()
        of_references = self._swept(grad, (False, True, False)).references
        assert of_references is not None
        return of_references

    def _swept(self, weights: Tensor | None, needs: Sequence[bool]) -> _Found:
        """Losses, and the gradients of their sum with these weights, None for 1."""
        return _Rows(self.anchors, self.references, self.scale, self.is_bounded, needs).swept(
            weights
        )


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

    def swept(self, weights: Tensor | None) -> _Found:
        """Losses, and the gradients of their sum with these weights, None for 1."""
        a, r = self.anchors.rows, self.references.rows
        room = a.new_empty(self.step, self.m)
        for begin in range(0, self.n, self.step):
            rows = slice(begin, min(begin + self.step, self.n))
            z = room if rows.stop - begin == self.step else room[: rows.stop - begin]
            torch.addmm(z, a[rows], r.T, beta=0, alpha=self.scale, out=z)  # 0: not read
            weigh_rows(z, rows.start, self.is_bounded, self.losses[rows])
            if any(self.needs):
                self._add(rows, z, None if weights is None else weights[rows].unsqueeze(1))
        of_anchors = of_references = None
        if self.needs[0] and self.own is not None:
            of_anchors = self.anchors.gradient(self.own)
        if self.others is not None:
            of_references = self.references.gradient(self.others)
        return _Found(self.losses, of_anchors, of_references, self.logit)

    def _add(self, rows: slice, w: Tensor, weights: Tensor | None) -> None:
        """What w_ij of a strip mean for both sides.  weights: of the rows, [rows, 1]."""
        a, r = self.anchors.rows[rows], self.references.rows
        if weights is not None:
            w.mul_(weights)
        if self.own is not None:
            own = self.own[rows]
            torch.addmm(own, w, r, beta=0, alpha=self.scale, out=own)
            if self.logit is not None:
                total = torch.linalg.vecdot(own, a) / self.scale
                self.logit[:, rows] = _numbers(w.diagonal(rows.start), a, r[rows], total)
        if self.others is not None:
            torch.addmm(self.others, w.T, a, alpha=self.scale, out=self.others)
        elif self.needs[1]:
            self.others = product(w.T, a, self.scale)


def _numbers(own: Tensor, a: Tensor, r: Tensor, total: Tensor) -> Tensor:
    """See ``_Found.logit``.  own: w_ii.  total: the sum of w_ij x_ij."""
    return torch.stack([own, own * torch.linalg.vecdot(a, r), total])
