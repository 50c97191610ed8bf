"""Strips of whole rows, as the miners and the reductions see them."""

from __future__ import annotations

import math

import pytest
import torch

from fusedml.distances import LpDistance
from fusedml.engine.pairs import PairProblem
from fusedml.engine.routes import row_strips
from fusedml.engine.routes.choice import row_strips as strips_of
from fusedml.engine.routes.row_strips import Rows


@pytest.mark.parametrize("seed", range(5))
def test_the_first_of_the_largest(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 3, (9, 12), generator=generator).float()
    values[1, 5:] = math.inf
    values[2] = -math.inf
    values[3, 7] = math.nan
    values[4] = math.nan
    largest, columns = Rows(torch.arange(9)).largest_at(values)
    expected = values.max(1)  # of equal ones the first
    torch.testing.assert_close(largest, expected.values, equal_nan=True)
    others = [row for row in range(9) if row != 2]  # any column of a row of -inf will do
    assert torch.equal(columns[others], expected.indices[others])


@pytest.mark.parametrize("measured", ["whole", "strips", "strips of one row"])
@pytest.mark.parametrize("kind", ["none", "same labels", "others"])
def test_rows_masks_and_numbers(measured: str, kind: str, monkeypatch) -> None:
    if measured != "whole":
        elements = 50 if measured == "strips" else 1
        monkeypatch.setattr(row_strips, "STRIP_ELEMENTS", elements)
    x, labels = torch.randn(13, 4, dtype=torch.float64), torch.arange(13) % 4
    others = (
        None if kind == "none" else torch.randn(13 if kind == "same labels" else 17, 4).double()
    )
    other_labels = None if others is None else torch.arange(len(others)) % 4
    is_shared = kind != "others"
    problem = PairProblem(x, others, labels, other_labels, exclude_diagonal=is_shared)
    pairs = strips_of(problem, LpDistance(), "a test")
    strips = [
        (strip.lines, strip.x.clone(), strip.y.clone(), strip.positive, strip.negative)
        for strip in pairs.strips()
    ]
    lines, measures, hardness, positive, negative = map(torch.cat, zip(*strips, strict=True))
    assert lines.tolist() == list(range(13))
    torch.testing.assert_close(measures, LpDistance()(x, others), atol=1e-7, rtol=0)
    assert torch.equal(hardness, -measures)
    same = labels[:, None] == (labels if other_labels is None else other_labels)
    counted = torch.ones_like(same)
    if is_shared:
        counted.fill_diagonal_(False)
    assert torch.equal(positive, same & counted)
    assert torch.equal(negative, ~same & counted)
    assert torch.equal(pairs.num_positives(), positive.sum(1))
    assert torch.equal(pairs.num_negatives(), negative.sum(1))
    ends = pairs.ends()
    for is_positive, mask in ((True, positive), (False, negative)):
        assert ends[is_positive] == tuple(measures[mask].aminmax())


def test_rows_in_another_order_and_more_than_once() -> None:
    x, rows = torch.randn(6, 3), torch.tensor([4, 0, 4])
    pairs = strips_of(PairProblem(x, None, torch.arange(6), None), LpDistance(), "a test")
    (strip,) = pairs.strips(rows)
    torch.testing.assert_close(strip.x, LpDistance()(x[rows], x), atol=2e-3, rtol=0)
    assert torch.equal(strip.negative, torch.arange(6) != rows[:, None])
