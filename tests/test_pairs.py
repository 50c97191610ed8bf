"""The measures."""

from __future__ import annotations

import pytest
import torch

from fusedml.engine.pairs import MEASURES, measure_matrix


@pytest.mark.parametrize("measure", MEASURES)
def test_measures(measure):
    a, r = torch.randn(7, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    expected = {
        "dot": a @ r.T,
        "euclidean": torch.cdist(a, r),
        "squared_euclidean": torch.cdist(a, r) ** 2,
    }[measure]
    torch.testing.assert_close(measure_matrix(a, r, measure), expected)


@pytest.mark.parametrize("measure", ["euclidean", "squared_euclidean"])
def test_no_slope_at_distance_zero(measure):
    a = torch.ones(1, 4, requires_grad=True)
    measure_matrix(a, a, measure).sum().backward()
    assert (a.grad == 0).all()
