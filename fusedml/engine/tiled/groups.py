"""Statistics of rows against groups of vectors, tile by tile: forward, and backward.

A tile is some rows against the vectors of some classes, [rows, K, classes], so that a group is
reduced over the middle dimension in passes over contiguous numbers.  Nothing of n x C numbers is
kept: the backward computes each tile again.

    y_ik = <a_i, w_ck>,   S_ic = reduction_k y_ik,   z_ic = scale S_ic + shift.

A reduction of sharpness b is that of b y_ik, divided by b: a factor of anchors and scales.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from fusedml.engine.groups import TILE_REDUCTIONS, Scratch
from fusedml.engine.pairs import accumulation_dtype
from fusedml.engine.products import add_product_, empty_sums, makes_own, product
from fusedml.engine.reductions.entries import MatrixSide
from fusedml.engine.reductions.log_sums import OnlineLse
from fusedml.engine.tiled.statistics import largest_exponent

# of a tile, which stays in the cache: 512 KB in float32
TILE_ROWS = 128
TILE_COLUMNS = 1024

_EMPTY = -math.inf


class GroupTiles:
    """Rows [n, d], vectors [C, K, d] and labels [n], cut into tiles."""

    def __init__(
        self,
        anchors: Tensor,
        vectors: Tensor,
        labels: Tensor,
        logit: Tensor,
        group: str,
        sharpness: Tensor | None,
    ) -> None:
        self.dtype = accumulation_dtype(anchors.dtype)
        self.anchors, self.vectors, self.labels = anchors.to(self.dtype), vectors, labels
        self.positive_scale, self.positive_shift, self.negative_scale, self.negative_shift = (
            logit.tolist()
        )
        self.sharpness = 1.0 if sharpness is None else float(sharpness)
        if self.sharpness != 1:
            self.anchors = self.anchors * self.sharpness
            self.positive_scale /= self.sharpness
            self.negative_scale /= self.sharpness
        self.scratch = Scratch(self.anchors)
        # of y, and so of S; NaN bounds nothing
        largest, most = _longest(self.anchors) * _longest(vectors), largest_exponent(self.dtype)
        self.reduction = TILE_REDUCTIONS[group](self.scratch, is_bounded=largest <= most)
        largest_logit = abs(self.negative_scale) * largest + abs(self.negative_shift)
        self.has_bounded_logits = largest_logit <= most

    def classes(self) -> Iterator[slice]:
        """Those of one tile after the other."""
        num_classes, size = self.vectors.shape[:2]
        step = max(1, TILE_COLUMNS // max(size, 1))
        for begin in range(0, num_classes, step):
            yield slice(begin, min(begin + step, num_classes))

    def rows(self, step: int) -> Iterator[slice]:
        """Those of one tile after the other."""
        n = self.anchors.shape[0]
        for begin in range(0, n, step):
            yield slice(begin, min(begin + step, n))

    def vectors_of(self, classes: slice) -> Tensor:
        """The vectors of some classes as the columns of a tile, [K classes, d]."""
        of_classes = self.vectors[classes].transpose(0, 1).to(self.dtype)
        return of_classes.reshape(-1, self.vectors.shape[2])

    def measures(self, rows: slice, columns: Tensor) -> Tensor:
        """y, [rows, K, classes], in memory of the next tile, too."""
        a = self.anchors[rows]
        size = a.shape[0], columns.shape[0]
        y = product(a, columns, out=None if makes_own(a) else self.scratch("y", *size))
        return y.view(y.shape[0], self.vectors.shape[1], -1)

    def own_columns(self, rows: slice, classes: slice) -> tuple[Tensor, Tensor]:
        """The own class of each row as a column of a tile, [rows, 1], and whether it is one."""
        width = classes.stop - classes.start
        columns = self.labels[rows, None] - classes.start
        return columns.clamp(0, width - 1), (columns >= 0) & (columns < width)

    def of_negatives(self, y: Tensor, s: Tensor, columns: Tensor, is_own: Tensor) -> Tensor:
        """z as of the negatives, -inf for the own class, [rows, classes], where dL/dS is to be."""
        z = torch.mul(s, self.negative_scale, out=self.reduction.room(y))
        if self.negative_shift:
            z.add_(self.negative_shift)
        return z.scatter_(1, columns, z.gather(1, columns).masked_fill_(is_own, _EMPTY))

    def weights_(
        self, y: Tensor, s: Tensor, grad: Tensor, own_grad: Tensor, columns: Tensor
    ) -> Tensor:
        """dL/dy, [rows, K classes], in the place of y.

        grad: dL/dS in the place of z, 0 for the own class; it is destroyed.
        own_grad: dL/dz of the own class, [rows, 1], 0 where it is not in the tile.
        """
        own = grad.gather(1, columns).add_(own_grad, alpha=self.positive_scale)
        grad.scatter_(1, columns, own)
        return self.reduction.slope_(y, s, grad).flatten(1)


def _longest(rows: Tensor) -> float:
    """The largest norm of vectors, [..., d]."""
    norms = torch.linalg.vector_norm(rows, dim=-1, dtype=accumulation_dtype(rows.dtype))
    return float(norms.amax()) if norms.numel() else 0.0


def group_statistics(
    anchors: Tensor,
    vectors: Tensor,
    labels: Tensor,
    logit: Tensor,
    group: str,
    sharpness: Tensor | None,
) -> Tensor:
    """[2, n]: log-sum-exp over the other classes, -inf of none, and the own class's logit."""
    tiles = GroupTiles(anchors, vectors, labels, logit, group, sharpness)
    lse = OnlineLse(anchors.shape[0], tiles.anchors)
    own = tiles.anchors.new_zeros(anchors.shape[0])
    for classes in tiles.classes():
        vectors_of = tiles.vectors_of(classes)
        for rows in tiles.rows(TILE_ROWS):
            y = tiles.measures(rows, vectors_of)
            s = tiles.reduction.reduced(y)
            columns, is_own = tiles.own_columns(rows, classes)
            logits = s.gather(1, columns) * tiles.positive_scale + tiles.positive_shift
            own[rows] += torch.where(is_own, logits, 0)[:, 0]
            z = tiles.of_negatives(y, s, columns, is_own)
            lse.push(MatrixSide(rows, 1), z, z)
    return torch.stack([lse.value(), own])


def group_gradient(
    anchors: Tensor,
    vectors: Tensor,
    labels: Tensor,
    logit: Tensor,
    group: str,
    sharpness: Tensor | None,
    statistics: Tensor,
    statistics_grad: Tensor,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of anchors, vectors and logit; an unneeded one is empty."""
    tiles = GroupTiles(anchors, vectors, labels, logit, group, sharpness)
    lse, (lse_grad, own_grad) = statistics[0], statistics_grad
    # without other classes there is nothing to weigh; 0 keeps the exponents from being NaN
    lse = lse.masked_fill(lse == _EMPTY, 0)
    anchors_grad = torch.zeros_like(tiles.anchors) if needs[0] else anchors.new_empty(0)
    vectors_grad = vectors.new_empty(vectors.shape if needs[1] else 0)
    logit_grad = logit.new_zeros(4 if needs[2] else 0)
    for classes in tiles.classes():
        vectors_of = tiles.vectors_of(classes)
        of_vectors = empty_sums(vectors_of)
        for rows in tiles.rows(TILE_ROWS):
            y = tiles.measures(rows, vectors_of)
            s = tiles.reduction.reduced(y)
            columns, is_own = tiles.own_columns(rows, classes)
            z = tiles.of_negatives(y, s, columns, is_own)
            of_negatives = z.sub_(lse[rows, None]).exp_().mul_(lse_grad[rows, None])
            of_own = torch.where(is_own, own_grad[rows, None], 0)
            if needs[2]:
                own = s.gather(1, columns)
                logit_grad += _logit_gradient(own, of_own, s, of_negatives).to(logit)
            of_negatives.mul_(tiles.negative_scale)
            weights = tiles.weights_(y, s, of_negatives, of_own, columns)
            if needs[0]:
                anchors_grad[rows] += product(weights, vectors_of.T)
            if needs[1]:
                add_product_(of_vectors, weights, tiles.anchors[rows])
        if needs[1]:
            of_classes = of_vectors.view(vectors.shape[1], -1, vectors.shape[2])
            vectors_grad[classes] = of_classes.transpose(0, 1)
    if tiles.sharpness != 1:
        anchors_grad *= tiles.sharpness
        logit_grad[::2] /= tiles.sharpness
    return anchors_grad.to(anchors.dtype), vectors_grad, logit_grad


def _logit_gradient(own: Tensor, of_own: Tensor, s: Tensor, of_negatives: Tensor) -> Tensor:
    """Of (scale+, shift+, scale-, shift-), from dL/dz of the own class and of negatives."""
    pairs = (own, of_own), (s, of_negatives)
    return torch.stack([x for value, grad in pairs for x in ((grad * value).sum(), grad.sum())])
