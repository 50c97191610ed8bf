"""Pairs drawn so that all measures occur equally often."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fusedml.engine.arguments import check_count
from fusedml.engine.routes.row_strips import RowStrips, Strip
from fusedml.miners.base import BaseMiner, Mined, MinerOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


class UniformHistogramMiner(BaseMiner):
    """Pairs drawn evenly, with replacement, from each bin of a histogram of their measures.

    The bins are of one width, from the smallest to the largest measure of the positives, and
    likewise of the negatives; those without pairs are left out.  Bins are listed in ascending
    order.  One uniform number per drawn pair, by ``torch.rand`` on the CPU, is all the randomness:
    the same pairs follow ``torch.manual_seed`` on every device, but where a pair lies within
    rounding of an edge.

    Args:
        num_bins: of each histogram, at least 1.
        pos_per_bin, neg_per_bin: how many pairs are drawn from a bin, at least 1.

    Raises ValueError for a number below 1.

    Source: pytorch-metric-learning's miner of that name.
    """

    pml_hooks = ("filter_by_bin", "get_bins", "get_uniformly_distributed_pairs")

    def __init__(
        self,
        num_bins: int = 100,
        pos_per_bin: int = 10,
        neg_per_bin: int = 10,
        **kwargs: Unpack[MinerOptions],
    ) -> None:
        super().__init__(**kwargs)
        self.num_bins = check_count("num_bins", num_bins)
        self.pos_per_bin = check_count("pos_per_bin", pos_per_bin)
        self.neg_per_bin = check_count("neg_per_bin", neg_per_bin)
        self.add_to_recordable_attributes(list_of_names=["pos_per_bin", "neg_per_bin"])

    def mine(
        self, embeddings: Tensor, labels: Tensor | None, ref_emb: Tensor, ref_labels: Tensor | None
    ) -> Mined:
        self.check_size(self.num_bins * (self.pos_per_bin + self.neg_per_bin))
        pairs = self.pairs_of(embeddings, labels, ref_emb, ref_labels)
        ends = pairs.ends()
        per_bin = {True: self.pos_per_bin, False: self.neg_per_bin}
        histograms = {
            kind: _Histogram(kind, ends[kind], pairs.shape[0], self.num_bins)
            for kind in per_bin
            if kind in ends
        }
        for strip in pairs.strips():
            for histogram in histograms.values():
                histogram.count(strip)
        none = torch.empty(0, dtype=torch.int64, device=pairs.device)
        lists: list[Tensor] = []
        for kind, number in per_bin.items():
            if kind in histograms:
                lists += histograms[kind].drawn(pairs, number)
            else:
                lists += none, none
        return tuple(lists)


class _Histogram:
    """How many pairs of one kind each row has in each bin, and pairs drawn from them.

    Pairs of a bin are numbered by rows, then by columns.
    """

    def __init__(
        self, is_positive: bool, ends: tuple[Tensor, Tensor], num_rows: int, num_bins: int
    ) -> None:
        self._is_positive, self._num_bins = is_positive, num_bins
        self._low, high = ends
        width = (high - self._low) / num_bins
        self._width = torch.where(width > 0, width, 1)
        self._counts = torch.zeros((num_rows, num_bins), dtype=torch.int32, device=self._low.device)

    def count(self, strip: Strip) -> None:
        """Takes in some rows."""
        mask = strip.counted(self._is_positive)
        bins = self._bins(strip.x[mask])
        rows = torch.repeat_interleave(mask.sum(1))
        size = len(strip.lines) * self._num_bins
        counts = torch.bincount(bins.add_(rows, alpha=self._num_bins), minlength=size)
        self._counts[strip.lines] = counts.view(-1, self._num_bins).to(torch.int32)

    def drawn(self, pairs: RowStrips, per_bin: int) -> tuple[Tensor, Tensor]:
        """Rows and columns of ``per_bin`` pairs of each bin that has any, bin by bin."""
        ahead = self._counts.cumsum(0)
        (filled,) = torch.where(ahead[-1] > 0)
        totals = ahead[-1, filled, None]
        # of 2^62 numbers: no rank has more than one more of them than another
        drawn = torch.randint(1 << 62, (len(filled), per_bin), device="cpu")
        ranks = drawn.to(totals.device) % totals
        rows = torch.searchsorted(ahead.T[filled].contiguous(), ranks, right=True)
        bins = filled[:, None].expand_as(ranks)
        within = ranks - (ahead[rows, bins] - self._counts[rows, bins])
        rows = rows.view(-1)
        return rows, self._columns(pairs, rows, bins.reshape(-1), within.view(-1))

    def _columns(self, pairs: RowStrips, rows: Tensor, bins: Tensor, ranks: Tensor) -> Tensor:
        """The column of the pair of each rank among those of a row and a bin."""
        columns = torch.empty_like(rows)
        begin = 0
        for strip in pairs.strips(rows):  # a row as often as it is drawn
            these = slice(begin, begin + len(strip.lines))
            begin = these.stop
            is_it = strip.counted(self._is_positive) & (self._bins(strip.x) == bins[these, None])
            passed = is_it.cumsum(1)
            columns[these] = torch.searchsorted(passed, ranks[these, None] + 1)[:, 0]
        return columns

    def _bins(self, x: Tensor) -> Tensor:
        """Of pairs of this kind, int64."""
        bins = ((x - self._low) / self._width).to(torch.int64)
        return bins.clamp_(0, self._num_bins - 1)
