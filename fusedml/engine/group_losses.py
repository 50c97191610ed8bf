"""Losses of rows against groups of vectors, their gradients found in the same sweep.

By tiles a step takes four matrix products: the measures, the measures again, and two gradients.
Here a strip of rows meets all classes at once.  Its log-sum-exps, its losses and their derivatives
are known before the next strip is, and the weights of its pairs follow while the measures are
there: three products, and no exponential twice.

What the forward cannot know is dL/dL_i, which a reducer will send.  It scales the rows of the
anchors' gradient.  That of the vectors it scales as a whole if it is the same for all rows, as from
a mean or a sum; otherwise the backward sweeps for it by tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fusedml.engine.autograd import group_statistics, statistics_of_groups
from fusedml.engine.backends import has_kernels
from fusedml.engine.formulas_by_rows.statistics import group_statistics as group_formula
from fusedml.engine.groups import prepare_vectors, to_gradient_of_normalized_, unit_vectors
from fusedml.engine.kept import MOST_BYTES
from fusedml.engine.ops import operator
from fusedml.engine.pairs import accumulation_dtype
from fusedml.engine.precision import owned, without_autocast
from fusedml.engine.products import add_product_, empty_sums, product
from fusedml.engine.recorded import Gradient, UntransformedFunction
from fusedml.engine.tiled.groups import GroupTiles
from fusedml.engine.whole import may_hold_matrices
from fusedml.heads import RowStatistics, times

Head = Callable[[RowStatistics], Tensor]

# measures of a strip: 8 MB in float32, which large caches hold
STRIP_ELEMENTS = 1 << 21
# of a strip, so that its products are products of matrices
LEAST_ROWS = 32


def group_losses(
    anchors: Tensor,
    vectors: Tensor,
    labels: Tensor,
    logit: Tensor,
    group: str,
    sharpness: Tensor | None,
    head: Head,
    backend: str,
    normalize: bool,
    dtype: torch.dtype,
    weights: Tensor | None = None,
) -> Tensor:
    """w_i L_i, L_i = head(statistics of row i), [n]; differentiable in all that the head is, too.

    weights: w, [n], constants; None for 1.  Known here, the sweep's gradients are of what is
    averaged.
    normalize: whether the vectors are to be divided by their norms.  dtype: in which they are
    measured.
    See :func:`fusedml.engine.autograd.group_statistics`, which has the other arguments.
    """
    if _may_be_one_sweep(backend, anchors, vectors, logit, head):
        return GroupLosses.apply(
            anchors,
            owned(vectors),
            labels,
            logit,
            group,
            sharpness,
            head,
            normalize,
            dtype,
            weights,
        )
    vectors = prepare_vectors(vectors, dtype, normalize)
    if has_kernels(backend, anchors, "group_statistics"):
        vectors = vectors.contiguous()
    statistics = group_statistics(anchors, vectors, labels, logit, group, sharpness, backend)
    return times(head(statistics), weights)


def _may_be_one_sweep(
    backend: str, anchors: Tensor, vectors: Tensor, logit: Tensor, head: Head
) -> bool:
    if not may_hold_matrices(backend, anchors) or torch._C._are_functorch_transforms_active():
        return False
    num_vectors, n = vectors.shape[0] * vectors.shape[1], anchors.shape[0]
    if n == 0 or min(n, LEAST_ROWS) * num_vectors > STRIP_ELEMENTS:
        return False
    if vectors.numel() * accumulation_dtype(vectors.dtype).itemsize > MOST_BYTES:
        return False
    # hyperparameters that learn have gradients of their own
    nothing = anchors.detach()[:0, 0]
    return not (
        logit.requires_grad or head(statistics_of_groups(nothing, nothing, 2)).requires_grad
    )


class _Strips:
    """The sweep: losses [n], statistics and their derivatives [2, n], and the gradients' sums."""

    def __init__(
        self, tiles: GroupTiles, head: Head, weights: Tensor | None, needs: tuple[bool, bool]
    ) -> None:
        self.tiles, self.head, self.weights, self.needs = tiles, head, weights, needs
        anchors, n = tiles.anchors, tiles.anchors.shape[0]
        self.classes = slice(0, tiles.vectors.shape[0])
        self.columns = tiles.vectors_of(self.classes)
        self.losses = anchors.new_empty(n)
        self.statistics = anchors.new_empty(2, n)
        self.partials = anchors.new_empty(2, n)
        self.anchors_grad = torch.empty_like(anchors) if needs[0] else None
        self.columns_grad = empty_sums(self.columns) if needs[1] else None
        # equal strips
        most = max(1, STRIP_ELEMENTS // self.columns.shape[0])
        for rows in tiles.rows(math.ceil(n / math.ceil(n / most))):
            self._add(rows)

    def _add(self, rows: slice) -> None:
        tiles = self.tiles
        y = tiles.measures(rows, self.columns)
        s = tiles.reduction.reduced(y)
        own_columns, is_own = tiles.own_columns(rows, self.classes)
        own = s.gather(1, own_columns) * tiles.positive_scale + tiles.positive_shift
        z = tiles.of_negatives(y, s, own_columns, is_own)
        largest: Tensor | float = 0.0
        if not tiles.has_bounded_logits:
            largest = z.amax(1, keepdim=True)
            # without other classes all are -inf: (-inf) - (-inf) would be NaN
            z.sub_(largest.masked_fill_(largest == -math.inf, 0))
        total = z.exp_().sum(1, keepdim=True)
        lse_grad, own_grad = self._head(rows, (total.log() + largest)[:, 0], own[:, 0])
        if not any(self.needs):
            return
        factors = (lse_grad[:, None] * tiles.negative_scale / total).masked_fill_(total == 0, 0)
        weights = tiles.weights_(y, s, z.mul_(factors), own_grad[:, None], own_columns)
        if self.anchors_grad is not None:
            grad = product(weights, self.columns.T)
            self.anchors_grad[rows] = grad if tiles.sharpness == 1 else grad * tiles.sharpness
        if self.columns_grad is not None:
            add_product_(self.columns_grad, weights, tiles.anchors[rows])

    def _head(self, rows: slice, lse: Tensor, own: Tensor) -> Tensor:
        """The derivatives of the rows' losses by their statistics, [2, rows]."""
        with torch.enable_grad():
            statistics = torch.stack([lse, own]).requires_grad_()
            losses = self.head(
                statistics_of_groups(statistics[0], statistics[1], self.classes.stop)
            )
            losses = times(losses, None if self.weights is None else self.weights[rows])
            if any(self.needs):
                (self.partials[:, rows],) = torch.autograd.grad(losses.sum(), statistics)
        self.losses[rows], self.statistics[:, rows] = losses.detach(), statistics.detach()
        return self.partials[:, rows]


class GroupLosses(UntransformedFunction):
    """w_i L_i, [n], by :class:`_Strips`."""

    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        vectors: Tensor,
        labels: Tensor,
        logit: Tensor,
        group: str,
        sharpness: Tensor | None,
        head: Head,
        normalize: bool,
        dtype: torch.dtype,
        weights: Tensor | None,
    ) -> Tensor:
        with without_autocast(anchors):
            unit, norms = unit_vectors(vectors, dtype) if normalize else (vectors.to(dtype), None)
            tiles = GroupTiles(anchors, unit, labels, logit, group, sharpness)
            strips = _Strips(tiles, head, weights, ctx.needs_input_grad[:2])
            if norms is not None and strips.columns_grad is not None:
                # here, so that nothing but the gradient has to be kept
                to_gradient_of_normalized_(strips.columns_grad, strips.columns, norms)
        # memory that the gradient may take: free memory is not always given back
        ctx.room = strips.columns if norms is not None and vectors.dtype == dtype else None
        ctx.group, ctx.prepared, ctx.head, ctx.weights = group, (normalize, dtype), head, weights
        ctx.save_for_backward(
            anchors,
            vectors,
            labels,
            logit,
            sharpness,
            strips.statistics,
            strips.partials,
            strips.anchors_grad,
            strips.columns_grad,
        )
        return strips.losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        saved, needs = ctx.saved_tensors, ctx.needs_input_grad[:2]
        normalize, dtype = ctx.prepared

        def gradient(grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
            with without_autocast(grad):
                room, ctx.room = ctx.room, None
                return _gradients(grad, ctx.group, normalize, dtype, saved, needs, room)

        nothing = (None,) * 8
        if not torch.is_grad_enabled():
            return *gradient(grad), *nothing
        # only under create_graph=True
        group, head, weights, (labels, logit, sharpness) = (
            ctx.group,
            ctx.head,
            ctx.weights,
            saved[2:5],
        )

        def formula(anchors: Tensor, vectors: Tensor) -> Tensor:
            vectors = prepare_vectors(vectors, dtype, normalize)
            given = anchors, vectors, labels, logit, group, sharpness
            lse, own = group_formula(*given)
            return times(head(statistics_of_groups(lse, own, vectors.shape[0])), weights)

        return *Gradient.apply(gradient, formula, grad, *saved[:2]), *nothing


def _gradients(
    grad: Tensor,
    group: str,
    normalize: bool,
    dtype: torch.dtype,
    saved: tuple[Any, ...],
    needs: tuple[bool, bool],
    room: Tensor | None,
) -> tuple[Tensor | None, Tensor | None]:
    """dL/danchors and dL/dvectors from dL/dL_i.  room: memory for the second, if there is any."""
    anchors, vectors, labels, logit, sharpness, *sums = saved
    statistics, partials, anchors_sums, columns_sums = sums
    anchors_grad = vectors_grad = None
    if needs[0]:
        anchors_grad = (anchors_sums * grad[:, None]).to(anchors.dtype)
    if needs[1] and bool((grad == grad[0]).all()):
        num_classes, size, d = vectors.shape
        of_classes = columns_sums.view(size, num_classes, d).transpose(0, 1)
        out = vectors.new_empty(vectors.shape) if room is None else room.view(vectors.shape)
        vectors_grad = torch.mul(of_classes, grad[0], out=out)
    elif needs[1]:
        with torch.enable_grad():
            given = vectors.detach().requires_grad_()
            unit = prepare_vectors(given, dtype, normalize)
        _, unit_grad, _ = operator("group_gradient", "torch")(
            anchors,
            unit.detach(),
            labels,
            logit,
            group,
            sharpness,
            statistics,
            partials * grad,
            [False, True, False],
        )
        (vectors_grad,) = torch.autograd.grad(unit, given, unit_grad)
    return anchors_grad, vectors_grad
