"""Whole rows of a matrix of pairs, the negatives of each beside its own positives."""

from __future__ import annotations

import torch
from torch import Tensor

from fusedml.engine.reductions.entries import MatrixSide
from fusedml.engine.reductions.thresholds import ABSENT

#: the one side of such rows
ROWS = MatrixSide(slice(None), 1)


class ThresholdRows:
    """y: [n, m], the hardnesses of the negatives, -ABSENT of all other pairs.

    t: [n, k], those of the positives, padded with ABSENT.
    """

    def __init__(self, y: Tensor, rows: Tensor, columns: Tensor, num_pairs: Tensor | int) -> None:
        """y: of all pairs, contiguous, -ABSENT of what is none; written to.  rows, columns: the
        positives, row by row.  num_pairs: of each row.
        """
        n, m = y.shape
        self.y, self._places = y, torch.add(columns, rows, alpha=m)
        self._order: Tensor | None = None
        counts = torch.bincount(rows, minlength=n)
        self._counts, self._num_pairs = counts, num_pairs
        most = int(counts.max()) if n else 0
        hardness = y.view(-1).index_select(0, self._places)
        y.view(-1).index_fill_(0, self._places, -ABSENT)
        # where each positive stands in t; None of as many in each row
        self._slots: Tensor | None = None
        if n * most == len(rows):
            self.t = hardness.view(n, most)
        else:
            begins = counts.cumsum(0) - counts
            begins = torch.arange(0, n * most, most, device=y.device) - begins
            self._slots = torch.arange(len(rows), device=y.device) + begins.index_select(0, rows)
            self.t = y.new_full((n, most), ABSENT)
            self.t.view(-1).index_copy_(0, self._slots, hardness)

    @classmethod
    def of_masks(cls, y: Tensor, positive: Tensor, negative: Tensor) -> ThresholdRows:
        """y: of all pairs.  positive, negative: bool [n, m]."""
        rows, columns = positive.nonzero().unbind(1)
        counted = positive | negative
        return cls(y.masked_fill(~counted, -ABSENT).contiguous(), rows, columns, counted.sum(1))

    def totals(self) -> Tensor:
        """How many triplets there are, [n]."""
        return self._counts * (self._num_pairs - self._counts)

    @property
    def is_full(self) -> bool:
        """Whether all rows have as many positives: t is not padded."""
        return self._slots is None

    def sort(self) -> None:
        """Lets t ascend."""
        self.t, self._order = self.t.sort(1)

    def write_(self, out: Tensor, of_thresholds: Tensor) -> None:
        """Writes numbers of the positives, [n, k] as t, to their places in ``out``, [n, m]."""
        if self._order is not None:
            of_thresholds = torch.empty_like(of_thresholds).scatter_(1, self._order, of_thresholds)
        listed = of_thresholds.reshape(-1)
        if self._slots is not None:
            listed = listed.index_select(0, self._slots)
        out.view(-1).index_copy_(0, self._places, listed)

    def buffer(self, _: int, shape: tuple[int, ...]) -> Tensor:
        """Memory to write to."""
        return self.y.new_empty(shape)
