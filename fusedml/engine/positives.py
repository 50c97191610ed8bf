"""The positive pairs of a problem, listed from the sorted labels: all of them, or in strips."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

import torch
from torch import Tensor

from fusedml.engine.pairs import PairProblem


class Positives:
    """For each row, where its label stands among the sorted labels of the columns."""

    def __init__(self, problem: PairProblem) -> None:
        row_labels = problem.anchor_labels.contiguous()  # searchsorted warns otherwise
        col_labels = row_labels if problem.reference_labels is None else problem.reference_labels
        col_labels, self.order = torch.sort(col_labels, stable=True)
        self.first = torch.searchsorted(col_labels, row_labels)
        self.counts = torch.searchsorted(col_labels, row_labels, right=True) - self.first
        self.exclude_diagonal = problem.exclude_diagonal

    def of_rows(self, begin: int, end: int) -> tuple[Tensor, Tensor]:
        """Rows and columns of the positive pairs of some rows, row by row."""
        counts, first = self.counts[begin:end], self.first[begin:end]
        before = counts.cumsum(0) - counts
        rows = torch.repeat_interleave(counts)
        within_row = torch.arange(rows.shape[0], device=rows.device) - before[rows]
        columns = self.order[first[rows] + within_row]
        rows = rows + begin
        if self.exclude_diagonal:
            keep = rows != columns
            rows, columns = rows[keep], columns[keep]
        return rows, columns

    def drawn(self, rows: Tensor, uniform: Tensor) -> Tensor:
        """A positive of each of ``rows``, which have some, by a number in [0, 1) each."""
        choices, first = self.counts[rows], self.first[rows]
        if self.exclude_diagonal:
            choices = choices - 1
        rank = (uniform * choices).to(torch.int64).minimum(choices - 1)
        if self.exclude_diagonal:
            places = torch.empty_like(self.order)
            places[self.order] = torch.arange(len(places), device=places.device)
            rank = rank + (rank >= places[rows] - first)  # not the row itself
        return self.order[first + rank]

    def drawn_negatives(self, rows: Tensor, uniform: Tensor) -> Tensor:
        """A negative of each of ``rows``, which have some, by a number in [0, 1) each."""
        counts = self.counts[rows]
        choices = len(self.order) - counts
        rank = (uniform * choices).to(torch.int64).minimum(choices - 1)
        return self.order[rank + (rank >= self.first[rows]) * counts]


def positive_pairs(problem: PairProblem) -> tuple[Tensor, Tensor]:
    """Rows and columns of all positive pairs, row by row, without an n x m mask."""
    return Positives(problem).of_rows(0, problem.anchor_labels.shape[0])


def negative_pairs(problem: PairProblem) -> tuple[Tensor, Tensor]:
    """Rows and columns of all negative pairs, row by row: n m bytes, and the list."""
    row_labels = problem.anchor_labels
    col_labels = row_labels if problem.reference_labels is None else problem.reference_labels
    rows, columns = (row_labels[:, None] != col_labels).nonzero().unbind(1)
    if problem.exclude_diagonal and problem.references is not None:
        keep = rows != columns
        rows, columns = rows[keep], columns[keep]
    return rows, columns


def pairs_of_kind(problem: PairProblem, is_positive: bool) -> tuple[Tensor, Tensor]:
    """Rows and columns of all positive, or of all negative pairs, row by row."""
    return positive_pairs(problem) if is_positive else negative_pairs(problem)


def positive_strips(problem: PairProblem, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The same, whole rows at a time: at most ``most`` pairs, or those of one row."""
    positives = Positives(problem)
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
    row_labels = problem.anchor_labels.contiguous()  # searchsorted warns otherwise
    col_labels = row_labels if problem.reference_labels is None else problem.reference_labels
    sorted_labels = col_labels.sort().values
    counts = torch.searchsorted(sorted_labels, row_labels, right=True)
    counts = counts - torch.searchsorted(sorted_labels, row_labels)
    if problem.exclude_diagonal:
        k = min(row_labels.shape[0], col_labels.shape[0])
        counts[:k] -= (row_labels[:k] == col_labels[:k]).to(counts.dtype)
    return counts
