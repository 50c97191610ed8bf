"""The extreme pair of each line: the largest or smallest measure of one kind, and its column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

NO_COLUMN = -1


class PlacedSide(Protocol):
    """The lines on one side of some entries, and the columns that these are in.

    lines: which of all lines, numbers [l] or a slice.
    """

    @property
    def lines(self) -> Tensor | slice: ...

    def spread(self, of_lines: Tensor) -> Tensor:
        """Numbers of these lines, [l], in a shape that broadcasts to the entries."""

    def largest_at(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The largest value of each line's entries, and the lowest column that has it, [l] each;
        NaN if any is, and any column if all are -inf.
        """


class PlacedEntries(Protocol):
    """Some pairs, of which it is known in what columns they are.

    x: their measures.  sides: the lines they feed; a pair that feeds two has two.
    """

    @property
    def x(self) -> Tensor: ...
    @property
    def sides(self) -> Sequence[PlacedSide]: ...

    def kinds(self) -> tuple[bool, ...]:
        """Which kinds of pair may be among the entries: positive (True), negative (False)."""

    def counted(self, is_positive: bool) -> Tensor:
        """Bool, in the shape of x: which of them are pairs of that kind."""


class Interval(NamedTuple):
    """Which measures count: low <= x <= high, each None for no bound, a number, or one a line."""

    low: Tensor | float | None = None
    high: Tensor | float | None = None


class Extremum:
    """(x, column) of the extreme pair of one kind of every line; of equal ones the lowest column.

    The entries of a line may come in any parts and any order: the result is the same.  A line
    without pairs has -inf (of largest; +inf of smallest) and column ``NO_COLUMN``; one that meets
    a NaN has NaN, and a column that has it.

    is_positive: which kind.  is_largest: the largest x, or the smallest.
    within: the interval of x that counts; tensors of it may change until a line is added.
    """

    def __init__(
        self,
        num_lines: int,
        like: Tensor,
        is_positive: bool,
        is_largest: bool,
        within: Interval | None = None,
    ) -> None:
        self.is_positive, self.is_largest = is_positive, is_largest
        self.within = Interval() if within is None else within
        self._is_new = True  # nothing has been added
        self._largest = like.new_full((num_lines,), -math.inf)
        self._columns = torch.full((num_lines,), NO_COLUMN, dtype=torch.int64, device=like.device)

    def add(self, entries: PlacedEntries) -> None:
        """Takes in some pairs."""
        if self.is_positive not in entries.kinds():
            return
        x, counted = entries.x, entries.counted(self.is_positive)
        if self.is_largest:
            values = torch.where(counted, x, -math.inf)
        else:
            values = torch.where(counted, x, math.inf).neg_()
        for side in entries.sides:
            of_side = values if len(entries.sides) == 1 else values.clone()
            self._add_side(side, self._within_(of_side, x, side))

    def _within_(self, values: Tensor, x: Tensor, side: PlacedSide) -> Tensor:
        """The values, with -inf written in place where the side's lines do not want them."""
        bounds = zip(self.within, (-math.inf, math.inf), (torch.lt, torch.gt), strict=True)
        for bound, none, is_beyond in bounds:
            of_lines = bound[side.lines] if isinstance(bound, Tensor) else bound
            if _is_everywhere(of_lines, none):
                continue  # a pass over lines costs nothing, one over pairs does
            assert of_lines is not None
            other = side.spread(of_lines) if isinstance(of_lines, Tensor) else of_lines
            values.masked_fill_(is_beyond(x, other), -math.inf)
        return values

    def _add_side(self, side: PlacedSide, values: Tensor) -> None:
        found, columns = side.largest_at(values)
        is_first, self._is_new = self._is_new, False
        if is_first and isinstance(side.lines, slice) and side.lines == slice(None):
            self._largest = found
            self._columns = columns.masked_fill(found == -math.inf, NO_COLUMN)
            return
        held, at = self._largest[side.lines], self._columns[side.lines]
        # "not <=" lets a NaN win; -inf, of no pair, never does
        is_better = ~(found <= held) | ((found == held) & (columns < at))
        is_better &= ~held.isnan()
        self._largest[side.lines] = torch.where(is_better, found, held)
        self._columns[side.lines] = torch.where(is_better, columns, at)

    def end(self) -> tuple[Tensor, Tensor]:
        """x [num_lines] and columns [num_lines], int64."""
        return self._largest if self.is_largest else -self._largest, self._columns


def _is_everywhere(bound: Tensor | float | None, none: float) -> bool:
    """Whether a bound is known to be none; one on a device is not read."""
    if isinstance(bound, Tensor):
        return bound.device.type == "cpu" and bool((bound == none).all())
    return bound is None or bound == none
