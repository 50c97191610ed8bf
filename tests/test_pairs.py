"""Labels of any dtype, and the measures."""

from __future__ import annotations

import pytest
import torch

from fusedml.pairs import MEASURES, as_int64_labels, measure_matrix


@pytest.mark.parametrize(
    "values",
    [
        torch.tensor([3, 3, -1, 0], dtype=torch.int8),
        torch.tensor([2**62, 2**62, -(2**62), 0]),
        torch.tensor([1.5, 1.5, -0.0, 0.0]),
        torch.tensor([1e300, 1e300, 5e-324, -5e-324], dtype=torch.float64),
        torch.tensor([0.1, 0.1, 0.2, -0.1], dtype=torch.bfloat16),
        torch.tensor([True, True, False, False]),
    ],
)
def test_equal_labels_stay_equal_and_different_ones_different(values):
    labels = as_int64_labels(values)
    assert labels.dtype == torch.int64
    assert torch.equal(labels[:, None] == labels, values[:, None] == values)


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
