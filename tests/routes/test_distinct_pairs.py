"""Each listed pair once: by marks and by sorting."""

from __future__ import annotations

import pytest
import torch

from fusedml.engine import list_sizes
from fusedml.engine.routes import distinct_pairs as module
from fusedml.engine.routes.distinct_pairs import PairIndices, are_distinct, distinct_pairs
from fusedml.errors import PairConflictError

WAYS = [0, 10**9]  # pairs per listed one up to which they are marked: sorted, marked


def pairs(*of: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = torch.tensor(of, dtype=torch.int64).reshape(-1, 2).unbind(1)
    return rows, columns


def as_sets(indices: PairIndices) -> list[list[tuple[int, int]]]:
    lists = indices[:2], indices[2:]
    return [list(zip(*(x.tolist() for x in pair), strict=True)) for pair in lists]


@pytest.mark.parametrize("marks_per_listed", WAYS)
@pytest.mark.parametrize("counts", [(0, 0), (0, 3), (1, 0), (40, 60), (300, 300)])
@pytest.mark.parametrize("is_by_row", [True, False])
def test_every_pair_is_left_once_and_the_rows_ascend(
    marks_per_listed, counts, is_by_row, monkeypatch
):
    monkeypatch.setattr(list_sizes, "_PAIRS_PER_HELD", marks_per_listed)
    num_positive, num_negative = counts
    rows, columns = torch.randint(13, (num_positive,)), torch.randint(8, (num_positive,))
    negative_rows = torch.randint(13, (num_negative,))
    negative_columns = torch.randint(8, 17, (num_negative,))
    if is_by_row:
        rows, negative_rows = rows.sort().values, negative_rows.sort().values
    given = PairIndices(rows, columns, negative_rows, negative_columns)
    result = distinct_pairs(given, 13, 17)
    for kind, of_given in zip(as_sets(result), as_sets(given), strict=True):
        assert len(kind) == len(set(kind))
        assert set(kind) == set(of_given)
        assert [row for row, _ in kind] == sorted(row for row, _ in kind)


@pytest.mark.parametrize("marks_per_listed", WAYS)
def test_a_pair_of_both_kinds_is_named(marks_per_listed, monkeypatch):
    monkeypatch.setattr(list_sizes, "_PAIRS_PER_HELD", marks_per_listed)
    positive, negative = (
        pairs((4, 2), (1, 6), (0, 0), (1, 6)),
        pairs((1, 6), (4, 2), (1, 6), (3, 3)),
    )
    for indices in (PairIndices(*positive, *negative), PairIndices(*negative, *positive)):
        message = r"as both, the first being \(1, 6\)"
        with pytest.raises(PairConflictError, match="lists 2 pair.*" + message):
            distinct_pairs(indices, 5, 7)


def test_lists_without_repeats_that_are_in_order_are_taken_as_they_are():
    all_pairs = torch.ones(6, 8).nonzero().unbind(1)
    given = PairIndices(all_pairs[0][:20], all_pairs[1][:20], all_pairs[0][20:], all_pairs[1][20:])
    assert all(x is y for x, y in zip(distinct_pairs(given, 6, 8), given, strict=True))


@pytest.mark.parametrize("few_listed", [0, 10**9])
@pytest.mark.parametrize("marks_per_listed", WAYS)
@pytest.mark.parametrize("size", [1, 7, 30])
def test_whether_any_pair_is_listed_twice(few_listed, marks_per_listed, size, monkeypatch):
    monkeypatch.setattr(module, "FEW_LISTED", few_listed)
    monkeypatch.setattr(list_sizes, "_PAIRS_PER_HELD", marks_per_listed)
    rows, columns = torch.ones(8, 8).nonzero()[torch.randperm(64)[: 2 * size]].unbind(1)
    once = PairIndices(rows[:size], columns[:size], rows[size:], columns[size:])
    assert are_distinct(once, 8, 8)
    # the columns of other rows are no repetition, nor are rows and columns exchanged
    assert are_distinct(PairIndices(rows, columns, columns + 8, rows), 16, 8)
    none = rows[:0]
    twice = [torch.cat([of, of[:1]]) for of in once[:2]]
    for repeated in (
        PairIndices(*twice, *once[2:]),
        PairIndices(*once[2:], *twice),
        PairIndices(*once[:2], rows[:1], columns[:1]),
        PairIndices(*twice, none, none),
    ):
        assert not are_distinct(repeated, 8, 8)
    assert are_distinct(PairIndices(none, none, none, none), 8, 8)
