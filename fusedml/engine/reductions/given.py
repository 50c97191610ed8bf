"""Reductions of measures that are given: blocks of whole rows, or lists; forward, and backward.

Who measured the pairs differentiates what they are measured from: the gradient is that of x.
"""

from __future__ import annotations

from torch import Tensor

from fusedml.engine.reductions.entries import GivenEntries
from fusedml.engine.reductions.logits import Logits
from fusedml.engine.reductions.reduced import pair_weights
from fusedml.engine.reductions.sums import Sums
from fusedml.terms import unpacked


def _sums(
    entries: GivenEntries, logit: Tensor, curve: str, shifts: Tensor | None, terms: Tensor
) -> Sums:
    logits = Logits(logit, curve)
    num_lines = entries.num_lines
    shifts = None if shifts is None else shifts.to(entries.x.dtype)
    return Sums(unpacked(terms), logits, num_lines, entries.x, shifts)


def entry_sums(
    x: Tensor,
    is_positive: bool,
    counted: Tensor | None,
    lines: Tensor | None,
    num_lines: int,
    logit: Tensor,
    curve: str,
    shifts: Tensor | None,
    terms: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As ``engine.tiled.sums.pair_sums``, of entries of one kind; 0 for terms of the other.

    x: [r, c], the rows being the lines; or [k], and ``lines``, [k], says which each feeds.
    counted: bool, in the shape of x, which of the entries count; None for all.
    """
    entries = GivenEntries(x, is_positive, counted, lines, num_lines)
    reduction = _sums(entries, logit, curve, shifts, terms)
    reduction.add(entries)
    numbers = entries.counts()
    return *reduction.end(numbers), numbers


def entry_sums_gradient(
    x: Tensor,
    is_positive: bool,
    counted: Tensor | None,
    lines: Tensor | None,
    num_lines: int,
    logit: Tensor,
    curve: str,
    shifts: Tensor | None,
    terms: Tensor,
    slopes: Tensor,
    counts: Tensor,
    sums_grad: Tensor,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, logit and shifts from dL/dF."""
    entries = GivenEntries(x, is_positive, counted, lines, num_lines)
    reduction = _sums(entries, logit, curve, shifts, terms)
    reduction.begin_backward(sums_grad.to(x.dtype), counts)
    logit_grad = logit.new_zeros(4 if needs[1] else 0)

    def add_logit(sums: Tensor, kind: bool) -> None:
        begin = 0 if kind else 2
        logit_grad[begin : begin + 2] += sums.to(logit_grad)

    weight = pair_weights(reduction, entries, add_logit if needs[1] else None)
    x_grad = x.new_empty(0)
    if needs[0]:
        x_grad = x.new_zeros(x.shape) if weight is None else weight
    shifts_grad = x.new_empty(0)
    if shifts is not None:
        shifts_grad = reduction.shifts_gradient(sums_grad, slopes).to(shifts.dtype)
    return x_grad, logit_grad, shifts_grad
