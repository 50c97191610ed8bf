"""Measures of listed pairs against the matrix."""

from __future__ import annotations

import pytest
import torch

from fusedml import autograd
from fusedml.pairs import MEASURES, measure_matrix
from fusedml.tiled import listed
from tests.problems import make_problem


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("m", [None, 17])
@pytest.mark.parametrize("num_pairs", [0, 1, 500])
def test_values_and_gradients(measure, m, num_pairs, monkeypatch):
    monkeypatch.setattr(listed, "_CHUNK_ELEMENTS", 9 * 64)  # several chunks, the last one ragged
    problem = make_problem(23, m, 5, measure, requires_grad=True)
    references = problem.anchors if m is None else problem.references
    rows = torch.randint(23, (num_pairs,))
    columns = torch.randint(references.shape[0], (num_pairs,))
    if m is None:
        # <a, a> and |a - a|: the matrix form of the distance cannot say 0 exactly
        columns = torch.where(rows == columns, (columns + 1) % 23, columns)
    values = autograd.pair_values(problem.anchors, problem.references, rows, columns, measure)
    exact = measure_matrix(problem.anchors, references, measure)[rows, columns]
    torch.testing.assert_close(values, exact)
    of = [problem.anchors] if m is None else [problem.anchors, problem.references]
    weights = torch.randn(num_pairs, dtype=torch.float64)
    ours = torch.autograd.grad((values * weights).sum(), of)
    expected = torch.autograd.grad((exact * weights).sum(), of)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("measure", ["euclidean", "squared_euclidean"])
def test_the_gradient_at_distance_zero_is_zero(measure):
    x = torch.randn(3, 4, requires_grad=True)
    same = torch.tensor([0, 1, 2])
    values = autograd.pair_values(x, None, same, same, measure)
    assert (values == 0).all()
    values.sum().backward()
    assert (x.grad == 0).all()
