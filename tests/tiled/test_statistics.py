"""Row statistics and extrema against the dense formula in float64."""

from __future__ import annotations

import math

import pytest
import torch

from fusedml.dense import pair_masks
from fusedml.engine import autograd
from fusedml.engine.pairs import MEASURES, measure_matrix
from fusedml.engine.tiled import plan, statistics
from tests.problems import (
    NUM_CLASSES,
    SIZES,
    assert_close,
    dense_statistics,
    in_dtype,
    inputs_of,
    make_problem,
    weighted_sum,
)

pytestmark = pytest.mark.usefixtures("whole_or_tiles")

# (scale+, shift+, scale-, shift-): bounded for unit rows, and too large for it (running maximum)
BOUNDED = (-2.3, 0.4, 7.1, -1.5)
UNBOUNDED = (-630.0, 1.0, 710.0, -3.0)
UNBOUNDED_POSITIVES = (-710.0, 1.0, 20.0, -3.0)


def check(problem, logit, thresholds=None, floor=1e-6, seed=1):
    """Values and gradients in the problem's dtype against float64."""
    dtype = problem.anchors.dtype
    exact_problem = in_dtype(problem, torch.float64)
    logit64 = torch.tensor(logit, dtype=torch.float64, requires_grad=True)
    exact = dense_statistics(exact_problem, logit64, thresholds)
    plain = dense_statistics(problem, logit64.to(dtype), thresholds)
    ours_logit = logit64.detach().clone().requires_grad_()
    ours = autograd.pair_statistics(problem, ours_logit, thresholds)
    for name, a, e, p in zip(ours._fields, ours, exact, plain, strict=True):
        if a.is_floating_point():
            assert_close(a, e, p, floor, name)
        else:
            assert torch.equal(a, e), name
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(3, problem.anchors.shape[0], generator=generator, dtype=torch.float64)

    def gradients(row, of, logit):
        return torch.autograd.grad(weighted_sum(row, weights.to(row[0].dtype)), [*of, logit])

    exact_grad = gradients(exact, inputs_of(exact_problem), logit64)
    plain_grad = gradients(plain, inputs_of(problem), logit64)
    ours_grad = gradients(ours, inputs_of(problem), ours_logit)
    names = [*["anchors_grad", "references_grad"][: len(exact_grad) - 1], "logit_grad"]
    for name, a, e, p in zip(names, ours_grad, exact_grad, plain_grad, strict=True):
        assert_close(a, e, p, 10 * floor, name)


@pytest.mark.parametrize("num_classes", NUM_CLASSES)
@pytest.mark.parametrize("n", SIZES)
def test_self_problem_at_tile_edges(n, num_classes):
    problem = make_problem(n, None, num_classes, seed=n, requires_grad=True)
    check(problem, BOUNDED, floor=1e-12)


@pytest.mark.parametrize("n, m", [(1, 1), (3, 500), (500, 3), (129, 257), (400, 400)])
@pytest.mark.parametrize("num_classes", NUM_CLASSES)
def test_two_operand_problem(n, m, num_classes):
    problem = make_problem(n, m, num_classes, seed=n + m, requires_grad=True)
    check(problem, BOUNDED, floor=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    "logit, bounded",
    [
        (BOUNDED, {True: True, False: True}),
        (UNBOUNDED, {True: False, False: False}),
        (UNBOUNDED_POSITIVES, {True: False, False: True}),
    ],
    ids=["bounded", "running_maximum", "maximum_of_positives"],
)
@pytest.mark.parametrize("n, m", [(60, None), (60, 50), (450, None), (450, 390)], ids=str)
def test_measures_and_ways_to_sum(measure, logit, bounded, n, m):
    problem = make_problem(n, m, n // 7, measure, requires_grad=True)
    scales = statistics.LogitScales(torch.tensor(logit))
    assert statistics.bounded_kinds(plan.TiledProblem(problem), scales) == bounded
    check(problem, logit, floor=1e-10)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("m", [None, 410])
def test_float32(measure, m):
    problem = make_problem(450, m, 60, measure, torch.float32, d=64, requires_grad=True)
    check(problem, BOUNDED, floor=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("logit", [BOUNDED, UNBOUNDED], ids=["bounded", "running_maximum"])
@pytest.mark.parametrize("n, m", [(150, None), (420, None), (150, 170), (420, 400)])
def test_thresholds_keep_different_pairs_for_each_row(measure, logit, n, m):
    problem = make_problem(n, m, 25, measure, requires_grad=True)
    references = problem.anchors if m is None else problem.references
    x = measure_matrix(problem.anchors, references, measure).detach()
    hardness = x if measure == "dot" else -x
    middle = hardness.median(1).values
    thresholds = torch.stack([middle + 0.1, middle - 0.05])
    check(problem, logit, thresholds, floor=1e-10)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("n, m", [(1, None), (150, None), (420, None), (150, 170), (420, 400)])
def test_extrema(measure, n, m):
    problem = make_problem(n, m, 25, measure)
    references = problem.anchors if m is None else problem.references
    x = measure_matrix(problem.anchors, references, measure)
    hardness = x if measure == "dot" else -x
    positive, negative = pair_masks(problem)
    lowest, highest = autograd.pair_extrema(problem)
    torch.testing.assert_close(lowest, hardness.masked_fill(~positive, math.inf).amin(1))
    torch.testing.assert_close(highest, hardness.masked_fill(~negative, -math.inf).amax(1))


@pytest.mark.parametrize("n, m", [(300, 500), (500, 300), (450, 450)])
@pytest.mark.parametrize("equal_labels", [False, True])
def test_excluded_diagonal_of_two_operands(n, m, equal_labels):
    problem = make_problem(n, m, 30, exclude_diagonal=True, requires_grad=True)
    if equal_labels and n == m:
        problem = problem._replace(reference_labels=problem.anchor_labels)
    check(problem, BOUNDED, floor=1e-12)


@pytest.mark.also_emulated
def test_extent_leaves_rows_and_columns_out():
    problem = make_problem(450, 430, 30, requires_grad=True)
    problem = problem._replace(extent=torch.tensor([401, 7]))
    check(problem, BOUNDED, floor=1e-12)
    row = autograd.pair_statistics(problem, torch.tensor(BOUNDED, dtype=torch.float64))
    assert torch.isneginf(row.lse_negative[401:]).all()
    assert (row.sum_positive[401:] == 0).all()
    assert (row.num_negative[401:] == 0).all()


@pytest.mark.also_emulated
@pytest.mark.parametrize("n, m", [(0, None), (0, 5), (5, 0)])
def test_no_pairs(n, m):
    problem = make_problem(n, m, 3, requires_grad=True)
    row = autograd.pair_statistics(problem, torch.tensor(BOUNDED, dtype=torch.float64))
    assert all(values.shape == (n,) for values in row)
    assert torch.isneginf(row.lse_positive).all()
    weighted_sum(row, torch.ones(3, n, dtype=torch.float64)).backward()
    for x in inputs_of(problem):
        assert x.grad.shape == x.shape
        assert (x.grad == 0).all()


@pytest.mark.also_emulated
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("logit", [BOUNDED, UNBOUNDED], ids=["bounded", "running_maximum"])
@pytest.mark.parametrize("n", [50, 450])
def test_a_non_finite_anchor_spoils_its_row_and_a_reference_all_rows(bad, logit, n):
    problem = make_problem(n, n, 10)
    logit = torch.tensor(logit, dtype=torch.float64)
    problem.anchors[7, 2] = bad
    row = autograd.pair_statistics(problem, logit)
    assert torch.isnan(row.lse_negative).nonzero().flatten().tolist() == [7]
    problem.references[3, 0] = bad
    assert torch.isnan(autograd.pair_statistics(problem, logit).lse_negative).all()


@pytest.mark.parametrize("measure", MEASURES)
def test_embeddings_of_norm_1000(measure):
    problem = make_problem(420, None, 30, measure, scale=1e3, requires_grad=True)
    check(problem, BOUNDED, floor=1e-10)


def test_labels_of_any_size():
    problem = make_problem(300, None, 20, requires_grad=True)
    huge = problem.anchor_labels * (2**58) - 5
    for labels in (huge, -huge, problem.anchor_labels * 2**24):
        check(problem._replace(anchor_labels=labels), BOUNDED, floor=1e-12)
    wide = make_problem(600, 500, 20, requires_grad=True)
    wide = wide._replace(
        anchor_labels=wide.anchor_labels * 2**58, reference_labels=wide.reference_labels * 2**58
    )
    check(wide, BOUNDED, floor=1e-12)
    # not sorted alike, so labels are compared in every tile
    check(wide._replace(exclude_diagonal=True), BOUNDED, floor=1e-12)


def test_same_bits_again():
    problem = make_problem(1000, None, 60, dtype=torch.float32, requires_grad=True)
    logit = torch.tensor(BOUNDED, dtype=torch.float64)

    def step():
        row = autograd.pair_statistics(problem, logit)
        grad = torch.autograd.grad(weighted_sum(row, torch.ones(3, 1000)), problem.anchors)[0]
        return *row, grad

    first = step()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(step(), first, strict=True))
