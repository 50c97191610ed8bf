"""Reductions of measures that are given: blocks of whole rows, or lists; forward, and backward.

Who measured the pairs differentiates what they are measured from: the gradient is that of x.

    x, kinds, positive, negative, lines, num_lines   the entries, see ``entries.GivenEntries``:
                                                     masks of both kinds, bool, or None for all
    logit, curve, offsets                            see ``logits.Logits``
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from fusedml.engine.reductions.entries import GivenEntries
from fusedml.engine.reductions.log_sums import LogSums
from fusedml.engine.reductions.logits import Logits
from fusedml.engine.reductions.reduced import Reduction, pair_weights
from fusedml.engine.reductions.sums import Sums
from fusedml.terms import unpacked


class Given(NamedTuple):
    """The arguments that all operators on given measures begin with."""

    x: Tensor
    kinds: list[bool]
    positive: Tensor | None
    negative: Tensor | None
    lines: Tensor | None
    num_lines: int
    logit: Tensor
    curve: str = "affine"
    offsets: Tensor | None = None

    def entries(self) -> GivenEntries:
        masks = self.positive, self.negative
        return GivenEntries(self.x, self.kinds, masks, self.lines, self.num_lines)

    def logits(self) -> Logits:
        offsets = None if self.offsets is None else self.offsets.to(self.x.dtype)
        return Logits(self.logit, self.curve, offsets)

    def log_sums(self) -> LogSums:
        return LogSums(self.logits(), self.num_lines, self.x)

    def sums(self, shifts: Tensor | None, terms: Tensor) -> Sums:
        shifts = None if shifts is None else shifts.to(self.x.dtype)
        return Sums(unpacked(terms), self.logits(), self.num_lines, self.x, shifts)

    def gradients(self, reduction: Reduction, needs: list[bool]) -> tuple[Tensor, Tensor]:
        """Of x and of logit."""
        logit_grad = self.logit.new_zeros(4 if needs[1] else 0)

        def add_logit(sums: Tensor, kind: bool) -> None:
            begin = 0 if kind else 2
            logit_grad[begin : begin + 2] += sums.to(logit_grad)

        weight = pair_weights(reduction, self.entries(), add_logit if needs[1] else None)
        if not needs[0]:
            return self.x.new_empty(0), logit_grad
        return self.x.new_zeros(self.x.shape) if weight is None else weight, logit_grad


_SIZE = len(Given._fields)


def entry_statistics(*args: Any) -> tuple[Tensor, Tensor]:
    """lse+, lse- and sum+, [3, lines], and the numbers of pairs, [2, lines], of ``Given(*args)``.

    Of a kind that is not there -inf, 0 and 0.
    """
    given = Given(*args)
    reduction, entries = given.log_sums(), given.entries()
    reduction.add(entries)
    return reduction.end(), entries.counts()


def entry_statistics_gradient(*args: Any) -> tuple[Tensor, Tensor]:
    """Gradients of x and logit.

    After the forward's arguments: statistics, and their gradient, [3, lines]; needs.
    """
    given, (statistics, statistics_grad, needs) = Given(*args[:_SIZE]), args[_SIZE:]
    reduction = given.log_sums()
    reduction.begin_backward(statistics, statistics_grad)
    return given.gradients(reduction, needs)


def entry_sums(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As ``engine.tiled.sums.pair_sums``; 0 for terms of a kind that is not there.

    After those of ``Given``: shifts and terms.
    """
    given = Given(*args[:_SIZE])
    reduction, entries = given.sums(*args[_SIZE:]), given.entries()
    reduction.add(entries)
    numbers = entries.counts()
    return *reduction.end(numbers), numbers


def entry_sums_gradient(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, logit and shifts.

    After the forward's arguments: D and C of the forward, and dL/dF, [K, lines]; needs.
    """
    given, (shifts, terms, slopes, counts, sums_grad, needs) = Given(*args[:_SIZE]), args[_SIZE:]
    reduction = given.sums(shifts, terms)
    reduction.begin_backward(sums_grad.to(given.x.dtype), counts)
    shifts_grad = given.x.new_empty(0)
    if shifts is not None:
        shifts_grad = reduction.shifts_gradient(sums_grad, slopes).to(shifts.dtype)
    return *given.gradients(reduction, needs), shifts_grad
