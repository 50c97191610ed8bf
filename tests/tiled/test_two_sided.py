"""One sweep for the rows and the columns of two operands, against two dense problems."""

from __future__ import annotations

import pytest
import torch

from fusedml import dense
from fusedml.engine import autograd
from fusedml.engine.pairs import MEASURES, measure_matrix
from tests.problems import (
    NUM_CLASSES,
    assert_close,
    in_dtype,
    inputs_of,
    make_problem,
    weighted_sum,
)


def both_of(problem, logit):
    """From one mask of pairs, which the columns see turned."""
    references = problem.references
    x = measure_matrix(problem.anchors, references, problem.measure)
    masks = dense.pair_masks(problem)
    return tuple(
        dense.row_statistics(
            x.T if turn else x, *(mask.T if turn else mask for mask in masks), logit
        )
        for turn in (False, True)
    )


def check(problem, logit, floor):
    exact_problem = in_dtype(problem, torch.float64)
    exact, plain = both_of(exact_problem, logit), both_of(problem, logit)
    ours = autograd.two_sided_statistics(problem, logit)
    weights = torch.randn(2, 3, max(problem.shape), generator=torch.Generator().manual_seed(1))

    def total(rows, dtype):
        sizes = problem.shape
        parts = [
            weighted_sum(row, weight[:, :size].to(dtype))
            for row, weight, size in zip(rows, weights, sizes, strict=True)
        ]
        return parts[0] + parts[1]

    for a, e, p in zip(ours, exact, plain, strict=True):
        for k in range(3):
            assert_close(a[k], e[k], p[k], floor, f"statistic {k}")
        assert torch.equal(a.num_positive, e.num_positive)
        assert torch.equal(a.num_negative, e.num_negative)
    results = []
    for rows, of in ((ours, problem), (exact, exact_problem), (plain, problem)):
        dtype = rows[0].lse_positive.dtype
        results.append(torch.autograd.grad(total(rows, dtype), inputs_of(of)))
    for a, e, p in zip(*results, strict=True):
        assert_close(a, e, p, 10 * floor, "gradient")


LOGIT = torch.tensor([-2.0, 1.0, 8.0, -4.0], dtype=torch.float64)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("num_classes", NUM_CLASSES)
@pytest.mark.parametrize("n, m", [(1, 1), (3, 500), (129, 257), (400, 400)])
def test_statistics_and_gradients(n, m, num_classes, measure):
    problem = make_problem(n, m, num_classes, measure, seed=n + m, requires_grad=True)
    check(problem, LOGIT, 1e-9)


@pytest.mark.parametrize(
    ("exclude_diagonal", "self_offset"), [(True, None), (False, None), (True, 200)]
)
def test_float32_unbounded_and_the_diagonal(exclude_diagonal, self_offset):
    for scale in (1.0, 40.0):  # 40: a running maximum
        problem = make_problem(
            300,
            333,
            30,
            dtype=torch.float32,
            exclude_diagonal=exclude_diagonal,
            self_offset=self_offset,
            requires_grad=True,
        )
        check(problem, LOGIT * scale, 1e-5)


def test_gradient_of_the_logit():
    problem = make_problem(130, 90, 20)

    def total(logit):
        rows, columns = autograd.two_sided_statistics(problem, logit)
        return torch.cat([rows.lse_negative, columns.lse_negative, columns.sum_positive])

    torch.autograd.gradcheck(total, LOGIT.clone().requires_grad_())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite(value):
    problem = make_problem(400, 300, 30)
    problem.anchors[5, 1] = value
    rows, columns = autograd.two_sided_statistics(problem, LOGIT)
    assert rows.lse_negative[5].isnan()
    assert columns.lse_negative.isnan().all()


def test_the_same_bits_twice():
    problem = make_problem(500, 400, 30, dtype=torch.float32, requires_grad=True)

    def run():
        rows, columns = autograd.two_sided_statistics(problem, LOGIT)
        total = rows.lse_negative.sum() + columns.lse_negative.sum()
        return total, *torch.autograd.grad(total, inputs_of(problem))

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_emulated_kernels_take_one_sweep_for_each(emulated):
    problem = make_problem(70, 50, 10, dtype=torch.float64)
    ours = autograd.two_sided_statistics(problem, LOGIT, "emulated")
    expected = autograd.two_sided_statistics(problem, LOGIT)
    for a, e in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, e)
