"""Lists in two sweeps: what is kept, where it is written, and that it is counted first."""

from __future__ import annotations

import math

import pytest
import torch

from fusedml.engine import pair_lists
from fusedml.engine.pair_lists import Lists, Part, sort_keys


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keys_are_ordered_as_the_numbers_are(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    some = torch.randn(50, generator=generator, dtype=dtype)
    tiny = torch.finfo(dtype).tiny
    ends = torch.tensor([0.0, -0.0, tiny, -tiny, tiny / 4, math.inf, -math.inf], dtype=dtype)
    x = torch.cat([some, ends, some[:9], 1e30 * some])
    keys = sort_keys(x)
    assert torch.equal(keys[:, None] < keys, x[:, None] < x)
    assert torch.equal(keys[:, None] == keys, x[:, None] == x)


@pytest.mark.parametrize("few", [-1, 0, 7, 1 << 10])
def test_entries_are_written_part_by_part(few: int, monkeypatch) -> None:
    monkeypatch.setattr(pair_lists, "FEW_ENTRIES", few)
    generator = torch.Generator().manual_seed(1)
    keeps = torch.rand(10, 6, generator=generator) < 0.4
    order = torch.randint(0, 3, (10, 6), generator=generator).float()  # many are equal
    heads = torch.arange(10), 20 + torch.arange(10)
    sweeps, checked = [], []

    def parts():
        sweeps.append(0)
        for rows in torch.arange(10).split(3):
            of_both = tuple(head[rows] for head in heads)
            yield Part(of_both, keeps[rows], to=0)
            yield Part(of_both[:1], ~keeps[rows], order[rows], to=1)

    a, b, column, row, other = Lists(parts, (2, 1), checked.append, torch.device("cpu")).written()
    lines, columns = torch.where(keeps)
    assert torch.equal(a, lines)
    assert torch.equal(b, 20 + lines)
    assert torch.equal(column, columns)
    expected = [
        (i, j)
        for i in range(10)
        for j in sorted(range(6), key=lambda j: order[i, j].item())
        if not keeps[i, j]
    ]
    assert list(zip(row.tolist(), other.tolist(), strict=True)) == expected
    assert checked == [60]
    assert len(sweeps) == (1 if few > 60 else 2)


def test_a_list_that_is_refused_is_never_written() -> None:
    sweeps = []

    def parts():
        sweeps.append(0)
        yield Part((torch.arange(2),), torch.ones(2, 1 << 19, dtype=torch.bool))

    def refuse(size: int) -> None:
        raise ValueError(size)

    with pytest.raises(ValueError, match=str(1 << 20)):
        Lists(parts, (1,), refuse, torch.device("cpu")).written()
    assert len(sweeps) == 1
