"""Measures of listed pairs against the matrix."""

from __future__ import annotations

import pytest
import torch

from fusedml.engine import autograd
from fusedml.engine.pairs import MEASURES, measure_matrix
from fusedml.engine.tiled import listed
from tests.problems import make_problem


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("m", [None, 17])
@pytest.mark.parametrize("num_pairs", [0, 1, 500])
@pytest.mark.parametrize("pairs_per_listed", [0, 2, 10**9])  # gathered, both ways, by the product
@pytest.mark.parametrize("is_by_row", [True, False])
def test_values_and_gradients(measure, m, num_pairs, pairs_per_listed, is_by_row, monkeypatch):
    monkeypatch.setattr(listed, "_CHUNK_ELEMENTS", 9 * 64)  # several chunks, the last one ragged
    monkeypatch.setattr(listed, "_BLOCK_ELEMENTS", 5 * 23)  # several blocks, the last one ragged
    monkeypatch.setattr(listed, "_PAIRS_PER_LISTED", pairs_per_listed)
    problem = make_problem(23, m, 5, measure, requires_grad=True)
    references = problem.anchors if m is None else problem.references
    # most pairs in few rows, pairs that repeat, blocks without any
    rows = torch.randint(23, (num_pairs,)).square() // 23
    rows = rows.sort().values if is_by_row else rows
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


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("pairs_per_listed", [0, 10**9])
def test_blocks_and_gathers_are_used_where_the_list_says(measure, pairs_per_listed, monkeypatch):
    monkeypatch.setattr(listed, "_PAIRS_PER_LISTED", pairs_per_listed)
    multiplied = []
    block_values = listed._ListedPairs.block_values
    monkeypatch.setattr(
        listed._ListedPairs,
        "block_values",
        lambda self, *args: multiplied.append(args) or block_values(self, *args),
    )
    rows, columns = torch.randint(40, (2, 300))
    autograd.pair_values(torch.randn(40, 3), None, rows, columns, measure)
    assert bool(multiplied) == (pairs_per_listed > 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("measure", MEASURES)
def test_blocks_are_as_accurate_as_dense_pytorch(measure, dtype, monkeypatch):
    monkeypatch.setattr(listed, "_PAIRS_PER_LISTED", 10**9)
    a = torch.nn.functional.normalize(torch.randn(60, 16)).to(dtype)
    r = torch.nn.functional.normalize(torch.randn(50, 16)).to(dtype)
    rows, columns = torch.ones(60, 50).nonzero().unbind(1)
    weights = torch.randn(rows.shape)

    def results(function, x, y):
        x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
        values = function(x, y)
        return values, *torch.autograd.grad((values * weights).sum(), [x, y])

    def dense(x, y):
        return measure_matrix(x, y, measure)[rows, columns]

    ours = results(lambda x, y: autograd.pair_values(x, y, rows, columns, measure), a, r)
    same_dtype, exact = results(dense, a, r), results(dense, a.double(), r.double())
    for one, other, truth in zip(ours, same_dtype, exact, strict=True):
        floor = 1e-6 * truth.abs().max()
        error, allowed = (one - truth).abs().max(), 2 * (other - truth).abs().max() + floor
        assert error <= allowed


def test_a_strided_list_of_a_user_is_read_like_any_other(monkeypatch):
    monkeypatch.setattr(listed, "_PAIRS_PER_LISTED", 10**9)
    x, pairs = torch.randn(9, 4), torch.ones(9, 9).nonzero().contiguous()
    assert not pairs[:, 0].is_contiguous()
    values = autograd.pair_values(x, None, pairs[:, 0], pairs[:, 1], "dot")
    torch.testing.assert_close(values, (x @ x.T).flatten())


@pytest.mark.parametrize("measure", ["euclidean", "squared_euclidean"])
def test_the_gradient_at_distance_zero_is_zero(measure):
    x = torch.randn(3, 4, requires_grad=True)
    same = torch.tensor([0, 1, 2])
    values = autograd.pair_values(x, None, same, same, measure)
    assert (values == 0).all()
    values.sum().backward()
    assert (x.grad == 0).all()
