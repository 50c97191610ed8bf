"""Lists of the pairs that lie in windows: by kernels where they measure the pairs, else by strips.

Counted, then written at their places: memory is the list, and what is too long is never allocated.
The order is by rows, then by columns, on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from fusedml.engine.ops import operator
from fusedml.engine.pair_lists import Lists, Part, ascending_order
from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.positives import positive_strips
from fusedml.engine.routes.choice import AllRows, Look, all_rows
from fusedml.engine.routes.row_strips import RowStrips
from fusedml.engine.routes.windows import Window, Windows, packed, split_width

# Numbers of the lines' embeddings that kernels see at a time: 16 MB in float32
_LINE_ELEMENTS = 1 << 22

Check = Callable[[int], None]
"""Is given the number of all entries before they are allocated."""
Lines = Callable[[Tensor, Tensor], tuple[Tensor, Window]]
"""Anchors and positives [k] -> embeddings [k, d] to measure the negatives from, and windows."""


def pairs_within(
    pairs: RowStrips, windows: Callable[[Look], Windows], check: Check, ascending: bool = False
) -> tuple[Tensor, ...]:
    """Rows and columns of positives, then of negatives, int64, 1-D.

    windows: of some rows.  ascending: whether a row lists its pairs by their measures, and equal
    ones by their columns.
    """
    whole = all_rows(pairs)
    if whole is not None:
        return _pairs_of_kernels(whole, windows(whole), check, ascending)

    def parts() -> Iterator[Part]:
        for strip in pairs.strips():
            by = strip.x if ascending else None
            for to, window in enumerate(windows(strip)):
                if window is not None:
                    yield Part((strip.lines,), strip.within(to == 0, window), by, to)

    return Lists(parts, (1, 1), check, pairs.device).written()


def _pairs_of_kernels(
    whole: AllRows, windows: Windows, check: Check, ascending: bool
) -> tuple[Tensor, ...]:
    counted = Counted(whole.problem, windows, whole.backend)
    num_positives, size = counted.sizes().tolist()
    check(size)
    rows, columns, x = counted.written(size, ascending)
    lists: list[Tensor] = []
    for of_kind in (slice(0, num_positives), slice(num_positives, size)):
        kind = [rows[of_kind], columns[of_kind]]
        if ascending:
            order = ascending_order(kind[0], x[of_kind])
            kind = [index[order] for index in kind]
        lists += kind
    return tuple(lists)


def negatives_within(
    whole: AllRows, lines: Lines, references: Tensor, measure: str, check: Check
) -> tuple[Tensor, ...]:
    """Triplets (a, p, n), int64, 1-D: for each positive pair the negatives in its window.

    whole: the pairs by label.  references: [m, d], what the lines are measured to.
    """
    height = max(1, _LINE_ELEMENTS // max(1, references.shape[1]))

    def parts() -> Iterator[tuple[Tensor, Tensor, Counted]]:
        for i, p in positive_strips(whole.problem, height):
            yield i, p, _counted_lines(whole, i, lines(i, p), references, measure)

    sizes, kept = [torch.zeros((), dtype=torch.int64, device=references.device)], None
    for number, part in enumerate(parts()):
        sizes.append(part[2].sizes()[1])
        kept = [part] if number == 0 else None  # more of them are counted again: not one list more
    ends = torch.stack(sizes).cumsum(0).tolist()
    check(ends[-1])
    triplets = torch.empty((3, ends[-1]), dtype=torch.int64, device=references.device)
    for (i, p, counted), (begin, end) in zip(kept or parts(), pairwise(ends), strict=True):
        rows, columns, _ = counted.written(end - begin, is_measured=False)
        for to, index in zip(triplets, (i[rows], p[rows], columns), strict=True):
            to[begin:end] = index
    return tuple(triplets)


def _counted_lines(
    whole: AllRows, i: Tensor, lines: tuple[Tensor, Window], references: Tensor, measure: str
) -> Counted:
    anchors, window = lines
    labels, others = whole.problem.anchor_labels, whole.problem.reference_labels
    sides = anchors, references, labels[i], labels if others is None else others
    # a diagonal that is left out is of equal labels: no negative lies on it
    problem = PairProblem(*sides, measure, exclude_diagonal=False)
    return Counted(problem, (None, window), whole.backend)


class Counted:
    """The pairs of a problem that lie in the windows, counted by kernels."""

    def __init__(self, problem: PairProblem, windows: Windows, backend: str) -> None:
        (n, m), anchors = problem.shape, problem.anchors
        numbers = packed(windows, n, anchors.new_empty(0, dtype=accumulation_dtype(anchors.dtype)))
        self._given = (*problem.arguments, numbers, split_width(n, m))
        self._backend = backend
        self._counts = operator("window_counts", backend)(*self._given)
        self._ends = self._counts.view(-1).cumsum(0).view(self._counts.shape)

    def sizes(self) -> Tensor:
        """How many positives there are, and how many pairs: [2], on the device."""
        if self._ends.numel() == 0:
            return self._ends.new_zeros(2)
        return self._ends[:, -1, -1]

    def of_rows(self) -> Tensor:
        """How many each row has of each kind, [2, n]."""
        return self._counts.sum(2)

    def written(self, size: int, is_measured: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, columns and, if wanted, measures of all of them."""
        return operator("window_pairs", self._backend)(*self._given, self._ends, size, is_measured)
