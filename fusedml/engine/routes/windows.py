"""Windows of each row, in which the measures of its pairs lie that are listed.

What the operators ``window_counts`` and ``window_pairs`` compute, in strips of whole rows: the
same pairs are counted and then listed, each row's in the order of its columns, positives before
negatives.  ``window_lists`` is what asks for them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fusedml.engine.pairs import PairProblem
from fusedml.engine.routes.row_strips import RowStrips, Strip, fused_measures

UNIT = 128
"""Columns of a split are a multiple of it: of the tiles of all kernels."""
_GRID_BLOCKS = 264  # that fill a GPU

Bound = Tensor | float | None


class Window(NamedTuple):
    """low <= x + shift <= high, each None for none, a number, or one a line; no NaN lies in it."""

    low: Bound = None
    high: Bound = None
    shift: Bound = None

    def is_everything(self) -> bool:
        return self.low is None and self.high is None

    def holds(self, x: Tensor) -> Tensor:
        """Which measures [k, m] of k lines lie in it, bool."""
        y = x if self.shift is None else x + _of_lines(self.shift)
        if self.low is None:
            return y <= _of_lines(math.inf if self.high is None else self.high)
        kept = y >= _of_lines(self.low)
        return kept if self.high is None else kept.logical_and_(y <= _of_lines(self.high))

    def negated(self) -> Window:
        """The window of -y, for y of this one: without its shift."""
        low, high = (None if bound is None else -bound for bound in (self.high, self.low))
        return Window(low, high)


Windows = Sequence[Window | None]
"""Of positives and of negatives; None for none of them."""

_NO_PAIR = Window(math.inf, -math.inf)


def above(bound: Tensor | float, like: Tensor) -> Tensor:
    """The smallest number of like's type that is larger, of each bound."""
    bound = torch.as_tensor(bound, dtype=like.dtype, device=like.device)
    return torch.nextafter(bound, torch.full_like(bound, math.inf))


def below(bound: Tensor | float, like: Tensor) -> Tensor:
    """The largest number of like's type that is smaller, of each bound."""
    return -above(-torch.as_tensor(bound, dtype=like.dtype, device=like.device), like)


def packed(windows: Windows, num_lines: int, like: Tensor) -> Tensor:
    """[2, 3, lines], low, high and shift of each kind, as the operators take them."""
    numbers = like.new_empty((2, 3, num_lines))
    for of_kind, window in zip(numbers, windows, strict=True):
        bounds = _NO_PAIR if window is None else window
        for line, bound, default in zip(of_kind, bounds, (-math.inf, math.inf, 0.0), strict=True):
            if isinstance(bound, Tensor):
                line.copy_(bound)
            else:
                line.fill_(default if bound is None else bound)
    return numbers


def split_width(num_rows: int, num_columns: int) -> int:
    """Columns of a split: one split of all columns, unless rows are too few to fill a GPU."""
    tiles = max(1, -(-num_columns // UNIT))
    splits = max(1, min(tiles, _GRID_BLOCKS // max(1, -(-num_rows // UNIT))))
    return UNIT * -(-tiles // splits)


def num_splits(num_columns: int, width: int) -> int:
    """Into which the columns are divided."""
    return -(-num_columns // width)


def window_counts(problem: PairProblem, windows: Tensor, width: int) -> Tensor:
    """[2, n, splits], int64: how many pairs of each kind, row and split lie in the windows.

    windows: [2, 3, n], see :func:`packed`.  width: columns of a split.
    """
    n, m = problem.shape
    splits = num_splits(m, width)
    counts = torch.zeros((2, n, splits), dtype=torch.int64, device=windows.device)
    for strip, kinds in _kept(problem, windows):
        for of_kind, kept in zip(counts, kinds, strict=True):
            whole = kept.new_zeros((len(kept), splits * width))
            whole[:, :m] = kept
            of_kind[strip.lines] = whole.view(len(kept), splits, width).sum(2)
    return counts


def window_pairs(
    problem: PairProblem, windows: Tensor, width: int, ends: Tensor, size: int, is_measured: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns [size], int64, and measures of the counted pairs: positives, then negatives.

    windows, width: as counted.  ends: [2, n, splits], the running sums of the counts.  size: the
    last of them.  is_measured: whether the measures are wanted; else they are empty.
    """
    found: list[list[list[Tensor]]] = [[], []]
    for strip, kinds in _kept(problem, windows):
        for of_kind, kept in zip(found, kinds, strict=True):
            lines, columns = torch.where(kept)
            x = strip.x[lines, columns] if is_measured else strip.x.new_empty(0)
            of_kind.append([strip.lines[lines], columns, x])
    index = torch.zeros(size, dtype=torch.int64, device=windows.device)
    lists = index, torch.zeros_like(index), windows.new_zeros(size if is_measured else 0)
    for k, of_list in enumerate(lists):
        written = torch.cat([of_list[:0], *(part[k] for of_kind in found for part in of_kind)])
        of_list[: len(written)] = written[: len(of_list)]  # the ends may be of other pairs
    return lists


def _kept(problem: PairProblem, windows: Tensor) -> Iterator[tuple[Strip, list[Tensor]]]:
    """Strips of all rows, and which pairs of each kind lie in the windows."""
    measures = fused_measures(*problem[:2], problem.measure, normalize=False)
    for strip in RowStrips(problem, measures, 1.0).strips():
        yield (
            strip,
            [
                strip.within(kind, Window(*(numbers[strip.lines] for numbers in of_kind)))
                for kind, of_kind in zip((True, False), windows, strict=True)
            ],
        )


def _of_lines(bound: Tensor | float) -> Tensor | float:
    return bound[:, None] if isinstance(bound, Tensor) and bound.dim() else bound
