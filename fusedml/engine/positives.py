"""The positive pairs of a problem, all of them or in strips: listed from the sorted labels, or, of
several labels a row, found by comparing a bounded number of pairs at a time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from fusedml.engine.label_sets import are_sets
from fusedml.engine.labels import alike, alike_one_by_one
from fusedml.engine.pairs import PairProblem, crossed, fill_excluded

# pairs that are compared at a time: 8 MB a word
_COMPARED = 1 << 20
# up to which comparing all costs less than the calls that sort labels
_FEW_PAIRS = 1 << 15


class Positives(Protocol):
    """The positive pairs of a problem."""

    @property
    def counts(self) -> Tensor:
        """Of each row, [n], an excluded diagonal included."""

    def of_rows(self, begin: int, end: int) -> tuple[Tensor, Tensor]:
        """Rows and columns of the positive pairs of some rows, row by row."""

    def drawn(self, rows: Tensor, uniform: Tensor) -> Tensor:
        """A positive of each of ``rows``, which have some, by a number in [0, 1) each."""

    def drawn_negatives(self, rows: Tensor, uniform: Tensor) -> Tensor:
        """A negative of each of ``rows``, which have some, by a number in [0, 1) each."""


def positives_of(problem: PairProblem) -> Positives:
    """The positive pairs of a problem."""
    return SetPositives(problem) if are_sets(problem.anchor_labels) else CodePositives(problem)


def _sides(problem: PairProblem) -> tuple[Tensor, Tensor]:
    """The labels of the rows and of the columns."""
    rows, columns = problem.anchor_labels, problem.reference_labels
    return rows, rows if columns is None else columns


class CodePositives:
    """For each row, where its label stands among the sorted labels of the columns."""

    def __init__(self, problem: PairProblem) -> None:
        row_labels, col_labels = _sides(problem)
        row_labels = row_labels.contiguous()  # searchsorted warns otherwise
        col_labels, self.order = torch.sort(col_labels, stable=True)
        self.num_columns = len(self.order)
        self.first = torch.searchsorted(col_labels, row_labels)
        self.counts = torch.searchsorted(col_labels, row_labels, right=True) - self.first
        self.problem = problem

    def of_rows(self, begin: int, end: int) -> tuple[Tensor, Tensor]:
        counts, first = self.counts[begin:end], self.first[begin:end]
        before = counts.cumsum(0) - counts
        rows = torch.repeat_interleave(counts)
        within_row = torch.arange(rows.shape[0], device=rows.device) - before[rows]
        columns = self.order[first[rows] + within_row]
        rows = rows + begin
        if self.problem.exclude_diagonal:
            keep = columns != self.problem.own_columns(rows)
            rows, columns = rows[keep], columns[keep]
        return rows, columns

    def drawn(self, rows: Tensor, uniform: Tensor) -> Tensor:
        first = self.first[rows]
        own = self._places_of_own(rows)
        of_own = None if own is None else own - first
        return self.order[first + _drawn_ranks(uniform, self.counts[rows], of_own)]

    def drawn_negatives(self, rows: Tensor, uniform: Tensor) -> Tensor:
        first, counts = self.first[rows], self.counts[rows]
        own = self._places_of_own(rows)
        if own is not None:
            is_positive = (own >= first) & (own < first + counts)
            own = torch.where(own < first, own, own - counts).masked_fill_(is_positive, -1)
        rank = _drawn_ranks(uniform, self.num_columns - counts, own)
        return self.order[rank + (rank >= first) * counts]

    def _places_of_own(self, rows: Tensor) -> Tensor | None:
        """Where the columns that rows are themselves stand in the order, behind it those of rows
        that have none; None if no column is left out.
        """
        if not self.problem.exclude_diagonal:
            return None
        places = torch.empty_like(self.order)
        places[self.order] = torch.arange(self.num_columns, device=places.device)
        own = self.problem.own_columns(rows)
        return torch.where(
            own < self.num_columns, places[own.clamp(max=self.num_columns - 1)], self.num_columns
        )


def _drawn_ranks(uniform: Tensor, choices: Tensor, own: Tensor | None) -> Tensor:
    """Ranks below ``choices``, by a number in [0, 1) each; but for ``own``, where that is one."""
    if own is None:
        return (uniform * choices).to(torch.int64).minimum(choices - 1)
    is_choice = (own >= 0) & (own < choices)
    rank = _drawn_ranks(uniform, choices - is_choice.to(choices.dtype), None)
    return rank + (is_choice & (rank >= own))


class SetPositives:
    """Of several labels a row: some rows are compared with all columns at a time."""

    def __init__(self, problem: PairProblem) -> None:
        self.rows, self.columns = _sides(problem)
        self.num_columns = len(self.columns)
        self.problem = problem
        self.numbers = torch.arange(len(self.rows), device=self.rows.device)

    @property
    def counts(self) -> Tensor:
        of_strips = (mask.sum(1) for _, mask in self._strips(self.numbers))
        return torch.cat([self.numbers[:0], *of_strips])

    def has_negative(self) -> bool:
        """Whether there is any negative pair: one of the first, mostly."""
        strips = self._strips(self.numbers)
        return any(bool(self._counted(rows, ~mask).any()) for rows, mask in strips)

    def _strips(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Some of the rows at a time, and which columns are alike: bool [k, m]."""
        for part in rows.split(max(1, _COMPARED // max(1, self.num_columns))):
            yield part, alike(self.rows[part], self.columns)

    def _counted(self, rows: Tensor, mask: Tensor) -> Tensor:
        """The mask without an excluded diagonal, in place."""
        if self.problem.exclude_diagonal:
            own = self.problem.own_columns(rows)
            (held,) = torch.where(own < self.num_columns)
            mask[held, own[held]] = False
        return mask

    def of_rows(self, begin: int, end: int) -> tuple[Tensor, Tensor]:
        numbers = self.numbers[begin:end]
        found = [(numbers[:0], numbers[:0])]
        for rows, mask in self._strips(numbers):
            lines, columns = torch.where(self._counted(rows, mask))
            found.append((rows[lines], columns))
        all_rows, all_columns = zip(*found, strict=True)
        return torch.cat(all_rows), torch.cat(all_columns)

    def drawn(self, rows: Tensor, uniform: Tensor) -> Tensor:
        return self._drawn(rows, uniform, is_positive=True)

    def drawn_negatives(self, rows: Tensor, uniform: Tensor) -> Tensor:
        return self._drawn(rows, uniform, is_positive=False)

    def _drawn(self, rows: Tensor, uniform: Tensor, is_positive: bool) -> Tensor:
        drawn, done = torch.empty_like(rows), 0
        for part, mask in self._strips(rows):
            counted = self._counted(part, mask if is_positive else ~mask)
            these = slice(done, done + len(part))
            choices = counted.sum(1)
            rank = (uniform[these] * choices).to(torch.int64).minimum(choices - 1)
            # the first column at which so many have been passed
            drawn[these] = torch.searchsorted(counted.cumsum(1), rank[:, None] + 1)[:, 0]
            done = these.stop
        return drawn


def positive_pairs(problem: PairProblem) -> tuple[Tensor, Tensor]:
    """Rows and columns of all positive pairs, row by row; an n x m mask only of few pairs."""
    rows, columns = _sides(problem)
    if rows.shape[0] * columns.shape[0] <= _FEW_PAIRS:
        i, j = fill_excluded(alike(rows, columns), problem, False).nonzero().unbind(1)
        return i, j
    return positives_of(problem).of_rows(0, problem.anchor_labels.shape[0])


def negative_pairs(problem: PairProblem) -> tuple[Tensor, Tensor]:
    """Rows and columns of all negative pairs, row by row: n m bytes, and the list."""
    rows, columns = (~alike(*_sides(problem))).nonzero().unbind(1)
    # codes of one side equal themselves; a set without members meets nothing
    may_list_own = problem.references is not None or are_sets(problem.anchor_labels)
    if problem.exclude_diagonal and may_list_own:
        keep = columns != problem.own_columns(rows)
        rows, columns = rows[keep], columns[keep]
    return rows, columns


def pairs_of_kind(problem: PairProblem, is_positive: bool) -> tuple[Tensor, Tensor]:
    """Rows and columns of all positive, or of all negative pairs, row by row."""
    return positive_pairs(problem) if is_positive else negative_pairs(problem)


def positive_strips(problem: PairProblem, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The same, whole rows at a time: at most ``most`` pairs, or those of one row."""
    positives = positives_of(problem)
    ends = positives.counts.cumsum(0).tolist()
    begin, listed = 0, 0
    while begin < len(ends):
        end = max(begin + 1, bisect_right(ends, listed + most))
        yield positives.of_rows(begin, end)
        begin, listed = end, ends[end - 1]


def in_one_order(rows: Tensor, positives: Tensor) -> tuple[Tensor, Tensor]:
    """Of pairs in both orders, (i, p) and (p, i), the one with i < p."""
    is_first = rows < positives
    return rows[is_first], positives[is_first]


def num_positives(problem: PairProblem) -> Tensor:
    """Number of positive pairs of each row, [n]."""
    row_labels, col_labels = _sides(problem)
    if problem.shape[0] * problem.shape[1] <= _FEW_PAIRS:
        return fill_excluded(alike(row_labels, col_labels), problem, False).sum(1)
    if are_sets(row_labels):
        counts = SetPositives(problem).counts
    else:
        row_labels = row_labels.contiguous()  # searchsorted warns otherwise
        sorted_labels = col_labels.sort().values
        counts = torch.searchsorted(sorted_labels, row_labels, right=True)
        counts = counts - torch.searchsorted(sorted_labels, row_labels)
    for rows, columns in crossed(problem.diagonals, *problem.shape):
        is_alike = alike_one_by_one(row_labels[rows], col_labels[columns])
        counts[rows] -= is_alike.to(counts.dtype)
    return counts
