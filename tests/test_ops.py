"""The operators' registration: schemas, fake kernels, backends."""

from __future__ import annotations

import pytest
import torch

from fusedml.engine import ops
from fusedml.engine.tiled.thresholds import MOST_DIRECT
from fusedml.losses import LiftedStructureLoss, MultiSimilarityLoss
from fusedml.terms import hinge, packed, softplus, squared_hinge
from tests.problems import make_problem


def running_sums(counts):
    return counts.view(-1).cumsum(0).view_as(counts)


def arguments(name, m, dtype, *, is_sorted=False):
    """What an operator may be called with; is_sorted: whether labels ascend."""
    if name.startswith("two_sided"):
        m = 20 if m is None else m  # of two operands
    problem = make_problem(20, m, 4, "euclidean", dtype, self_offset=m and m - 5)
    if is_sorted:
        labels = (None if x is None else x.sort().values for x in problem[2:4])
        problem = problem._replace(
            **dict(zip(("anchor_labels", "reference_labels"), labels, strict=True))
        )
    pairs, rest = list(problem[:4]), [problem.measure, problem.excluded]
    formula = (
        LiftedStructureLoss().make_formula()
        if "positive" in name
        else MultiSimilarityLoss().make_formula()
    )
    logit = formula.logit(-1.0)
    head = [formula.form, formula.form_parameters()]
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    row, rows = torch.randn(20, dtype=sums), torch.randn(3, 20, dtype=sums)
    lines = torch.randn(3, 20 + (m or 0), dtype=sums)
    whole = [*pairs, logit, *rest, None, None]
    reference_lse = None if m is None else torch.randn(m, dtype=sums)
    positive = [*pairs, logit, *rest, reference_lse, *head]
    size = 20 if m is None else m
    count = min(9, size)
    listed = [*pairs[:2], torch.arange(count), torch.arange(count).flip(0), problem.measure]
    vectors, sharpness = problem.anchors.new_ones(3, 4, 5), torch.tensor([3.0]).double()
    groups = [pairs[0], vectors, pairs[2] % 3, logit, "soft_maximum", sharpness]
    groups[0] = groups[0][:, :5]
    columns = (problem.anchors if m is None else pairs[1]).flip(1)
    joint = [*pairs, columns, logit, problem.excluded, "softplus_gap"]
    terms = packed((hinge(True), softplus(False), squared_hinge(False)))
    both_sides = m is not None
    line = torch.randn(2, 20 + (m or 0), dtype=sums)
    pair_sums = [*pairs, logit, *rest, line, None, terms, both_sides]
    x, is_counted, lines_of = row.flip(0), torch.arange(20) % 3 > 0, torch.arange(20) % 7
    entries = [x, [True, True], is_counted, ~is_counted, lines_of, 9, logit, "affine", None]
    entry_sums = [*entries, rows[:2, :9], terms]
    of_lines = lines if both_sides else rows
    counts = torch.ones_like(of_lines, dtype=torch.int64)
    window = torch.tensor([0.1, -torch.inf, -0.1, torch.inf], dtype=torch.float64)
    windows = [*pairs, *rest, torch.stack([rows, rows + 1]), 128]
    in_windows = ops.operator("window_counts", "torch")(*windows)
    triplets = [*pairs, window, *rest, "hinge"]
    masks = torch.rand(2, 20, size) < 0.5
    matrix = [torch.randn(20, size, dtype=dtype), *masks, window, -1.0, "softplus"]
    numbers = torch.tensor([0.1, 2.0, 1.0], dtype=torch.float64)
    ranks = [pairs[0], None, pairs[2], None, numbers, problem.measure, None, "share_behind"]
    matrix_ranks = [*matrix[:3], numbers, 1.0, "rank_less_log"]
    histograms = [pairs[0], pairs[2], problem.measure, 0.0, 0.5, 5, True]
    histograms_grad = torch.randn(2, 20, 5, dtype=sums)
    numbers_of_two = torch.tensor([2.0, 0.0, 0.5, 1.5], dtype=torch.float64)
    met = torch.randn(MOST_DIRECT, 20, dtype=sums)
    divergences = [pairs[0], problem.anchors.flip(1)[:, :5], pairs[2] % 3, numbers_of_two]
    thresholds, plain = torch.randn(20, 3, dtype=sums).sort(1).values, [0.0, -0.5, 0.1]
    against = [
        *[*pairs, *rest, None if m is None else pairs[0].flip(0)],
        *[thresholds, 3, "sigmoid", [*plain, -torch.inf, -torch.inf, torch.inf]],
    ]
    return {
        "row_divergences": divergences,
        "row_divergences_gradient": [*divergences, row, rows[:2], row, [True, True, True]],
        "pair_sums": pair_sums,
        "pair_sums_gradient": [*pair_sums, of_lines, counts, of_lines, [True, True, True]],
        "entry_statistics": entries,
        "entry_statistics_gradient": [*entries, rows[:, :9], rows[:, :9], [True, True]],
        "entry_sums": entry_sums,
        "entry_sums_gradient": [*entry_sums, rows[:, :9], counts[:, :9], rows[:, :9], [True, True]],
        "pair_histograms": histograms,
        "pair_histograms_gradient": [*histograms, histograms_grad, [True]],
        "rank_losses": ranks,
        "rank_gradient": [*ranks, met, row, [True, False, True]],
        "matrix_rank_losses": matrix_ranks,
        "matrix_rank_gradient": [*matrix_ranks, row, [True, True]],
        "triplet_losses": triplets,
        "triplet_gradient": [*triplets, row, met, row, [True, m is not None, True]],
        "matrix_triplet_losses": matrix,
        "matrix_triplet_gradient": [*matrix, row, row, [True, True]],
        "threshold_sums": against,
        "threshold_gradient": [*against, rows.T, row.abs(), [True, m is not None]],
        "threshold_pairs": [*pairs, *rest, thresholds],
        "group_statistics": groups,
        "group_gradient": [*groups, rows[:2], rows[:2], [True, True, True]],
        "pair_extrema": [*pairs, *rest],
        "extreme_pairs": [*pairs, *rest, torch.randn(2, 2, 20, dtype=sums), [True, False]],
        "window_counts": windows,
        "window_pairs": [*windows, running_sums(in_windows), int(in_windows.sum()), True],
        "pair_statistics": whole,
        "row_losses": [*whole, *head],
        "pair_gradient": [*whole, rows, rows, [True, m is not None, True]],
        "two_sided_statistics": [*pairs, logit, *rest],
        "two_sided_gradient": [*pairs, logit, *rest, lines, lines, [True, True, True]],
        "positive_pair_losses": positive,
        "positive_pair_gradient": [*positive, rows, row, [True, False, True]],
        "joint_pair_losses": joint,
        "joint_pair_gradient": [*joint, row, [True, True, True, True]],
        "pair_values": listed,
        "pair_values_gradient": [*listed, row[:count], [True, True]],
        "normalize_rows": [pairs[0], torch.arange(20).flip(0), dtype],
        "normalize_rows_gradient": [pairs[0], None, row[:, None].exp(), pairs[0].flip(0)],
    }[name]


@pytest.mark.parametrize("name", ops.SCHEMAS)
@pytest.mark.parametrize("m", [None, 33])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_opcheck(name, m, dtype):
    # what an operator promises: its schema, and fake kernels that agree with the real ones
    torch.library.opcheck(
        ops.operator(name, "auto"),
        arguments(name, m, dtype),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize("name", ops.SCHEMAS)
def test_all_backends_have_all_operators(name):
    for backend in ops.BACKENDS:
        assert callable(ops.operator(name, backend))


@pytest.mark.parametrize("name", ["row_losses", "positive_pair_losses"])
def test_backends_agree(name):
    args = arguments(name, None, torch.float64)
    for ours, other in zip(
        ops.operator(name, "auto")(*args), ops.operator(name, "torch")(*args), strict=True
    ):
        assert torch.equal(ours, other)
