"""Reductions L and S in ordinary PyTorch, differentiable as often as one likes.

For few pairs, and for derivatives of derivatives: ``log_sums`` and ``sums`` have a backward of
their own, which is no function of autograd's.  Memory: a dozen tensors of the shape of x.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fusedml.curves import Curve
from fusedml.engine.reductions.entries import Side
from fusedml.terms import Term

# of the positive and of the negative pairs, bool
Masks = tuple[Tensor, Tensor]

_EMPTY = -math.inf


def log_sum(z: Tensor, mask: Tensor, side: Side) -> Tensor:
    """log sum e^z of each line's masked entries, [lines]; -inf of none, with gradient 0."""
    largest = side.largest(z.detach().masked_fill(~mask, _EMPTY))
    is_empty = largest == _EMPTY
    shift = largest.masked_fill(is_empty, 0)
    spread = side.spread(shift)
    # what is not counted is replaced before it is computed with: inf x 0 would be NaN
    exponents = torch.where(mask, z, spread) - spread
    total = side.sum(torch.where(mask, exponents.exp(), 0))
    return (total.masked_fill(is_empty, 1).log() + shift).masked_fill(is_empty, _EMPTY)


def logits(
    x: Tensor, logit: Tensor, curve: Curve, is_positive: bool, offsets: Tensor | None = None
) -> Tensor:
    """z of one kind of pair.  logit, offsets: see ``logits.Logits``."""
    scale, shift = logit.to(x)[:2] if is_positive else logit.to(x)[2:]
    return curve.logits(x, scale, shift if offsets is None else shift + offsets.to(x), is_positive)


def statistics(
    x: Tensor,
    masks: Masks,
    side: Side,
    logit: Tensor,
    curve: Curve,
    offsets: Tensor | None = None,
) -> Tensor:
    """lse+, lse- and sum+ of each line, [3, lines]."""
    z, other_z = (logits(x, logit, curve, kind, offsets) for kind in (True, False))
    total = side.sum(torch.where(masks[0], z, 0))
    return torch.stack([log_sum(z, masks[0], side), log_sum(other_z, masks[1], side), total])


def sums(
    x: Tensor,
    masks: Masks,
    side: Side,
    logit: Tensor,
    curve: Curve,
    terms: tuple[Term, ...],
    shifts: Tensor | None = None,
    offsets: Tensor | None = None,
) -> Tensor:
    """F_k of each line, [K, lines].  shifts: as of ``sums.Sums``."""
    results = []
    for term in terms:
        kind = 0 if term.is_positive else 1
        z = logits(x, logit, curve, term.is_positive, offsets)
        if shifts is not None:
            z = z + side.spread(shifts[kind].to(x))
        z = torch.where(masks[kind], z, 0)
        results.append(side.sum(torch.where(masks[kind], term.values(z), 0)))
    return torch.stack(results)
