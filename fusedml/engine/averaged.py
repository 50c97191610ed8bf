"""Means of losses whose gradients are found with them, of matrices that are held whole.

A mean of the losses in an interval sends each of these one number, and the others none.  So dL of
everything is known in the forward but for a factor: it is found while the matrices are there,
nothing of their size is kept, and the backward multiplies.  Of few pairs, where calls cost more
than numbers, a step takes a fifth less time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from fusedml.engine.pairs import accumulation_dtype
from fusedml.engine.precision import is_free_to_read
from fusedml.engine.whole import Gradients, Needs

Interval = tuple[float | None, float | None]
"""(low, high): the losses above the one and below the other; None for no bound."""

EVERYTHING: Interval = (None, None)


def mean_between(losses: Tensor, interval: Interval) -> Tensor:
    """The mean of the losses in the interval, 0 of none, NaN if one is NaN; differentiable."""
    if interval == EVERYTHING:
        return losses.sum() / max(losses.numel(), 1)
    kept = _kept(losses, interval) | losses.isnan()
    return torch.where(kept, losses, 0).sum() / kept.count_nonzero().clamp(min=1)


def _kept(losses: Tensor, interval: Interval) -> Tensor:
    low, high = interval
    if high is None:
        return losses > -math.inf if low is None else losses > low
    return losses < high if low is None else (losses > low).logical_and_(losses < high)


class Losses(Protocol):
    """What makes losses, [k], or one number of them, and their gradient of matrices, see
    ``engine.whole.WholeMatrix``.

    dtypes: those of the gradients of anchors and references.
    """

    dtypes: list[torch.dtype | None]

    def evaluate(self) -> tuple[Tensor, ...] | None: ...
    def gradient(self, grad: Tensor | float, needs: Needs) -> Gradients: ...


class AveragedLosses:
    """Output: the mean of the losses in an interval, 0-d; the steps for ``SmallOperator``.

    operands: anchors, references and logit.  needs: whether they are to have gradients.
    """

    def __init__(
        self,
        losses: Losses,
        interval: Interval,
        operands: Sequence[Tensor | None],
        needs: Sequence[bool],
    ) -> None:
        self.losses, self.interval, self.operands = losses, interval, operands
        self.needs: Needs = (*needs, False)  # type: ignore[assignment]
        self.dtypes = losses.dtypes
        self.grads: Sequence[Tensor | None] = (None,) * 4

    def evaluate(self) -> tuple[Tensor] | None:
        """The mean; None as of the losses."""
        made = self.losses
        outputs = made.evaluate()
        if outputs is None:
            return None
        mean, weights = _mean_and_weights(outputs[0], self.interval)
        if weights is None:
            each = zip(self.operands, self.needs[:3], strict=True)
            grads = [torch.zeros_like(x) if need and x is not None else None for x, need in each]
            self.grads = [*grads, None]
        elif any(self.needs):
            # in the dtype of the sums, to be rounded once
            made.dtypes = [None if of is None else accumulation_dtype(of) for of in made.dtypes]
            self.grads = made.gradient(weights, self.needs)
        return (mean,)

    def parted(self, needs_logit: bool) -> tuple[AveragedLosses, Sequence[Tensor | None]]:
        """As of ``WholeMatrix``."""
        bare = object.__new__(AveragedLosses)
        bare.dtypes = self.dtypes
        return bare, self.grads

    def joined(self, tensors: Sequence[Any]) -> AveragedLosses:
        """As of ``WholeMatrix``."""
        whole = object.__new__(AveragedLosses)
        whole.dtypes, whole.grads = self.dtypes, tensors
        return whole

    def gradient(self, grad: Tensor, needs: Needs) -> Gradients:
        """As of ``WholeMatrix``."""
        grads = [*self.grads]
        if not _is_handed_over(grad):
            grads = [None if of is None else of * grad for of in grads]
        for k, dtype in enumerate(self.dtypes):
            of = grads[k]
            if of is not None and of.dtype != dtype:
                grads[k] = of.to(dtype)
        return tuple(grads)  # type: ignore[return-value]


def _is_handed_over(grad: Tensor) -> bool:
    """Whether what the forward has found is the gradient itself, and nobody asks for it again."""
    if not is_free_to_read(grad) or torch._C._autograd._get_current_graph_task_keep_graph():
        return False
    return grad.item() == 1


def _mean_and_weights(losses: Tensor, interval: Interval) -> tuple[Tensor, Tensor | float | None]:
    """The mean, and its derivative with respect to the losses: one number if it is that of all, and
    None if it is 0 as no loss counts.
    """
    if losses.ndim == 0:
        return losses, 1.0
    size = losses.shape[0]
    if interval != EVERYTHING and size:
        kept = _kept(losses, interval)
        number = kept.count_nonzero().item()
        if number == 0 and not math.isnan(losses.min().item()):
            return losses.new_zeros(()), None
        if 0 < number < size:
            weights = kept.to(losses.dtype).div_(number)
            return torch.dot(losses, weights), weights
    return losses.mean() if size else losses.sum(), 1 / max(size, 1)
