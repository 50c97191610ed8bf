"""One positive and one negative per anchor: the easiest, the hardest, or the hardest beyond."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fusedml.engine.pair_lists import Part
from fusedml.engine.positives import positive_pairs
from fusedml.engine.reductions.extrema import NO_COLUMN, Extremum, Interval
from fusedml.engine.routes.row_strips import RowStrips
from fusedml.miners.base import BaseMiner, Mined, MinerOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

_Range = Sequence[float] | None


class BatchEasyHardMiner(BaseMiner):
    """For each anchor a positive and a negative, each by a strategy.

    * "hard": the farthest positive, the nearest negative.
    * "easy": the nearest positive, the farthest negative.
    * "semihard": the farthest positive nearer than the negative that was found, or the nearest
      negative farther than the positive that was found.
    * "all": all positives, or all negatives.

    Of equal pairs the one with the lowest number is taken.  Anchors for which one of the two is
    not found are left out; with "all" on one side the other side does not matter.  Returns
    (anchors, positives, anchors, negatives).

    Args:
        pos_strategy, neg_strategy: as above.  Not both can be "semihard", nor one of them "all" and
            the other "semihard".
        allowed_pos_range, allowed_neg_range: (low, high): pairs that measure less or more are not
            looked at ("all" lists them).

    Records with ``collect_stats``: ``easiest_pos_pair``, ``hardest_pos_pair``,
    ``easiest_neg_pair``, ``hardest_neg_pair``, and without "all" ``easiest_triplet`` and
    ``hardest_triplet``, measures of positives minus those of negatives.

    Raises ValueError for an unknown strategy or a combination that is not allowed.

    Source: Xuan, Stylianou and Pless, "Improved Embeddings with Easy Positive Triplet Mining",
    WACV 2020.
    """

    HARD = "hard"
    SEMIHARD = "semihard"
    EASY = "easy"
    ALL = "all"
    all_batch_mining_strategies = (HARD, SEMIHARD, EASY, ALL)

    def __init__(
        self,
        pos_strategy: str = EASY,
        neg_strategy: str = SEMIHARD,
        allowed_pos_range: _Range = None,
        allowed_neg_range: _Range = None,
        **kwargs: Unpack[MinerOptions],
    ) -> None:
        super().__init__(**kwargs)
        known = self.all_batch_mining_strategies
        for name, given in (("pos_strategy", pos_strategy), ("neg_strategy", neg_strategy)):
            if given not in known:
                choices = ", ".join(map(repr, known))
                raise ValueError(f"{name} must be one of {choices}, got {given!r}")
        both = {pos_strategy, neg_strategy}
        if both == {self.SEMIHARD}:
            raise ValueError('pos_strategy and neg_strategy cannot both be "semihard"')
        if both == {self.ALL, self.SEMIHARD}:
            raise ValueError(
                '"semihard" cannot be used in combination with "all", got '
                f"pos_strategy={pos_strategy!r} and neg_strategy={neg_strategy!r}"
            )
        self.pos_strategy, self.neg_strategy = pos_strategy, neg_strategy
        self.allowed_pos_range = allowed_pos_range
        self.allowed_neg_range = allowed_neg_range
        kinds = ("triplet", "pos_pair", "neg_pair")
        self.add_to_recordable_attributes(
            list_of_names=[f"{end}_{kind}" for kind in kinds for end in ("easiest", "hardest")],
            is_stat=True,
        )

    def mine(
        self, embeddings: Tensor, labels: Tensor | None, ref_emb: Tensor, ref_labels: Tensor | None
    ) -> Mined:
        pairs = self.pairs_of(embeddings, labels, ref_emb, ref_labels)
        found = self._sweep(pairs)
        measures, columns = zip(*(extremum.end() for extremum in found), strict=True)
        is_kept = [at != NO_COLUMN for at in columns]
        if not self._lists_all():
            is_kept = [is_kept[0] & is_kept[1]] * 2
        lists: list[Tensor] = []
        for k, strategy in enumerate((self.pos_strategy, self.neg_strategy)):
            if strategy == self.ALL:
                lists += self._all_pairs(pairs, is_positive=k == 0)
            else:
                (rows,) = torch.where(is_kept[k])
                lists += [rows, columns[k][rows]]
        if self.collect_stats:
            self._set_stats(pairs, [x[kept] for x, kept in zip(measures, is_kept, strict=True)])
        return tuple(lists)

    def _lists_all(self) -> bool:
        return self.ALL in (self.pos_strategy, self.neg_strategy)

    def _sweep(self, pairs: RowStrips) -> tuple[Extremum, Extremum]:
        """What is found of positives and of negatives; nothing of a side that lists all."""
        strategies = self.pos_strategy, self.neg_strategy
        # what is semihard is found second, beyond what the other side has found
        order = (1, 0) if self.pos_strategy == self.SEMIHARD else (0, 1)
        windows = [
            self._window(given, strategy == self.SEMIHARD, pairs)
            for given, strategy in zip(
                (self.allowed_pos_range, self.allowed_neg_range), strategies, strict=True
            )
        ]
        # the hard positives are the least alike, the hard negatives the most
        positive = pairs.extremum(True, self.pos_strategy == self.EASY, windows[0])
        negative = pairs.extremum(False, self.neg_strategy != self.EASY, windows[1])
        found = positive, negative
        for strip in pairs.strips():
            for k in order:
                if strategies[k] == self.SEMIHARD:  # the other side has seen all of these rows
                    beyond = found[1 - k].end()[0][strip.lines]
                    self._tighten(windows[k], strip.lines, beyond, (k == 0) == (pairs.sign > 0))
                if strategies[k] != self.ALL:
                    found[k].add(strip)
        return found

    @staticmethod
    def _window(given: _Range, is_of_lines: bool, pairs: RowStrips) -> Interval:
        """What may be found; bounds of each line, if they are to be tightened."""
        if not is_of_lines:
            return Interval() if given is None else Interval(*given)
        low, high = (-math.inf, math.inf) if given is None else given
        numbers = pairs.problem.anchors.new_empty(pairs.shape[0], dtype=pairs.dtype)
        return Interval(torch.full_like(numbers, low), torch.full_like(numbers, high))

    @staticmethod
    def _tighten(window: Interval, lines: Tensor, beyond: Tensor, is_above: bool) -> None:
        """Lets only what is strictly above (below) ``beyond`` into the window of some lines."""
        infinite = torch.full_like(beyond, math.inf if is_above else -math.inf)
        bound, limit = (window.low, torch.maximum) if is_above else (window.high, torch.minimum)
        assert isinstance(bound, Tensor)  # see _window
        bound[lines] = limit(bound[lines], torch.nextafter(beyond, infinite))

    def _all_pairs(self, pairs: RowStrips, is_positive: bool) -> Sequence[Tensor]:
        counts = pairs.num_positives() if is_positive else pairs.num_negatives()
        self.check_size(int(counts.sum()))
        if is_positive:
            return positive_pairs(pairs.problem)

        def parts() -> Iterator[Part]:
            for strip in pairs.strips():
                yield Part((strip.lines,), strip.negative)

        return self.listed(pairs, parts, (1,))

    def _set_stats(self, pairs: RowStrips, measures: list[Tensor]) -> None:
        if self._lists_all():
            ends = pairs.ends()
            for k, strategy in enumerate((self.pos_strategy, self.neg_strategy)):
                if strategy == self.ALL:
                    measures[k] = torch.stack(ends[k == 0]) if (k == 0) in ends else measures[k][:0]
        elif len(measures[0]):
            difference = measures[0] - measures[1]
            self.easiest_triplet, self.hardest_triplet = self._easiest_and_hardest(difference, True)
        if len(measures[0]):
            self.easiest_pos_pair, self.hardest_pos_pair = self._easiest_and_hardest(
                measures[0], True
            )
        if len(measures[1]):
            self.easiest_neg_pair, self.hardest_neg_pair = self._easiest_and_hardest(
                measures[1], False
            )

    def _easiest_and_hardest(self, x: Tensor, is_positive: bool) -> tuple[float, float]:
        low, high = x.amin().item(), x.amax().item()
        is_similarity = bool(getattr(self.distance, "is_inverted", False))
        return (high, low) if is_similarity == is_positive else (low, high)
