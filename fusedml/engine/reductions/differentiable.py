"""Reductions in ordinary PyTorch, differentiable as often as one likes.

For blocks of rows whose distance has a graph of its own, and for derivatives of derivatives:
``log_sums`` and ``sums`` have a backward of their own, which is no function of autograd's.
Memory: a dozen tensors of the shape of x.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fusedml.curves import Curve
from fusedml.engine.reductions.entries import MatrixSide, Side
from fusedml.heads import PAIR_FORMS
from fusedml.terms import Term

# of the positive and of the negative pairs, bool
Masks = tuple[Tensor, Tensor]

_EMPTY = -math.inf


def log_sum(z: Tensor, mask: Tensor, side: Side) -> Tensor:
    """log sum e^z of each line's masked entries, [lines]; -inf of none, with gradient 0."""
    if isinstance(side, MatrixSide) and z.shape[side.dim]:
        is_empty = ~mask.any(side.dim)
        # of nothing but -inf the gradient would be NaN
        others = torch.where(is_empty, 0.0, _EMPTY).to(z)
        sums = torch.logsumexp(torch.where(mask, z, side.spread(others)), side.dim)
        return sums.masked_fill(is_empty, _EMPTY)
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


def pair_losses(
    x: Tensor,
    positive: Tensor,
    form: str,
    logit: Tensor,
    curve: Curve,
    anchor_lse: Tensor,
    reference_lse: Tensor,
) -> Tensor:
    """v(z_ip, lse_i, lse_p) of a form of ``fusedml.heads.PAIR_FORMS``, added over each row, [r].

    x, positive: [r, c].  anchor_lse: [r].  reference_lse: [c].
    """
    # a pair that is none may have anything: it gets harmless numbers, and is dropped
    of_pairs = logits(x, logit, curve, True), anchor_lse[:, None], reference_lse
    z, *lse = (torch.where(positive, numbers, 0) for numbers in of_pairs)
    return torch.where(positive, PAIR_FORMS[form](z, *lse).value, 0).sum(1)


def row_histograms(x: Tensor, masks: Masks, lowest: float, delta: float, num_edges: int) -> Tensor:
    """[2, r, num_edges]: the pulses max(0, 1 - |x - edge| / delta) of each row's positives and
    negatives, added up.
    """
    places = (x - lowest) / delta
    cells = torch.floor(places.detach())
    of_edges = []
    for k in range(num_edges):
        # by cells: at an edge the pulses on both sides of it have their slopes of the same side
        falling = torch.where(cells == k, k + 1 - places, 0)
        pulses = falling + torch.where(cells == k - 1, places - (k - 1), 0)
        of_edges.append(torch.stack([torch.where(mask, pulses, 0).sum(1) for mask in masks]))
    return torch.stack(of_edges, 2)


def divergences(x: Tensor, y: Tensor, same: Tensor | None, numbers: Tensor) -> Tensor:
    """sum_j q_ij (log q_ij - log p_ij), [r], p and q the softmax rows of scale x and of scale y.

    same: None, or where both products are replaced.  numbers: [4], see
    ``engine.tiled.row_divergences``.
    """
    scale, x_shift, y_shift, equal = numbers.to(x).unbind()
    if same is not None:
        x, y = torch.where(same, equal, x + x_shift), torch.where(same, equal, y + y_shift)
    log_p, log_q = (torch.log_softmax(scale * z, 1) for z in (x, y))
    # 0 log 0 = 0
    return torch.where(log_q.exp() > 0, log_q.exp() * (log_q - log_p), 0).sum(1)
