"""One positive and one negative per anchor: the easiest, the hardest, or the hardest beyond."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, Literal

import torch
from torch import Tensor

from fusedml.engine.arguments import check_choice, check_number
from fusedml.engine.positives import positive_pairs
from fusedml.engine.reductions.extrema import NO_COLUMN
from fusedml.engine.routes.choice import looks
from fusedml.engine.routes.row_strips import RowStrips, joined_extremes
from fusedml.engine.routes.window_lists import pairs_within
from fusedml.engine.routes.windows import Window
from fusedml.miners.base import BaseMiner, Mined, MinerOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

_Range = Sequence[float] | None

Strategy = Literal["hard", "semihard", "easy", "all"]


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

    pml_hooks = (
        *("get_mine_function", "get_x_per_row", "get_max_per_row", "get_min_per_row"),
        *("get_positives", "get_negatives", "get_func_for_stats", "set_stats"),
    )
    HARD: Final = "hard"
    SEMIHARD: Final = "semihard"
    EASY: Final = "easy"
    ALL: Final = "all"
    all_batch_mining_strategies = (HARD, SEMIHARD, EASY, ALL)

    def __init__(
        self,
        pos_strategy: Strategy = EASY,
        neg_strategy: Strategy = SEMIHARD,
        allowed_pos_range: _Range = None,
        allowed_neg_range: _Range = None,
        **kwargs: Unpack[MinerOptions],
    ) -> None:
        super().__init__(**kwargs)
        known = self.all_batch_mining_strategies
        for name, given in (("pos_strategy", pos_strategy), ("neg_strategy", neg_strategy)):
            check_choice(name, given, known)
        both = {pos_strategy, neg_strategy}
        if both == {self.SEMIHARD}:
            raise ValueError('pos_strategy and neg_strategy cannot both be "semihard"')
        if both == {self.ALL, self.SEMIHARD}:
            raise ValueError(
                '"semihard" cannot be used in combination with "all", got '
                f"pos_strategy={pos_strategy!r} and neg_strategy={neg_strategy!r}"
            )
        self.pos_strategy, self.neg_strategy = pos_strategy, neg_strategy
        _check_range("allowed_pos_range", allowed_pos_range)
        _check_range("allowed_neg_range", allowed_neg_range)
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
        measures, columns = self._found(pairs)
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

    def _found(self, pairs: RowStrips) -> tuple[Tensor, Tensor]:
        """Measures and columns, [2, n], of what is found of positives and of negatives.

        Of a side that lists all they say nothing.
        """
        strategies = self.pos_strategy, self.neg_strategy
        # the hard positives are the least alike, the hard negatives the most
        alike = self.pos_strategy == self.EASY, self.neg_strategy != self.EASY
        largest, intervals = pairs.largest(alike), self._intervals(pairs)

        # is found second, beyond what the other side has found
        second = [strategy == self.SEMIHARD for strategy in strategies]
        first = [not is_second for is_second in second]

        def found() -> Iterator[tuple[Tensor | slice, tuple[Tensor, Tensor]]]:
            for part in looks(pairs):
                within = None if intervals is None else intervals[..., part.lines]
                x, columns = part.extremes(largest, within, first)
                if True in second:
                    assert within is not None  # see _intervals
                    k = second.index(True)
                    within = self._beyond(within, k, x[1 - k], (k == 0) == (pairs.sign > 0))
                    of_second = part.extremes(largest, within, second)
                    x[k], columns[k] = (of_kinds[k] for of_kinds in of_second)
                yield part.lines, (x, columns)

        return joined_extremes(pairs, found(), largest)

    def _intervals(self, pairs: RowStrips) -> Tensor | None:
        """The measures that may be found, [2, 2, n]; None if all may, and none are tightened."""
        ranges = self.allowed_pos_range, self.allowed_neg_range
        if ranges == (None, None) and self.SEMIHARD not in (self.pos_strategy, self.neg_strategy):
            return None
        ends = [(-math.inf, math.inf) if given is None else tuple(given) for given in ranges]
        numbers = torch.tensor(ends, dtype=pairs.dtype, device=pairs.device)
        return numbers[:, :, None].repeat(1, 1, pairs.shape[0])

    @staticmethod
    def _beyond(intervals: Tensor, k: int, bound: Tensor, is_above: bool) -> Tensor:
        """Of kind k only what is strictly above (below) the bound of its line, too."""
        infinite = torch.full_like(bound, math.inf if is_above else -math.inf)
        strict, tightened = torch.nextafter(bound, infinite), intervals.clone()
        low, high = tightened[k]
        torch.maximum(low, strict, out=low) if is_above else torch.minimum(high, strict, out=high)
        return tightened

    def _all_pairs(self, pairs: RowStrips, is_positive: bool) -> Sequence[Tensor]:
        counts = pairs.num_positives() if is_positive else pairs.num_negatives()
        self.check_size(int(counts.sum()))
        if is_positive:
            return positive_pairs(pairs.problem)
        return pairs_within(pairs, lambda _: (None, Window()), self.check_size)[2:]

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


def _check_range(name: str, given: _Range) -> None:
    if given is None:
        return
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != 2:
        raise TypeError(f"{name} must be None or two numbers, (lowest, highest), got {given!r}")
    for end in given:
        check_number(f"each end of {name}", end)
