"""Pairs as a reduction sees them: measures, kinds, and the lines that the pairs feed.

A *line* is a row or a column of the matrix of pairs.  What holds the pairs is nothing to a
reduction: a tile feeds its rows, and in a self problem its columns, too; a block of whole rows
feeds these; a list feeds one line with each pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


def add_at(sums: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """``sums`` with values[k] added at index[k], in place, with the same bits on every run."""
    if sums.is_cuda:  # where index_add_ is made of atomics, and this sorts
        return sums.index_put_((index,), values, accumulate=True)
    return sums.index_add_(0, index, values)


def numbered(x: Tensor, numbers: Tensor | None) -> Tensor:
    """Those of these numbers; None: all."""
    return x if numbers is None else x.index_select(0, numbers)


class Side(Protocol):
    """The lines on one side of some entries.

    lines: which of all lines.  The functions take and return numbers of these.
    """

    @property
    def lines(self) -> slice: ...

    def spread(self, of_lines: Tensor) -> Tensor:
        """Numbers of the lines, [l], in a shape that broadcasts to the entries."""

    def sum(self, values: Tensor) -> Tensor:
        """Values of the entries added up, [l]."""

    def largest(self, values: Tensor) -> Tensor:
        """The largest value of each line's entries, [l]; -inf of none."""


class Entries(Protocol):
    """Some pairs: a tile, a block of rows, or a list.

    x: their measures.  sides: the lines they feed; a pair that feeds two has two.
    """

    @property
    def x(self) -> Tensor: ...
    @property
    def sides(self) -> Sequence[Side]: ...

    def kinds(self) -> tuple[bool, ...]:
        """Which kinds of pair may be among the entries: positive (True), negative (False)."""

    def only_(self, values: Tensor, is_positive: bool, otherwise: float = 0.0) -> Tensor:
        """``values``, with ``otherwise`` written in place where no pair of that kind is counted.

        0 is multiplied with: the values have to be finite.
        """

    def scratch(self, number: int) -> Tensor:
        """Memory of the shape of x; the same number means the same memory.  1 to 9."""


class MatrixSide:
    """The rows (dim 1 is summed over) or the columns (dim 0) of a matrix of entries.

    ``spread`` and ``sum`` take several numbers of each line, too, [..., l].
    """

    def __init__(self, lines: slice, dim: int) -> None:
        self.lines, self.dim = lines, dim

    def spread(self, of_lines: Tensor) -> Tensor:
        return of_lines.unsqueeze(self.dim - 2)

    def sum(self, values: Tensor) -> Tensor:
        return values.sum(self.dim - 2)

    def largest(self, values: Tensor) -> Tensor:
        if values.shape[self.dim] == 0:
            return values.new_full((values.shape[1 - self.dim],), -torch.inf)
        return values.amax(self.dim)


class ListSide:
    """For each listed entry its line, [k]."""

    def __init__(self, index: Tensor, num_lines: int) -> None:
        self.index, self.num_lines = index, num_lines
        self.lines = slice(0, num_lines)

    def spread(self, of_lines: Tensor) -> Tensor:
        return of_lines.index_select(0, self.index)

    def sum(self, values: Tensor) -> Tensor:
        return add_at(values.new_zeros(self.num_lines), self.index, values)

    def largest(self, values: Tensor) -> Tensor:
        least = values.new_full((self.num_lines,), -torch.inf)
        return least.scatter_reduce(0, self.index, values, "amax")


class GivenEntries:
    """Entries whose measures are given: a block of rows, or a list.

    x: [r, c], which feeds its rows; or [k] with ``lines``, [k], the line that each feeds.
    kinds: whether there are positives, and negatives, among them.
    masks: for each kind which of the entries are pairs of that kind, bool; None for all.
    """

    def __init__(
        self,
        x: Tensor,
        kinds: Sequence[bool],
        masks: tuple[Tensor | None, Tensor | None],
        lines: Tensor | None,
        num_lines: int,
    ) -> None:
        self.x, self.num_lines, self.masks = x, num_lines, masks
        self._kinds = tuple(
            kind for kind, is_there in zip((True, False), kinds, strict=True) if is_there
        )
        self.sides: tuple[Side, ...]
        if lines is None:
            self.sides = (MatrixSide(slice(0, num_lines), 1),)
        else:
            self.sides = (ListSide(lines, num_lines),)
        self._weights: dict[bool, Tensor] = {}
        self._memory: dict[int, Tensor] = {}

    def kinds(self) -> tuple[bool, ...]:
        return self._kinds

    def only_(self, values: Tensor, is_positive: bool, otherwise: float = 0.0) -> Tensor:
        mask = self.masks[0 if is_positive else 1]
        if mask is None:
            return values
        if otherwise:
            return values.masked_fill_(~mask, otherwise)
        return values.mul_(self._weight(is_positive, mask))

    def _weight(self, is_positive: bool, mask: Tensor) -> Tensor:
        """The mask as numbers."""
        weight = self._weights.get(is_positive)
        if weight is None:
            weight = self._weights[is_positive] = mask.to(self.x.dtype)
        return weight

    def scratch(self, number: int) -> Tensor:
        memory = self._memory.get(number)
        if memory is None:
            memory = self._memory[number] = torch.empty_like(self.x)
        return memory

    def counts(self) -> Tensor:
        """[2, num_lines], int64: the positives and the negatives of each line."""
        (side,) = self.sides
        counts = torch.zeros((2, self.num_lines), dtype=torch.int64, device=self.x.device)
        for kind in self._kinds:
            mask = self.masks[0 if kind else 1]
            if isinstance(side, ListSide):
                ones = torch.ones_like(side.index) if mask is None else mask.long()
            else:  # whole numbers below 2^24, in less memory
                ones = torch.ones_like(self.x) if mask is None else self._weight(kind, mask)
            counts[0 if kind else 1] = side.sum(ones)
        return counts
