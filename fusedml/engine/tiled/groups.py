"""Statistics of rows against groups of vectors, tile by tile: forward, and backward.

A tile is some rows against the vectors of some classes, [rows, K, classes], so that a group is
reduced over the middle dimension in passes over contiguous numbers.  Nothing of n x C numbers is
kept: the backward computes each tile again.

    y_ik = <a_i, w_ck>,   S_ic = reduction_k y_ik,   z_ic = scale S_ic + shift.

The maximum has dS/dy_k = 1 for the first largest k, the soft maximum, S = sum_k p_k y_k with
p = softmax(y), has dS/dy_k = p_k (1 + y_k - S).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from fusedml.engine.pairs import accumulation_dtype
from fusedml.engine.tiled.statistics import OnlineLse

# of a tile, which stays in the cache: 512 KB in float32
TILE_ROWS = 128
TILE_COLUMNS = 1024

_EMPTY = -math.inf


class _Problem:
    """Rows [n, d], vectors [C, K, d] and labels [n], cut into tiles."""

    def __init__(
        self, anchors: Tensor, vectors: Tensor, labels: Tensor, logit: Tensor, group: str
    ) -> None:
        self.dtype = accumulation_dtype(anchors.dtype)
        self.anchors, self.vectors, self.labels = anchors.to(self.dtype), vectors, labels
        self.positive_scale, self.positive_shift, self.negative_scale, self.negative_shift = (
            logit.tolist()
        )
        self.is_soft = group == "soft_maximum"

    def classes(self) -> Iterator[slice]:
        """Those of one tile after the other."""
        num_classes, size = self.vectors.shape[:2]
        step = max(1, TILE_COLUMNS // max(size, 1))
        for begin in range(0, num_classes, step):
            yield slice(begin, min(begin + step, num_classes))

    def rows(self) -> Iterator[slice]:
        """Those of one tile after the other."""
        n = self.anchors.shape[0]
        for begin in range(0, n, TILE_ROWS):
            yield slice(begin, min(begin + TILE_ROWS, n))

    def vectors_of(self, classes: slice) -> Tensor:
        """The vectors of some classes as the columns of a tile, [K classes, d]."""
        of_classes = self.vectors[classes].transpose(0, 1).to(self.dtype)
        return of_classes.reshape(-1, self.vectors.shape[2])

    def measures(self, rows: slice, columns: Tensor) -> Tensor:
        """y, [rows, K, classes]."""
        y = self.anchors[rows] @ columns.T
        return y.view(y.shape[0], self.vectors.shape[1], -1)

    def is_positive(self, rows: slice, classes: slice) -> Tensor:
        """Bool, [rows, classes]."""
        numbers = torch.arange(classes.start, classes.stop, device=self.labels.device)
        return self.labels[rows, None] == numbers

    def reduced(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """S, [rows, classes], and what the soft maximum's slope needs: exponentials, their sums."""
        if not self.is_soft:
            largest = y.amax(1)
            return largest, largest, largest
        exp = (y - y.amax(1, keepdim=True)).exp_()
        total = exp.sum(1)
        return (exp * y).sum(1).div_(total), exp, total

    def slope(self, y: Tensor, reduced: tuple[Tensor, Tensor, Tensor], grad: Tensor) -> Tensor:
        """dL/dy from dL/dS, in the place of y."""
        s, exp, total = reduced
        if not self.is_soft:
            is_largest = y == s.unsqueeze(1)
            # to find the first of equal ones takes ten times as long
            if y.device.type == "cpu" and int(is_largest.count_nonzero()) == s.numel():
                return torch.mul(is_largest, grad.unsqueeze(1), out=y)
            places = y.max(1, keepdim=True).indices
            return y.zero_().scatter_(1, places, grad.unsqueeze(1))
        y.add_((1 - s).unsqueeze(1)).mul_(exp)
        return y.mul_((grad / total).unsqueeze(1))


def group_statistics(
    anchors: Tensor, vectors: Tensor, labels: Tensor, logit: Tensor, group: str
) -> Tensor:
    """[2, n]: log-sum-exp over the other classes, -inf of none, and the own class's logit."""
    problem = _Problem(anchors, vectors, labels, logit, group)
    lse = OnlineLse(anchors.shape[0], problem.anchors)
    own = problem.anchors.new_zeros(anchors.shape[0])
    for classes in problem.classes():
        columns = problem.vectors_of(classes)
        for rows in problem.rows():
            s = problem.reduced(problem.measures(rows, columns))[0]
            positive = problem.is_positive(rows, classes)
            logits = s * problem.positive_scale + problem.positive_shift
            own[rows] += torch.where(positive, logits, 0).sum(1)
            logits = s.mul_(problem.negative_scale).add_(problem.negative_shift)
            lse.push(rows, logits.masked_fill_(positive, _EMPTY), 1)
    return torch.stack([lse.value(), own])


def group_gradient(
    anchors: Tensor,
    vectors: Tensor,
    labels: Tensor,
    logit: Tensor,
    group: str,
    statistics: Tensor,
    statistics_grad: Tensor,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of anchors, vectors and logit; an unneeded one is empty."""
    problem = _Problem(anchors, vectors, labels, logit, group)
    lse, (lse_grad, own_grad) = statistics[0], statistics_grad
    anchors_grad = torch.zeros_like(problem.anchors) if needs[0] else anchors.new_empty(0)
    vectors_grad = torch.empty_like(vectors) if needs[1] else vectors.new_empty(0)
    logit_grad = logit.new_zeros(4 if needs[2] else 0)
    for classes in problem.classes():
        columns = problem.vectors_of(classes)
        columns_grad = torch.zeros_like(columns)
        for rows in problem.rows():
            y = problem.measures(rows, columns)
            reduced = problem.reduced(y)
            s, positive = reduced[0], problem.is_positive(rows, classes)
            exponents = s * problem.negative_scale + (problem.negative_shift - lse[rows, None])
            negative_grad = exponents.exp_().mul_(lse_grad[rows, None]).masked_fill_(positive, 0)
            positive_grad = torch.where(positive, own_grad[rows, None], 0)
            if needs[2]:
                logit_grad += _logit_gradient(s, positive_grad, negative_grad).to(logit)
            grad = negative_grad.mul_(problem.negative_scale)
            grad.add_(positive_grad, alpha=problem.positive_scale)
            y_grad = problem.slope(y, reduced, grad).view(y.shape[0], -1)
            if needs[0]:
                anchors_grad[rows].addmm_(y_grad, columns)
            if needs[1]:
                columns_grad.addmm_(y_grad.T, problem.anchors[rows])
        if needs[1]:
            of_classes = columns_grad.view(vectors.shape[1], -1, vectors.shape[2])
            vectors_grad[classes] = of_classes.transpose(0, 1)
    return anchors_grad.to(anchors.dtype), vectors_grad, logit_grad


def _logit_gradient(s: Tensor, positive_grad: Tensor, negative_grad: Tensor) -> Tensor:
    """Of (scale+, shift+, scale-, shift-), from dL/dz of positives and negatives."""
    sums = [x for grad in (positive_grad, negative_grad) for x in ((grad * s).sum(), grad.sum())]
    return torch.stack(sums)
