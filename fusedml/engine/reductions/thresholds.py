"""Sums over a line's negatives against thresholds of its own: its positives.

y is the hardness of a pair, sign times its measure, and t_1, ..., t_k are those of the line's
positives.  With u = y - t of a negative and a positive

    V = sum f(u + margin),   f the hinge max(0, .) or the softplus,

over all (negative, positive) whose u lies in a window: all triplets of an anchor, and none of them
listed.  Two ways give the same: ``DirectSums`` compares each pair with each threshold,
``SearchedSums`` finds among sorted ones the run that a pair meets, for the hinge.

A line that has fewer thresholds than others is padded with ABSENT, and what is no negative has the
hardness -ABSENT: they meet nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fusedml.engine.reductions.entries import Side
from fusedml.heads import softplus

# beyond all hardnesses, and the difference of two such is finite in float32
ABSENT = 1e37

#: scratch memory: (number, shape) -> a tensor, overwritten by the next call with that number
Buffer = Callable[[int, tuple[int, ...]], Tensor]

# pairs times thresholds that are compared in one call: 128 KB in float32
_AT_ONCE = 1 << 15


def threshold_parts(t: Tensor, y: Tensor) -> Iterator[slice]:
    """Of thresholds [k, lines] as many at a time as meet the pairs of a block in one call."""
    step = max(1, _AT_ONCE // max(1, y.numel()))
    return (slice(begin, begin + step) for begin in range(0, len(t), step))


class Window(NamedTuple):
    """Which u = y - t count: those >= at_least, > above and < below; and the margin."""

    margin: float
    at_least: float
    above: float
    below: float

    @classmethod
    def of(cls, numbers: Tensor) -> Window:
        """From a tensor of the four numbers; with NaN all count, and the caller makes it NaN."""
        window = cls(*numbers.tolist())
        return cls(0.0, -math.inf, -math.inf, math.inf) if math.isnan(window.margin) else window

    def lower(self, is_hinge: bool) -> tuple[float, bool]:
        """The lower bound and whether it counts itself.  is_hinge: of what has a loss above 0."""
        above = max(self.above, -self.margin) if is_hinge else self.above
        return (self.at_least, True) if self.at_least > above else (above, False)


class Sums(Protocol):
    """What both ways have.

    After all ``add``: sums V [lines], numbers [lines] of what counts.  ``met``, [lines, k], is
    -dV/dt, once the blocks have been added, or weighed.
    """

    sums: Tensor
    numbers: Tensor

    def meets(self, y: Tensor, side: Side) -> bool:
        """Whether any pair of a block may count, or have a loss."""

    def add(self, y: Tensor, side: Side, buffer: Buffer, slopes: Tensor | None = None) -> None:
        """Takes in the pairs of a block, of hardness y.

        slopes: to which dV/dy of the pairs is added.
        """

    def of_margin(self) -> Tensor:
        """dV/dmargin, [lines], once the blocks have been added."""

    def weigh(self, y: Tensor, side: Side, g: Tensor, out: Tensor, buffer: Buffer) -> None:
        """Adds g dV/dy of the pairs of a block to ``out``.  g: [lines]."""

    def met(self) -> Tensor: ...


class DirectSums:
    """Each pair against each threshold: k comparisons, or k evaluations of f.

    t: [lines, k], in any order.  totals: () -> [lines], how many triplets there are.  wide: the
    dtype of V.  weighs_thresholds: whether ``met`` is to be found from what is weighed.
    """

    def __init__(
        self,
        t: Tensor,
        window: Window,
        is_hinge: bool,
        totals: Callable[[], Tensor],
        wide: torch.dtype,
        weighs_thresholds: bool = False,
    ) -> None:
        self.t = t.T.contiguous()
        self.window, self.is_hinge = window, is_hinge
        self.weighs_thresholds = weighs_thresholds
        self.bound, self.counted = window.lower(is_hinge), window.lower(False)
        self.sums = t.new_zeros(t.shape[0], dtype=wide)
        self.slopes = torch.zeros_like(self.t)  # of f, summed over the pairs
        self.counts_slopes = is_hinge and self.counted == self.bound
        if self.counted[0] == -math.inf:  # all but what is beyond the upper bound
            self.numbers = totals().clone()
        else:
            self.numbers = t.new_zeros(t.shape[0], dtype=torch.int64)
        # whether a hinge counts, and weighs, exactly where it is above 0
        self.is_open = is_hinge and self.bound == (-window.margin, False)
        self.is_open = self.is_open and window.below == math.inf

    @cached_property
    def least(self) -> Tensor | None:
        """Below, a pair has no loss with any threshold of its line."""
        return self.t.amin(0) + self.bound[0] if self.is_hinge and len(self.t) else None

    def of_margin(self) -> Tensor:
        return self.slopes.sum(0)

    def met(self) -> Tensor:
        return self.slopes.T

    def meets(self, y: Tensor, side: Side) -> bool:
        if y.numel() == 0 or len(self.t) == 0:
            return False
        if self.least is None:
            return True
        if self.counted[0] == -math.inf and self.window.below < math.inf:
            return True  # what lies beyond the upper bound is to be counted
        return bool((side.largest(y) >= self.least[side.lines]).any())

    def add(self, y: Tensor, side: Side, buffer: Buffer, slopes: Tensor | None = None) -> None:
        sums, numbers_of_lines = self.sums, self.numbers
        if side.lines != slice(None):
            sums, numbers_of_lines = sums[side.lines], numbers_of_lines[side.lines]
        for part in threshold_parts(self.t, y):
            t, met = self._part(self.t, part, side), self._part(self.slopes, part, side)
            of_lines = side.spread(t)
            values, slope = self._terms(y, of_lines, buffer)
            sums.add_(side.sum(values).sum(0))
            of_slopes = side.sum(slope)
            met.add_(of_slopes)
            if slopes is not None:
                slopes.add_(_over_thresholds(slope))
            numbers: Tensor | None = of_slopes
            if not self.counts_slopes:
                numbers = self._numbers(y, of_lines, buffer, side)
            if numbers is not None:
                numbers_of_lines.add_(numbers.sum(0).to(torch.int64))

    def _part(self, x: Tensor, part: slice, side: Side) -> Tensor:
        """Numbers of some thresholds and lines; a slice costs as much as a small operation."""
        is_all = part.stop - part.start >= len(x) and side.lines == slice(None)
        return x if is_all else x[part, side.lines]

    def _numbers(self, y: Tensor, t: Tensor, buffer: Buffer, side: Side) -> Tensor | None:
        """How many of the block count at some thresholds, less those that are counted already."""
        if self.counted[0] > -math.inf:
            inside = self._inside(y, t, self.counted, buffer)
            assert inside is not None  # there is a lower bound
            return side.sum(inside)
        if self.window.below == math.inf:
            return None
        return -side.sum(_beyond(y, t, (self.window.below, True), buffer(3, _shape(y, t))))

    def _terms(self, y: Tensor, t: Tensor, buffer: Buffer) -> tuple[Tensor, Tensor]:
        """f and f' of the block at some thresholds of each line, 0 outside of the window."""
        if self.is_open:
            u = torch.sub(y, t - self.window.margin, out=buffer(1, _shape(y, t))).clamp_(min=0)
            return u, torch.sign(u, out=buffer(2, _shape(y, t)))
        slope, inside = self._slope(y, t, buffer)
        u = torch.sub(y, t - self.window.margin, out=buffer(1, _shape(y, t)))
        if self.is_hinge:
            return u.mul_(slope), slope
        values = softplus(u)
        return (values if inside is None else values.mul_(inside)), slope

    def _slope(self, y: Tensor, t: Tensor, buffer: Buffer) -> tuple[Tensor, Tensor | None]:
        """f' of the block at some thresholds of each line, and which are inside the window."""
        inside = self._inside(y, t, self.bound, buffer)
        if self.is_hinge:
            assert inside is not None  # a hinge has a lower bound
            return inside, inside
        slope = torch.sub(y, t - self.window.margin, out=buffer(5, _shape(y, t))).sigmoid_()
        return (slope if inside is None else slope.mul_(inside)), inside

    def _inside(
        self, y: Tensor, t: Tensor, lower: tuple[float, bool], buffer: Buffer
    ) -> Tensor | None:
        """1 between a bound and the window's upper one, 0 elsewhere; None: all are inside."""
        shape, inside = _shape(y, t), None
        if lower[0] > -math.inf:
            inside = _beyond(y, t, lower, buffer(2, shape))
        if self.window.below < math.inf:
            is_below = torch.lt(y, t + self.window.below, out=buffer(3, shape))
            inside = is_below if inside is None else inside.mul_(is_below)
        return inside

    def weigh(self, y: Tensor, side: Side, g: Tensor, out: Tensor, buffer: Buffer) -> None:
        total = buffer(1, (y.shape[0], y.shape[1]))
        for part in threshold_parts(self.t, y):
            slope, _ = self._slope(y, side.spread(self.t[part, side.lines]), buffer)
            if self.weighs_thresholds:
                self.slopes[part, side.lines] += side.sum(slope)
            if part.start:
                total.add_(_over_thresholds(slope))
            else:
                total.copy_(_over_thresholds(slope))
        out.addcmul_(total, side.spread(g[side.lines]))


def _shape(y: Tensor, t: Tensor) -> tuple[int, ...]:
    """Of what a block is compared with, thresholds spread to [k, ...]."""
    return t.shape[0], *y.shape


def _over_thresholds(values: Tensor) -> Tensor:
    """[k, ...] added up over k."""
    return values[0] if len(values) == 1 else values.sum(0)


def _beyond(y: Tensor, t: Tensor, bound: tuple[float, bool], out: Tensor) -> Tensor:
    """1 where y - t is above a bound, or is it if that counts, 0 elsewhere; as numbers, in out."""
    at = t + bound[0]
    return torch.ge(y, at, out=out) if bound[1] else torch.gt(y, at, out=out)


class SearchedSums:
    """Hinges in log k: among a row's sorted thresholds a pair meets a run [low, high).

    Its share of V is c (y + margin) - (Q_high - Q_low), c = high - low, Q the prefix sums of t, and
    its slope c.  How many pairs meet a threshold follows from the ends of the runs.

    t: [rows, k], ascending.  Each block holds all of the rows.
    """

    def __init__(
        self, t: Tensor, window: Window, totals: Callable[[], Tensor], wide: torch.dtype
    ) -> None:
        self.t, self.window = t.contiguous(), window
        self.bound, self.counted = window.lower(True), window.lower(False)
        is_real = t < ABSENT
        t = torch.where(is_real, t, 0)
        # the mean is taken off, else c (y + margin) - Q loses a digit
        mean = t.sum(1, keepdim=True) / is_real.sum(1, keepdim=True).clamp(min=1)
        prefix = torch.where(is_real, t - mean, 0).to(wide).cumsum(1).to(t.dtype)
        self.prefix = torch.cat([torch.zeros_like(mean), prefix], 1)
        self.offset = window.margin - mean
        self.sums = t.new_zeros(t.shape[0], dtype=wide)
        self.slopes = t.new_zeros(t.shape[0], dtype=torch.int64)
        self.numbers = torch.zeros_like(self.slopes)
        if self.counted[0] == -math.inf:
            self.numbers += totals()
        self.ends = torch.zeros(self.prefix.shape, dtype=torch.int64, device=t.device)

    def _below(self, y: Tensor, bound: tuple[float, bool]) -> Tensor:
        """How many thresholds t have y - t above the bound, or at it if that counts."""
        return torch.searchsorted(self.t, y - bound[0], right=bound[1])

    def _run(self, y: Tensor) -> tuple[Tensor | None, Tensor]:
        """(low, high) of each pair; None stands for 0."""
        high = self._below(y, self.bound)
        if self.window.below == math.inf:
            return None, high
        low = self._below(y, (self.window.below, True))
        return low, torch.maximum(low, high)

    def meets(self, y: Tensor, side: Side) -> bool:
        return y.numel() > 0

    def of_margin(self) -> Tensor:
        return self.slopes.to(self.t.dtype)

    def add(self, y: Tensor, side: Side, buffer: Buffer, slopes: Tensor | None = None) -> None:
        low, high = self._run(y)
        run, of_run = high, self.prefix.gather(1, high)
        if low is not None:
            run, of_run = high - low, of_run - self.prefix.gather(1, low)
        self.sums += (run * (y + self.offset) - of_run).sum(1)
        if slopes is not None:
            slopes.add_(run)
            self._count_runs(low, high, y.shape[1])
        of_rows = run.sum(1)
        self.slopes += of_rows
        if self.counted == self.bound:
            self.numbers += of_rows
            return
        number: Tensor | None = None if low is None else -low
        if self.counted[0] > -math.inf:
            number = self._below(y, self.counted)
            number = number if low is None else torch.maximum(number, low) - low
        if number is not None:
            self.numbers += number.sum(1)

    def weigh(self, y: Tensor, side: Side, g: Tensor, out: Tensor, buffer: Buffer) -> None:
        low, high = self._run(y)
        self._count_runs(low, high, y.shape[1])
        run = high if low is None else high - low
        out.addcmul_(run.to(y.dtype), g[:, None])

    def _count_runs(self, low: Tensor | None, high: Tensor, number: int) -> None:
        """Counts where the runs of so many pairs a row begin and end."""
        self._count_ends(high, -1)
        if low is None:
            self.ends[:, 0] += number
        else:
            self._count_ends(low, 1)

    def _count_ends(self, ends: Tensor, step: int) -> None:
        """Adds ``step`` where each of the runs ends."""
        rows, size = self.ends.shape
        first = torch.arange(0, rows * size, size, device=ends.device)[:, None]
        counts = torch.bincount((first + ends).view(-1), minlength=rows * size)
        self.ends.add_(counts.view(rows, size), alpha=step)

    def met(self) -> Tensor:
        return self.ends.cumsum(1)[:, :-1].to(self.t.dtype)
