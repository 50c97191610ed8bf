"""Distillation of small batches: one matrix is held from the forward to the backward."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fusedml.engine.formulas_by_rows.statistics import row_divergences
from fusedml.engine.pairs import accumulation_dtype
from fusedml.engine.precision import without_autocast
from fusedml.engine.recorded import Gradient


class WholeDivergences(torch.autograd.Function):
    """The losses of :func:`engine.tiled.row_divergences`, of teacher and numbers that are constant.

    None without rows or if not all is finite.  Kept is dKL_i/d<a_i, a_j>, [n, n].
    """

    @staticmethod
    def forward(
        ctx: Any, anchors: Tensor, teacher: Tensor, labels: Tensor | None, numbers: Tensor
    ) -> Tensor | None:
        with without_autocast(anchors):
            found = _losses_and_weights(anchors, teacher, labels, numbers)
        if found is None:
            return None
        losses, weights = found
        ctx.save_for_backward(anchors, teacher, labels, numbers, weights)
        return losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        anchors, teacher, labels, numbers, weights = ctx.saved_tensors

        def gradient(grad: Tensor) -> tuple[Tensor]:
            with without_autocast(grad):
                own = grad[:, None] * weights
                product = torch.mm(own + own.T, anchors.to(own.dtype))
                return (product.to(anchors.dtype),)

        def formula(anchors: Tensor) -> Tensor:
            return row_divergences(anchors, teacher, labels, numbers)

        if torch.is_grad_enabled():  # only under create_graph=True
            return *Gradient.apply(gradient, formula, grad, anchors), None, None, None
        return *gradient(grad), None, None, None


def _losses_and_weights(
    anchors: Tensor, teacher: Tensor, labels: Tensor | None, numbers: Tensor
) -> tuple[Tensor, Tensor] | None:
    dtype = accumulation_dtype(anchors.dtype)
    same = None if labels is None else labels[:, None] == labels
    scale, *shifts, equal = numbers.tolist()
    logits = []
    for given, shift in zip((anchors, teacher), shifts, strict=True):
        rows = given.to(dtype)
        z = torch.mm(rows, rows.T).mul_(scale)
        if not (z.numel() and math.isfinite(z.diagonal().sum().item())):
            return None
        if same is not None:
            z.add_(scale * shift).masked_fill_(same, scale * equal)
        logits.append(torch.log_softmax(z, 1))
    log_p, log_q = logits
    q = log_q.exp()
    losses = torch.linalg.vecdot(q, log_q.sub_(log_p))
    weights = log_p.exp_().sub_(q).mul_(scale)
    return losses, weights if same is None else weights.masked_fill_(same, 0)
