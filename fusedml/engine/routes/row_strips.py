"""All pairs of a batch in strips of whole rows, in the order given: what miners look at.

A list of pairs is written row by row, and what is sorted, drawn or compared is one row's; so a
strip holds all columns of its rows, and as many rows as fit a bounded number of elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fusedml.engine.label_sets import are_sets
from fusedml.engine.labels import alike
from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.positives import num_positives
from fusedml.engine.precision import prepare, row_norms, tile_dtype, without_autocast
from fusedml.engine.reductions.extrema import Extremum, Interval
from fusedml.engine.tiled.plan import measured_block, operand

if TYPE_CHECKING:
    from fusedml.engine.routes.windows import Window

# Elements of a strip, 4 MB in float32; one row, if that has more.
STRIP_ELEMENTS = 1 << 20

Measures = Callable[[Tensor], Tensor]
"""rows [k] -> x [k, m] of these rows; a result is done with when the next is asked for."""


class Rows:
    """The rows of a strip as the lines that its pairs feed."""

    def __init__(self, lines: Tensor | slice) -> None:
        self.lines = lines

    def spread(self, of_lines: Tensor) -> Tensor:
        return of_lines[:, None]

    def largest_at(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """See ``PlacedSide``: ``max`` says the first of equal ones."""
        largest, columns = values.max(1)
        return largest, columns


class Strip:
    """The pairs of some rows: entries as the reductions see them.

    lines: the numbers of the rows, int64 [k].  Only valid until the next strip.
    """

    def __init__(self, problem: PairProblem, lines: Tensor, measures: Measures, sign: float):
        self._problem, self._measures = problem, measures
        self.lines, self._sign = lines, sign

    @cached_property
    def x(self) -> Tensor:
        """What is measured of the pairs, [k, m]."""
        return self._measures(self.lines)

    @cached_property
    def y(self) -> Tensor:
        """Hardness, [k, m]: the similarity, or minus the distance."""
        return self.x if self._sign > 0 else -self.x

    @cached_property
    def _is_same(self) -> Tensor:
        labels, others = self._problem.anchor_labels, self._problem.reference_labels
        return alike(labels[self.lines], labels if others is None else others)

    @cached_property
    def positive(self) -> Tensor:
        """Bool [k, m]: the positive pairs."""
        return self._without_diagonal(self._is_same.clone())

    @cached_property
    def negative(self) -> Tensor:
        """Bool [k, m]: the negative pairs."""
        if self._problem.reference_labels is None and not are_sets(self._problem.anchor_labels):
            return ~self._is_same  # the codes of one side are like themselves
        return self._without_diagonal(~self._is_same)

    def _without_diagonal(self, mask: Tensor) -> Tensor:
        if self._problem.exclude_diagonal:
            own = self._problem.own_columns(self.lines)  # of rows behind the columns there is none
            mask &= torch.arange(mask.shape[1], device=mask.device) != own[:, None]
        return mask

    def kinds(self) -> tuple[bool, ...]:
        return True, False

    def counted(self, is_positive: bool) -> Tensor:
        return self.positive if is_positive else self.negative

    def within(self, is_positive: bool, window: Window) -> Tensor:
        """Bool [k, m]: the pairs of a kind that lie in the windows of their rows."""
        counted = self.counted(is_positive)
        if window.is_everything():
            return counted  # without measuring
        return window.holds(self.x).logical_and_(counted)

    def extreme_measures(self, largest: Sequence[bool]) -> Tensor:
        """Those of :meth:`extremes` alone, in less time."""
        found = []
        for kind, is_largest in zip((True, False), largest, strict=True):
            none = -math.inf if is_largest else math.inf
            x = torch.where(self.counted(kind), self.x, none)
            found.append(x.amax(1) if is_largest else x.amin(1))
        return torch.stack(found)

    def extremes(
        self,
        largest: Sequence[bool],
        intervals: Tensor | None = None,
        wanted: Sequence[bool] = (True, True),
    ) -> tuple[Tensor, Tensor]:
        """Measures and columns, [2, k], see :func:`extreme_pairs`; intervals: [2, 2, k].

        wanted: which of the two kinds are; of another there are no pairs.
        """
        windows = (None, None) if intervals is None else [Interval(*ends) for ends in intervals]
        like = self.x.new_empty(0)
        found = [
            Extremum(len(self.lines), like, kind, is_largest, window)
            for kind, is_largest, window in zip((True, False), largest, windows, strict=True)
        ]
        for extremum, is_wanted in zip(found, wanted, strict=True):
            if is_wanted:
                extremum.add(_OwnLines(self))
        x, columns = (
            torch.stack(parts) for parts in zip(*(one.end() for one in found), strict=True)
        )
        return x, columns


class _OwnLines:
    """A strip as entries whose lines are numbered from its first row on."""

    def __init__(self, strip: Strip) -> None:
        self.x, self.kinds, self.counted = strip.x, strip.kinds, strip.counted
        self.sides = (Rows(slice(None)),)


class RowStrips:
    """All pairs of a problem by label, in strips of whole rows.

    measures: what is measured of some rows.  sign: +1 for similarities, -1 for distances.
    elements: about how many a strip may hold.  fused: the problem as the operators take it, if they
    measure the same.
    """

    def __init__(
        self,
        problem: PairProblem,
        measures: Measures,
        sign: float,
        elements: int | None = None,
        fused: PairProblem | None = None,
    ) -> None:
        self.problem, self.measures, self.sign, self.fused = problem, measures, sign, fused
        self.elements = STRIP_ELEMENTS if elements is None else elements
        self.shape = problem.shape
        self.device = problem.anchors.device
        self.dtype = accumulation_dtype(problem.anchors.dtype)

    @property
    def like(self) -> Tensor:
        """An empty tensor of the measures' dtype, on their device."""
        return torch.empty(0, dtype=self.dtype, device=self.device)

    @property
    def height(self) -> int:
        """Rows of a strip."""
        return max(1, self.elements // max(1, self.shape[1]))

    @property
    def num_pairs(self) -> int:
        """Positive and negative ones."""
        n, m = self.shape
        return n * m - (min(n, m) if self.problem.exclude_diagonal else 0)

    def only_strip(self) -> Strip | None:
        """All rows, if they are one strip: what is measured of them is measured once."""
        return next(self.strips(), None) if self.shape[0] <= self.height else None

    def strips(self, rows: Tensor | None = None) -> Iterator[Strip]:
        """Strips of all rows, or of ``rows``, in their order."""
        if rows is None:
            rows = torch.arange(self.shape[0], device=self.device)
        if self.shape[1] == 0:
            return
        for lines in rows.split(self.height):
            if len(lines):
                yield Strip(self.problem, lines, self.measures, self.sign)

    def num_positives(self) -> Tensor:
        """Of each row, [n]."""
        return num_positives(self.problem)

    def num_negatives(self) -> Tensor:
        """Of each row, [n]."""
        return self.problem.pairs_of_rows() - self.num_positives()

    def largest(self, most_alike: Sequence[bool]) -> list[bool]:
        """Whether the most, or the least, alike pair is that of the largest x."""
        return [is_alike == (self.sign > 0) for is_alike in most_alike]

    def ends(self) -> dict[bool, tuple[Tensor, Tensor]]:
        """The smallest and the largest x, 0-d, of each kind of pair that there is."""
        found: dict[bool, tuple[Tensor, Tensor]] = {}
        for strip in self.strips():
            for kind in strip.kinds():
                of_kind = strip.x[strip.counted(kind)]
                if len(of_kind):
                    low, high = torch.aminmax(of_kind)
                    if kind in found:
                        low, high = found[kind][0].minimum(low), found[kind][1].maximum(high)
                    found[kind] = low, high
        return found


def extreme_pairs(
    problem: PairProblem, intervals: Tensor | None, largest: Sequence[bool]
) -> tuple[Tensor, Tensor]:
    """Measures and columns, [2, n], of the extreme positive and negative pair of each row.

    See ``Extremum``, of which these are the results.  intervals: None or [2, 2, n], the lowest and
    the highest x that count, of positives and of negatives.  largest: of each kind whether the
    largest x is wanted, or the smallest.
    """
    measures = fused_measures(*problem[:2], problem.measure, normalize=False)
    pairs = RowStrips(problem, measures, 1.0)
    found = (
        (
            strip.lines,
            strip.extremes(largest, None if intervals is None else intervals[..., strip.lines]),
        )
        for strip in pairs.strips()
    )
    return joined_extremes(pairs, found, largest)


def joined_extremes(
    pairs: RowStrips,
    found: Iterable[tuple[Tensor | slice, tuple[Tensor, Tensor]]],
    largest: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    """The extremes of all rows from those of the strips, each with the numbers of its rows.

    They are written into one tensor as they come: a small tensor kept of each strip would lie
    between the large ones of two strips, and keep the allocator from using that memory again.
    """
    n, like = pairs.shape[0], pairs.problem.anchors.new_empty(0, dtype=pairs.dtype)
    none = (Extremum(n, like, True, is_largest).end() for is_largest in largest)
    x, columns = (torch.stack(parts) for parts in zip(*none, strict=True))
    for lines, (x_of_lines, columns_of_lines) in found:
        x[:, lines], columns[:, lines] = x_of_lines, columns_of_lines
    return x, columns


def fused_measures(
    anchors: Tensor, references: Tensor | None, measure: str, normalize: bool
) -> Measures:
    """Dot products or Euclidean distances, in float32 or float64."""
    dtype, wide = tile_dtype(anchors), accumulation_dtype(anchors.dtype)

    def operand_of(embeddings: Tensor) -> Tensor:
        with without_autocast(embeddings):
            rows = prepare(embeddings, dtype, normalize).to(wide)
            return operand(rows, row_norms(rows), measure)

    a = operand_of(anchors)
    r = a if references is None else operand_of(references)
    memory = a.new_empty(0)

    def measures(rows: Tensor) -> Tensor:
        nonlocal memory
        size = len(rows) * len(r)
        if memory.numel() < size:
            memory = a.new_empty(size)
        with without_autocast(a):
            return measured_block(a[rows], r, measure, memory[:size].view(len(rows), len(r)))

    return measures


def other_measures(
    anchors: Tensor, references: Tensor | None, distance: Callable[[Tensor, Tensor], Tensor]
) -> Measures:
    """Any function of some anchors and all references."""
    others = anchors if references is None else references
    wide = accumulation_dtype(anchors.dtype)

    def measures(rows: Tensor) -> Tensor:
        return distance(anchors[rows], others).to(wide)

    return measures
