"""Each pair of an index tuple once, in memory proportional to the list."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fusedml.engine.list_sizes import ListSize
from fusedml.engine.traced import WithProperties
from fusedml.errors import PairConflictError

# listed pairs that are compared in Python in less time than PyTorch's calls take
FEW_LISTED = 128


class _Indices(NamedTuple):
    positive_rows: Tensor
    positive_columns: Tensor
    negative_rows: Tensor
    negative_columns: Tensor


class PairIndices(WithProperties, _Indices):
    """Listed pairs: positives (positive_rows[k], positive_columns[k]), and negatives likewise.

    All int64; rows index the anchors, columns the references.
    """

    __slots__ = ()

    @property
    def num_listed(self) -> int:
        """The number of pairs of both kinds."""
        return self.positive_rows.shape[0] + self.negative_rows.shape[0]

    @property
    def lacks_a_kind(self) -> bool:
        """Whether no pair is positive, or none negative."""
        return not (self.positive_rows.shape[0] and self.negative_rows.shape[0])

    def ends(self) -> Tensor:
        """The rows, and then the columns, of the positives and the negatives, [2 num_listed]."""
        rows, columns, negative_rows, negative_columns = self
        return torch.cat([rows, negative_rows, columns, negative_columns])

    def size(self, anchors: Tensor, references: Tensor | None) -> ListSize:
        """Of the list, beside all pairs of the anchors, [n, d], and the references."""
        n, width = anchors.shape
        m = n if references is None else references.shape[0]
        return ListSize(n * m, self.num_listed, width)


def mark_pairs(
    indices: PairIndices, num_rows: int, num_columns: int, dtype: torch.dtype = torch.bool
) -> Tensor:
    """Which pairs are listed as positive and as negative: [2, num_rows, num_columns], 0 or 1.

    Raises PairConflictError if a pair is listed both as positive and as negative.
    """
    size, device = num_rows * num_columns, indices.positive_rows.device
    marks = torch.zeros(2, size, dtype=dtype, device=device)
    positive, negative = marks.unbind()
    # half the time of index_put_
    positive.index_fill_(0, pair_keys(indices[:2], num_columns), 1)
    negative.index_fill_(0, pair_keys(indices[2:], num_columns), 1)
    if _have_common(positive, negative):
        conflicts = positive.bool() & negative.bool()
        _raise_on_conflicts(conflicts.nonzero().squeeze(1), num_columns)
    return marks.view(2, num_rows, num_columns)


def _have_common(positive: Tensor, negative: Tensor) -> bool:
    """Whether any pair is marked in both."""
    if positive.dtype == torch.bool:
        return (positive & negative).count_nonzero().item() > 0  # several times faster than any()
    return torch.dot(positive, negative).item() > 0


def distinct_pairs(indices: PairIndices, num_rows: int, num_columns: int) -> PairIndices:
    """The same pairs, each once and with ascending rows.

    Raises PairConflictError if a pair is listed both as positive and as negative.
    """
    if ListSize(num_rows * num_columns, indices.num_listed, 0).fills_matrix:
        # a tenth of the time of sorting
        positive_marks, negative_marks = mark_pairs(indices, num_rows, num_columns).unbind()
        return PairIndices(
            *_marked_pairs(positive_marks, indices[:2]),
            *_marked_pairs(negative_marks, indices[2:]),
        )
    positive = pair_keys(indices[:2], num_columns).unique()
    negative = pair_keys(indices[2:], num_columns).unique()
    _raise_on_conflicts(_common(positive, negative), num_columns)
    return PairIndices(*_pairs_of(positive, num_columns), *_pairs_of(negative, num_columns))


def are_distinct(indices: PairIndices, num_rows: int, num_columns: int) -> bool:
    """Whether no pair is listed twice, as one kind or as both."""
    if indices.num_listed <= FEW_LISTED:
        ends = indices.ends().tolist()
        return len(set(zip(ends, ends[indices.num_listed :], strict=False))) == indices.num_listed
    keys, size = pair_keys(indices.ends().chunk(2), num_columns), num_rows * num_columns
    if ListSize(size, indices.num_listed, 0).fills_matrix:
        marks = torch.zeros(size, dtype=torch.bool, device=keys.device).index_fill_(0, keys, True)
        return int(marks.count_nonzero()) == indices.num_listed
    return keys.unique().shape[0] == indices.num_listed


def first_listed(pairs: tuple[Tensor, ...], num_columns: int) -> Tensor:
    """Which of the listed pairs are not listed before, bool [num_pairs]; needs no host sync."""
    keys, order = torch.sort(pair_keys(pairs, num_columns), stable=True)
    is_first = torch.ones_like(keys, dtype=torch.bool)
    is_first[1:] = keys[1:] != keys[:-1]
    return torch.empty_like(is_first).scatter_(0, order, is_first)


def pair_keys(pairs: tuple[Tensor, ...], num_columns: int) -> Tensor:
    """The number of each pair among all, row by row."""
    rows, columns = pairs
    return torch.add(columns, rows, alpha=num_columns)


def _pairs_of(keys: Tensor, num_columns: int) -> tuple[Tensor, Tensor]:
    rows = keys // num_columns
    return rows, torch.sub(keys, rows, alpha=num_columns)


def _common(one: Tensor, other: Tensor) -> Tensor:
    """The elements of two ascending lists that are in both."""
    few, many = (one, other) if one.shape[0] < other.shape[0] else (other, one)
    if many.shape[0] == 0:
        return many
    places = torch.searchsorted(many, few).clamp_(max=many.shape[0] - 1)
    return few[many[places] == few]


def _marked_pairs(marks: Tensor, listed: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The marked pairs by row: the list itself if it has no other order and no pair twice."""
    rows = listed[0]
    if int(marks.count_nonzero()) == rows.shape[0] and bool((rows[1:] >= rows[:-1]).all()):
        return listed
    return marks.nonzero(as_tuple=True)


def _raise_on_conflicts(conflicts: Tensor, num_columns: int) -> None:
    """conflicts: the keys of the pairs that are listed as both, ascending."""
    if conflicts.numel():
        row, column = divmod(int(conflicts[0]), num_columns)
        raise PairConflictError(
            "Each pair should be either be positive or negative: indices_tuple lists "
            f"{conflicts.numel()} pair(s) as both, the first being ({row}, {column})"
        )
