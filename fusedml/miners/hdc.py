"""A share of all pairs: the hardest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from fusedml.engine.arguments import check_number
from fusedml.engine.inputs import make_batch, pair_indices
from fusedml.engine.pair_lists import FEW_ENTRIES, Lists, Part, of_sort_keys, sort_keys
from fusedml.engine.pairs import fill_excluded
from fusedml.engine.positives import positive_pairs
from fusedml.engine.routes.choice import AllRows, all_rows, listed_pairs
from fusedml.engine.routes.distinct_pairs import PairIndices
from fusedml.engine.routes.row_strips import RowStrips, Strip
from fusedml.engine.routes.window_lists import Counted
from fusedml.engine.routes.windows import Window, Windows
from fusedml.miners.base import BaseMiner, Mined, MinerOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

# of a float's bits are sorted at a time
_DIGIT_BITS = 16
# entries whose hardest is looked at first
_MOST_IN_GROUP = 16


class HDCMiner(BaseMiner):
    """The hardest positive pairs and the hardest negative pairs, a share of each.

    ceil(filter_percentage * number) of the positives with the largest distance (least similarity)
    and of the negatives with the smallest, the hardest first; of equally hard ones those with the
    lowest anchor, then the lowest other.  How hard a pair must be is found by counts, without a
    list of the others.

    Args:
        filter_percentage: the share, in (0, 1].

    ``set_idx_externally(indices_tuple, labels)`` takes the pairs from an index tuple instead, those
    left by the miner of the level below; each call then keeps the share of what the one before it
    has left.  ``reset_idx()`` goes back to all pairs.

    Raises ValueError for a ``filter_percentage`` out of range.

    Source: Yuan, Yang and Zhang, "Hard-Aware Deeply Cascaded Embedding", ICCV 2017, section 3.
    """

    pml_hooks = ("set_idx", "filter_original_indices", "should_select_largest")
    example_arguments: ClassVar[Mapping[str, Any]] = {"filter_percentage": 0.0005}

    def __init__(self, filter_percentage: float = 0.5, **kwargs: Unpack[MinerOptions]) -> None:
        super().__init__(**kwargs)
        check_number("filter_percentage", filter_percentage)
        if not 0 < filter_percentage <= 1:
            raise ValueError(f"filter_percentage must be in (0, 1], got {filter_percentage}")
        self.filter_percentage = filter_percentage
        self.add_to_recordable_attributes(list_of_names=["filter_percentage"])
        self.reset_idx()

    def set_idx_externally(
        self, external_indices_tuple: Sequence[Tensor], labels: Tensor | None = None
    ) -> None:
        """Filters these pairs, or those of these triplets, from the next call on."""
        self._external: Sequence[Tensor] | None = external_indices_tuple

    def reset_idx(self) -> None:
        """Filters all pairs from the next call on."""
        self._external = None

    @property
    def was_set_externally(self) -> bool:
        """Whether the pairs of an index tuple are filtered."""
        return self._external is not None

    def mine(
        self, embeddings: Tensor, labels: Tensor | None, ref_emb: Tensor, ref_labels: Tensor | None
    ) -> Mined:
        if self._external is not None:
            given_rows = embeddings, labels, ref_emb, ref_labels
            batch = make_batch(*given_rows, False, self.label_rule)
            given = pair_indices(self._external, batch)
            self._external = self._of_list(given, batch.embeddings, batch.references)
            return tuple(self._external)
        pairs = self.pairs_of(embeddings, labels, ref_emb, ref_labels)
        whole = all_rows(pairs)
        strip = pairs.only_strip() if whole is None else None
        if strip is not None:
            return self._of_strip(strip, pairs)
        positives = int(pairs.num_positives().sum())
        negatives = pairs.num_pairs - positives
        self.check_size(self._share(positives) + self._share(negatives))
        if whole is not None:
            return self._of_kernels(whole, pairs, (positives, negatives))
        # the least similar positives are the hardest, and the most similar negatives
        sides = [
            _Side(True, -pairs.sign, self._share(positives), positives, pairs),
            _Side(False, pairs.sign, self._share(negatives), negatives, pairs),
        ]
        while not all(side.is_found for side in sides):
            for strip in pairs.strips():
                for side in sides:
                    side.count(strip)
            for side in sides:
                side.narrow()

        def parts() -> Iterator[Part]:
            for side in sides:
                side.begin_list()
            for strip in pairs.strips():
                for to, side in enumerate(sides):
                    yield Part((strip.lines,), side.keeps(strip), to=to)

        # a little longer than what is kept of it, until it is sorted
        lists = Lists(parts, (1, 1), lambda size: None, pairs.device).written()
        return (*sides[0].hardest(*lists[:2]), *sides[1].hardest(*lists[2:]))

    def _of_strip(self, strip: Strip, pairs: RowStrips) -> Mined:
        """Of a strip of all rows."""
        rows, columns = positive_pairs(pairs.problem)
        positives = self._share(len(rows))
        negatives = self._share(pairs.num_pairs - len(rows))
        self.check_size(positives + negatives)
        order = _hardest_first(-pairs.sign * strip.x[rows, columns], positives)
        mined = rows[order], columns[order]
        easiest = -pairs.sign * math.inf  # what is no negative is easier than all
        x = strip.x.index_put((rows, columns), strip.x.new_tensor(easiest))
        fill_excluded(x, pairs.problem, easiest)
        some = among_hardest(x, negatives, pairs.sign > 0)
        rows, columns = torch.where(strip.negative) if some is None else some
        order = _hardest_first(pairs.sign * x[rows, columns], negatives)
        return *mined, rows[order], columns[order]

    def _of_kernels(self, whole: AllRows, pairs: RowStrips, numbers: tuple[int, int]) -> Mined:
        sides = [
            _Bracket(towards, self._share(number), number, pairs.dtype)
            for towards, number in zip((-pairs.sign, pairs.sign), numbers, strict=True)
        ]

        def counted(windows: Windows) -> Counted:
            return Counted(whole.problem, windows, whole.backend)

        while not all(side.is_found for side in sides):
            middles = counted([side.window_from(side.middle) for side in sides])
            positives, both = middles.sizes().tolist()
            for side, number in zip(sides, (positives, both - positives), strict=True):
                side.narrow(number)
        windows = [side.window_from(side.low) for side in sides]
        if any(side.has_many_equal for side in sides):
            more = counted(windows).of_rows()
            fewer = counted([side.window_from(side.low + 1) for side in sides]).of_rows()
            numbers_of_rows = zip(sides, more, fewer, strict=True)
            windows = [side.window_of_rows(*numbers) for side, *numbers in numbers_of_rows]
        listed = counted(windows)
        first, size = listed.sizes().tolist()
        rows, columns, x = listed.written(size, is_measured=True)
        mined: list[Tensor] = []
        for side, of_kind in zip(sides, (slice(0, first), slice(first, size)), strict=True):
            order = side.hardest(x[of_kind])
            mined += [rows[of_kind][order], columns[of_kind][order]]
        return tuple(mined)

    def _share(self, number: int) -> int:
        return math.ceil(self.filter_percentage * number)

    def _of_list(
        self, indices: PairIndices, anchors: Tensor, references: Tensor | None
    ) -> PairIndices:
        owner = type(self).__name__
        listed = listed_pairs(indices, anchors, references, self.distance, "auto", owner)
        kept: list[Tensor] = []
        towards = -listed.sign, listed.sign
        for k, measures in enumerate(listed.both_measures()):
            rows, columns = indices[2 * k : 2 * k + 2]
            hardness = towards[k] * measures
            order = torch.argsort(hardness, descending=True, stable=True)
            order = order[: self._share(len(rows))]
            kept += [rows[order], columns[order]]
        return PairIndices(*kept)


def _hardest_first(hardness: Tensor, size: int) -> Tensor:
    """The places of the ``size`` largest numbers of a list, the first of equal ones first."""
    # ascending: only so sorts PyTorch integers by their digits
    return torch.argsort(sort_keys(hardness).bitwise_not_(), stable=True)[:size]


def among_hardest(x: Tensor, size: int, is_largest: bool) -> tuple[Tensor, Tensor] | None:
    """Rows and columns of some entries of a matrix, in its order, the ``size`` hardest among them:
    the largest or the smallest.  None where these are no small share, or not finite.

    The hardest of each of some groups are at least as many entries as there are groups: the last of
    ``size`` of these is a bound.
    """
    in_group = min(_MOST_IN_GROUP, x.numel() // max(1, 4 * size))
    if size == 0 or in_group < 2:
        return None
    num_groups = x.numel() // in_group
    in_groups = num_groups * in_group
    groups, rest = x.view(-1)[:in_groups].view(in_group, num_groups), x.view(-1)[in_groups:]
    hardest = groups.amax(0) if is_largest else groups.amin(0)
    if rest.numel():
        hardest = torch.cat([hardest, rest])
    of_size = hardest.topk(size, largest=is_largest, sorted=False).values
    bound = (of_size.amin() if is_largest else of_size.amax()).item()
    if not math.isfinite(bound) or math.isnan(hardest.sum().item()):
        return None
    (found,) = torch.where(hardest >= bound if is_largest else hardest <= bound)
    first = num_groups * torch.arange(in_group, device=x.device)[:, None]
    if rest.numel():
        is_single = found >= num_groups
        singles = found[is_single] + (in_groups - num_groups)
        numbers = torch.cat([(found[~is_single] + first).view(-1), singles])
    else:
        numbers = (found + first).view(-1)
    of_numbers = x.view(-1)[numbers]
    numbers = numbers[of_numbers >= bound if is_largest else of_numbers <= bound].sort().values
    return numbers // x.shape[1], numbers % x.shape[1]


class _Side:
    """The ``size`` hardest pairs of one kind: those with the largest towards x.

    Found by the digits of its bits, as integers that are ordered as it is: counts of all values of
    the first digit tell where the last of them lies, then those of the next digit within it.

    of_all: how many pairs of the kind there are.
    """

    def __init__(
        self, is_positive: bool, towards: float, size: int, of_all: int, pairs: RowStrips
    ) -> None:
        self._is_positive, self._towards, self._size = is_positive, towards, size
        self._shift = 64 if pairs.dtype == torch.float64 else 32
        self._low = -(1 << self._shift - 1)  # of the keys that are still looked at
        self._above = 0  # pairs above them
        self._counts = torch.zeros(1 << _DIGIT_BITS, dtype=torch.int64, device=pairs.device)
        self.is_found = of_all <= FEW_ENTRIES  # all are listed and sorted
        self._number = of_all  # how many are listed
        dtype = torch.int64 if self._shift == 64 else torch.int32
        self._listed_keys = torch.empty(0, dtype=dtype, device=pairs.device)

    @property
    def _high(self) -> int:
        return self._low + (1 << self._shift) - 1

    def _keys(self, x: Tensor) -> Tensor:
        return sort_keys(x * self._towards)

    def count(self, strip: Strip) -> None:
        """Takes in some rows, unless the last of the hardest is found."""
        if self.is_found:
            return
        keys = self._keys(strip.x[strip.counted(self._is_positive)])
        keys = keys[(keys >= self._low) & (keys <= self._high)]
        shift = self._shift - _DIGIT_BITS
        digits = (keys >> shift) - (self._low >> shift)
        self._counts += torch.bincount(digits, minlength=len(self._counts))

    def narrow(self) -> None:
        """After all rows: looks at the value of the digit that holds the last of the hardest."""
        if self.is_found:
            return
        from_top = self._counts.flip(0).cumsum(0) + self._above
        at = int(torch.searchsorted(from_top, self._size))
        self._above = int(from_top[at - 1]) if at else self._above
        self._shift -= _DIGIT_BITS
        self._low += (len(self._counts) - 1 - at) << self._shift
        inside = int(from_top[at]) - self._above
        self._counts.zero_()
        self.is_found = self._shift == 0 or inside <= FEW_ENTRIES
        # those that are equal to the last digit are taken in order, of others all
        self._number = self._size if self._shift == 0 else self._above + inside

    def begin_list(self) -> None:
        """Before a sweep that lists."""
        self._listed_keys = self._listed_keys.new_empty(self._number)
        self._listed, self._left = 0, self._size - self._above

    def keeps(self, strip: Strip) -> Tensor:
        """Which pairs of the next rows are listed."""
        counted = strip.counted(self._is_positive)
        if self._size == 0:
            return torch.zeros_like(counted)
        keys = self._keys(strip.x)
        kept = counted & (keys >= self._low)
        if self._shift == 0:  # all that have this key are equal: the first ones
            equal = kept & (keys == self._low)
            rank = equal.view(-1).cumsum(0).view(equal.shape)
            kept &= ~(equal & (rank > self._left))
            self._left = max(0, self._left - int(rank.view(-1)[-1]))
        listed = keys[kept]
        end = self._listed + len(listed)
        if end <= self._number:  # else the distance is not the same: the list says so
            self._listed_keys[self._listed : end] = listed
        self._listed = end
        return kept

    def hardest(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Of the listed pairs, the hardest first."""
        # ascending: only so sorts PyTorch integers by their digits
        order = torch.argsort(self._listed_keys.bitwise_not_(), stable=True)[: self._size]
        return rows[order], columns[order]


class _Bracket:
    """Where the last of the ``size`` hardest pairs of one kind lies, those with the largest
    towards x: from the key ``low`` on there are enough of them, from the key ``_high`` on too few.

    Narrowed by halves, each the counts of one sweep, until few lie between or all are equal.
    of_all: how many pairs of the kind there are.
    """

    def __init__(self, towards: float, size: int, of_all: int, dtype: torch.dtype) -> None:
        self._towards, self._size = towards, size
        self._keys = torch.int64 if dtype == torch.float64 else torch.int32
        ends = torch.iinfo(self._keys)
        self.low, self._high = ends.min, ends.max
        self._number, self._above = of_all, 0  # from low on, from high on

    @property
    def is_found(self) -> bool:
        return self._number - self._above <= FEW_ENTRIES or self._high - self.low <= 1

    @property
    def has_many_equal(self) -> bool:
        """Whether more pairs than are listed at once are equal to the last of the hardest."""
        return self._number - self._above > FEW_ENTRIES and self._size > 0

    @property
    def middle(self) -> int:
        return (self.low + self._high) // 2

    def narrow(self, number: int) -> None:
        """number: of the pairs from the middle on."""
        if self.is_found:
            return
        if number >= self._size:
            self.low, self._number = self.middle, number
        else:
            self._high, self._above = self.middle, number

    def window_from(self, key: int | Tensor) -> Window | None:
        """The measures with at least that key; of each row, if the keys are."""
        if self._size == 0:
            return None
        if isinstance(key, int) and key == torch.iinfo(self._keys).min:
            return Window()  # below all numbers
        if isinstance(key, int):
            key = torch.tensor(key, dtype=self._keys, device="cpu")
        least = of_sort_keys(key.to(self._keys))
        return Window(low=least) if self._towards > 0 else Window(high=-least)

    def window_of_rows(self, more: Tensor, fewer: Tensor) -> Window | None:
        """Of equal ones those of the first rows, as many as are needed and the rest of a row.

        more, fewer: how many pairs each row has with the key ``low`` or above, and above it.
        """
        if not self.has_many_equal:
            return self.window_from(self.low)
        equal = more - fewer
        is_needed = equal.cumsum(0) - equal < self._size - fewer.sum()
        return self.window_from(torch.where(is_needed, self.low, self.low + 1))

    def hardest(self, x: Tensor) -> Tensor:
        """Which of the listed pairs, the hardest first."""
        keys = sort_keys(x * self._towards).bitwise_not_()
        return torch.argsort(keys, stable=True)[: self._size]
