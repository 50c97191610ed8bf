"""Sums over each row's negatives against a threshold; of two measures the harder one counts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fusedml.engine.ops import operator


class HarderSums(torch.autograd.Function):
    """V_k = sum f(max(y_kn, z_kn) - t_k + margin) of the hardnesses of a row's two embeddings.

    Arguments: both embeddings of the rows, [k, d] each; references [m, d]; t [k]; numbers, the four
    of a ``reductions.thresholds.Window``; labels of rows and references; measure; form, "hinge" or
    "softplus"; backend.  Returns V and how many negatives count, [k] each; of equal hardnesses
    each takes a half of the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        first: Tensor,
        second: Tensor,
        references: Tensor,
        t: Tensor,
        numbers: Tensor,
        *rest: Any,
    ) -> tuple[Tensor, Tensor]:
        labels, of_references, measure, form, ctx.backend = rest
        terms = [0.0, 1.0 if measure == "dot" else -1.0, *numbers.tolist()]
        t = t[:, None].contiguous()
        ctx.sides, ctx.measure = (labels, of_references), measure
        ctx.against = 1, form, terms
        sums, slopes, counts = operator("threshold_sums", ctx.backend)(
            first, references, *ctx.sides, measure, None, second, t, *ctx.against
        )[:, :, 0]
        ctx.save_for_backward(first, second, references, t, numbers, slopes)
        number = counts.round().to(torch.int64)
        ctx.mark_non_differentiable(number)
        return sums, number

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        first, second, references, t, numbers, slopes = ctx.saved_tensors
        of_first, of_second, of_references, of_t, of_numbers, *_ = ctx.needs_input_grad
        grad = grad.contiguous()
        results: list[Tensor | None] = [None, None, None]
        for k, (own, other) in enumerate(((first, second), (second, first))):
            of_own, of_others = operator("threshold_gradient", ctx.backend)(
                *(own, references, *ctx.sides, ctx.measure, None, other, t, *ctx.against),
                *(grad, grad.abs(), [(of_first, of_second)[k], of_references]),
            )
            results[k] = of_own if (of_first, of_second)[k] else None
            if of_references:
                results[2] = of_others if results[2] is None else results[2] + of_others
        weights = grad * slopes
        numbers_grad = None
        if of_numbers:
            numbers_grad = torch.zeros_like(numbers)
            numbers_grad[0] = weights.sum()
        return (*results, -weights if of_t else None, numbers_grad, *([None] * 5))
