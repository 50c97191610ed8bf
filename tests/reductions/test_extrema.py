"""The extreme pair of each line, whatever parts its entries come in."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from fusedml.engine.reductions.extrema import NO_COLUMN, Extremum, Interval

KINDS = pytest.mark.parametrize("is_positive", [True, False])
ENDS = pytest.mark.parametrize("is_largest", [True, False])


class BlockSide:
    """Rows of a block; or columns, as lines whose columns are the rows."""

    def __init__(self, lines: slice, others: Tensor, dim: int) -> None:
        self.lines, self.others, self.dim = lines, others, dim

    def spread(self, of_lines: Tensor) -> Tensor:
        return of_lines.unsqueeze(self.dim)

    def largest_at(self, values: Tensor) -> tuple[Tensor, Tensor]:
        largest = values.amax(self.dim, keepdim=True)
        others = self.others.unsqueeze(1 - self.dim)
        far = torch.iinfo(torch.int64).max
        is_it = (values == largest) | values.isnan()
        return largest.squeeze(self.dim), torch.where(is_it, others, far).amin(self.dim)


class Block:
    """Rows against columns, which are in an order of their own."""

    def __init__(self, x, positive, rows: slice, columns: Tensor, both_sides: bool) -> None:
        self.x, self.positive = x[rows][:, columns], positive[rows][:, columns]
        self.sides = [BlockSide(rows, columns, 1)]
        if both_sides:
            numbers = torch.arange(*rows.indices(len(x)))
            begin = len(x) + int(columns[0])
            lines = slice(begin, begin + len(columns))
            self.sides.append(BlockSide(lines, numbers, 0))

    def kinds(self):
        return True, False

    def counted(self, is_positive: bool) -> Tensor:
        return self.positive == is_positive


def matrix(n: int = 12, m: int = 15) -> tuple[Tensor, Tensor]:
    """Small integers, so that many are equal; and which pairs are positive."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 3, (n, m), generator=generator).double()
    positive = torch.rand(n, m, generator=generator) < 0.4
    positive[0], positive[1] = False, True
    return x, positive


def expected(x: Tensor, counted: Tensor, is_largest: bool) -> tuple[Tensor, Tensor]:
    """Row by row."""
    values, columns = [], []
    for row, mask in zip(x.tolist(), counted.tolist(), strict=True):
        pairs = [(v, j) for j, (v, is_in) in enumerate(zip(row, mask, strict=True)) if is_in]
        best = (max if is_largest else min)((v for v, _ in pairs), default=None)
        empty = -math.inf if is_largest else math.inf
        values.append(empty if best is None else best)
        columns.append(next((j for v, j in pairs if v == best), NO_COLUMN))
    return torch.tensor(values, dtype=x.dtype), torch.tensor(columns)


def swept(extremum: Extremum, x, positive, cuts: list[Tensor], height: int, both_sides=False):
    rows = [slice(k, min(k + height, len(x))) for k in range(0, len(x), height)]
    for where, columns in itertools.product(rows, cuts):
        extremum.add(Block(x, positive, where, columns, both_sides))
    return extremum.end()


@KINDS
@ENDS
@pytest.mark.parametrize("order", ["ascending", "descending", "mixed"])
def test_any_parts_in_any_order(is_positive: bool, is_largest: bool, order: str) -> None:
    x, positive = matrix()
    columns = torch.arange(15)
    if order == "mixed":
        columns = torch.randperm(15, generator=torch.Generator().manual_seed(1))
    cuts = list(columns.split(4))
    if order == "descending":
        cuts.reverse()
    found = swept(Extremum(12, x, is_positive, is_largest), x, positive, cuts, 5)
    torch.testing.assert_close(found, expected(x, positive == is_positive, is_largest))


@KINDS
@ENDS
def test_both_sides_of_a_block(is_positive: bool, is_largest: bool) -> None:
    x, positive = matrix()
    extremum = Extremum(27, x, is_positive, is_largest)
    found = swept(extremum, x, positive, list(torch.arange(15).split(4)), 5, both_sides=True)
    counted = positive == is_positive
    rows, columns = expected(x, counted, is_largest), expected(x.T, counted.T, is_largest)
    torch.testing.assert_close(found, tuple(map(torch.cat, zip(rows, columns, strict=True))))


@KINDS
@ENDS
@pytest.mark.parametrize("is_of_lines", [True, False])
@pytest.mark.parametrize(("low", "high"), [(1.0, None), (None, 1.0), (1.0, 1.0), (3.0, None)])
def test_a_closed_interval(is_positive, is_largest, is_of_lines, low, high) -> None:
    x, positive = matrix()
    counted = (positive == is_positive) & (x >= (low or -9)) & (x <= (high or 9))
    given = [None if v is None else x.new_full((12,), v) if is_of_lines else v for v in (low, high)]
    extremum = Extremum(12, x, is_positive, is_largest, Interval(*given))
    found = swept(extremum, x, positive, list(torch.arange(15).split(4)), 5)
    torch.testing.assert_close(found, expected(x, counted, is_largest))


def test_an_interval_of_each_line() -> None:
    x, positive = matrix()
    low = (torch.arange(12) % 3).double()
    extremum = Extremum(12, x, False, False, Interval(low=low))
    found = swept(extremum, x, positive, list(torch.arange(15).split(4)), 5)
    torch.testing.assert_close(found, expected(x, ~positive & (x >= low[:, None]), False))


@ENDS
@pytest.mark.parametrize("order", [1, -1])
def test_nan_is_found_and_stays(is_largest: bool, order: int) -> None:
    x, positive = matrix()
    x[4, 7], positive[4, 7] = math.nan, True
    cuts = list(torch.arange(15).split(4))[::order]
    values, columns = swept(Extremum(12, x, True, is_largest), x, positive, cuts, 5)
    assert values.isnan().nonzero().tolist() == [[4]]
    assert columns[4] == 7
