"""Pairs in windows: the operators in strips against masks of the whole matrix."""

from __future__ import annotations

import math

import pytest
import torch

from fusedml.engine import ops
from fusedml.engine.pair_lists import of_sort_keys, sort_keys
from fusedml.engine.routes import row_strips
from fusedml.engine.routes.windows import (
    UNIT,
    Window,
    above,
    below,
    num_splits,
    packed,
    split_width,
)

NUMBERS = torch.tensor([-math.inf, -2.5, -1e-40, 0.0, 1e-40, 0.1, 3.0, math.inf])


@pytest.mark.parametrize("elements", [1 << 20, 700])
@pytest.mark.parametrize("references", [False, True])
def test_whole_matrix(monkeypatch, references, elements):
    monkeypatch.setattr(row_strips, "STRIP_ELEMENTS", elements)
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(-2, 3, (23, 4), generator=generator).double()
    r = torch.randint(-2, 3, (300, 4), generator=generator).double() if references else None
    labels, others = torch.arange(23) % 4, torch.arange(300) % 5 if references else None
    bounds = torch.randint(-3, 4, (2, 2, 23), generator=generator).double().sort(1).values
    shifts = torch.randint(-1, 2, (2, 1, 23), generator=generator).double()
    windows = torch.cat([bounds, shifts], 1)
    self_offset = 290 if references else 0
    problem = [a, r, labels, others, "dot", self_offset, windows, 128]
    counts = ops.operator("window_counts", "torch")(*problem)
    x = a @ (a if r is None else r).T
    same = labels[:, None] == (labels if others is None else others)
    own = (torch.arange(23) + self_offset) % x.shape[1]
    exists = own[:, None] != torch.arange(x.shape[1])
    inside = [
        kind & exists & (x + shift[:, None] >= low[:, None]) & (x + shift[:, None] <= high[:, None])
        for kind, (low, high, shift) in zip((same, ~same), windows, strict=True)
    ]
    columns = [range(s, min(s + 128, x.shape[1])) for s in range(0, x.shape[1], 128)]
    expected = [torch.stack([kept[:, part].sum(1) for part in columns], 1) for kept in inside]
    assert torch.equal(counts, torch.stack(expected))
    ends = counts.view(-1).cumsum(0).view_as(counts)
    listed = ops.operator("window_pairs", "torch")(*problem, ends, int(counts.sum()), True)
    pairs = torch.cat([kept.nonzero() for kept in inside])
    assert len(pairs) > 100
    assert torch.equal(torch.stack(listed[:2], 1), pairs)
    assert torch.equal(listed[2], x[tuple(pairs.T)])


def test_neighbours():
    x = NUMBERS[1:-1]
    assert (above(x, x) > x).all() and (below(x, x) < x).all()
    assert torch.equal(below(above(x, x), x), x)
    # of the number as its type has it
    assert not (torch.tensor(0.1) >= above(0.1, x)) and torch.tensor(0.1) >= above(0.0999999, x)
    assert above(math.inf, x) == math.inf and above(math.nan, x).isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keys_are_ordered_and_led_back(dtype):
    x = NUMBERS.to(dtype)
    keys = sort_keys(x)
    assert (keys[1:] > keys[:-1]).all()
    assert torch.equal(of_sort_keys(keys), x)
    assert torch.equal(sort_keys(torch.tensor([-0.0], dtype=dtype)), keys[3:4])


def test_windows_as_the_operators_take_them():
    like, lines = torch.empty(0, dtype=torch.float64), torch.arange(3.0)
    numbers = packed((None, Window(low=lines, shift=-0.5)), 3, like)
    assert numbers.dtype == like.dtype
    assert numbers[0].T.tolist() == [[math.inf, -math.inf, 0.0]] * 3
    assert numbers[1].T.tolist() == [[i, math.inf, -0.5] for i in range(3)]
    assert Window(1.0, 2.0, 3.0).negated() == Window(-2.0, -1.0)


@pytest.mark.parametrize("n, m", [(1, 1), (1, 100_000), (500, 20_000), (40_000, 129), (9, 0)])
def test_few_rows_divide_the_columns(n, m):
    width = split_width(n, m)
    assert width % UNIT == 0 and width > 0
    blocks = num_splits(m, width) * -(-n // UNIT)
    assert m == 0 or blocks <= max(264, -(-n // UNIT))
    # all of a GPU, unless there is less to do
    assert blocks > 132 or blocks == -(-n // UNIT) * -(-m // UNIT)
