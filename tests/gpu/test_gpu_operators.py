"""The operators' CUDA kernels against the dense formula in float64, around the tiles' edges."""

from __future__ import annotations

import math

import pytest
import torch

from fusedml import dense, native
from fusedml.dense import pair_masks
from fusedml.engine import autograd
from fusedml.engine.groups import REDUCTIONS
from fusedml.engine.label_sets import packed as packed_sets
from fusedml.engine.pairs import MEASURES, PairProblem, accumulation_dtype, measure_matrix
from fusedml.engine.routes.windows import split_width
from fusedml.engine.row_order import RowOrder
from fusedml.engine.unit_rows import row_normalizer
from fusedml.formulas import SumFormula
from fusedml.heads import PairSums
from fusedml.losses import GeneralizedLiftedStructureLoss, LiftedStructureLoss, NTXentLoss
from fusedml.terms import Term, hinge, packed, softplus, squared_hinge
from tests.gpu.device import (
    BACKEND,
    DEVICE,
    DEVICES,
    IS_EMULATED,
    needs_gpu,
    on_device,
    operator,
    spread,
)
from tests.number_types import NUMBER_TYPES, all_number_types
from tests.operator_promises import assert_promises_kept
from tests.problems import (
    dense_statistics,
    in_dtype,
    inputs_of,
    make_problem,
    weighted_sum,
)

LOGIT = (-2.3, 0.4, 7.1, -1.5)
WITHIN_ENDS = Term(False, exponent=0.5, linear=1.0, constant=1.0, floor=-0.5, ceiling=0.75)
# (n, m, d): tiles are 128 x 128 pairs; slices of d are 16 to 64 wide; d = 64, 128 and above take
# other kernels backward; a self problem is swept by its upper triangle from about 2000 rows on
SHAPES = [
    (1, None, 1),
    (127, None, 33),
    (129, None, 64),
    (385, None, 128),
    (2200, None, 24),
    (260, None, 200),
    (3, 500, 65),
    (500, 3, 130),
    (257, 129, 96),
]
if IS_EMULATED:
    SHAPES = [(1, None, 1), (129, None, 33), (130, None, 140), (3, 140, 65)]


def check_statistics(problem, number_type, thresholds=None, logit_device="cpu"):
    torch.set_float32_matmul_precision(number_type.precision)
    exact_problem = in_dtype(problem, torch.float64)
    plain_problem = in_dtype(problem, number_type.plain)
    logit64 = torch.tensor(LOGIT, dtype=torch.float64, device=DEVICE, requires_grad=True)
    exact = dense_statistics(exact_problem, logit64, thresholds)
    with number_type.plain_products():
        plain = dense_statistics(plain_problem, logit64.to(number_type.plain), thresholds)
    logit = logit64.detach().to(logit_device).requires_grad_()
    ours = autograd.pair_statistics(problem, logit, thresholds, BACKEND)
    for name, a, e, p in zip(ours._fields, ours, exact, plain, strict=True):
        if a.is_floating_point():
            number_type.assert_close(a, e, p, name)
        else:
            assert torch.equal(a, e), name
    weights = torch.randn(3, len(problem.anchors), dtype=torch.float64, device=DEVICE)

    def gradients(row, of, logit):
        return torch.autograd.grad(weighted_sum(row, weights.to(row[0].dtype)), [*of, logit])

    exact_grads = gradients(exact, inputs_of(exact_problem), logit64)
    with number_type.plain_products():
        plain_grads = gradients(plain, inputs_of(plain_problem), logit64)
    ours_grads = gradients(ours, inputs_of(problem), logit)
    for k, (a, e, p) in enumerate(zip(ours_grads, exact_grads, plain_grads, strict=True)):
        number_type.assert_close(a.to(DEVICE), e, p, f"gradient {k}")


@all_number_types
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("n, m, d", SHAPES)
def test_statistics_and_gradients(number_type, measure, n, m, d):
    problem = make_problem(n, m, 40, measure, number_type.dtype, d=d, seed=n, requires_grad=True)
    check_statistics(on_device(problem), number_type)


@all_number_types
@pytest.mark.parametrize("m", [None, 300])
def test_logit_on_the_device(number_type, m):
    problem = make_problem(200, m, 9, dtype=number_type.dtype, d=40, requires_grad=True)
    check_statistics(on_device(problem), number_type, logit_device=DEVICE)


@pytest.mark.parametrize("name", ["highest", "float64"])
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("n, m", [(150, None), (420, None), (150, 170)])
def test_thresholds(name, measure, n, m):
    number_type = NUMBER_TYPES[name]
    problem = make_problem(n, m, 25, measure, number_type.dtype, d=20, requires_grad=True)
    problem = on_device(problem)
    references = problem.anchors if m is None else problem.references
    x = measure_matrix(problem.anchors.double(), references.double(), measure).detach()
    hardness = x if measure == "dot" else -x
    # halfway between two neighbours, so that rounding moves no pair across
    values = hardness.sort(1).values
    low, high = values.shape[1] // 3, values.shape[1] // 2
    thresholds = torch.stack([values[:, k : k + 2].mean(1) for k in (high, low)])
    check_statistics(problem, number_type, thresholds.to(number_type.dtype))


@all_number_types
# of one word, and of several
@pytest.mark.parametrize(("m", "set_words"), [(None, 1), (170, 3)])
def test_label_sets(number_type, m, set_words):
    problem = make_problem(150, m, 9, dtype=number_type.dtype, d=20, requires_grad=True)
    generator = torch.Generator().manual_seed(1)
    labels, others = (
        packed_sets(torch.rand(rows, 64 * set_words, generator=generator) < 1 / (30 * set_words))
        for rows in (150, m or 1)
    )
    problem = problem._replace(anchor_labels=labels, reference_labels=None if m is None else others)
    check_statistics(on_device(problem), number_type)


@all_number_types
# from the last tile on the first, and within one; as many columns as rows
@pytest.mark.parametrize("n, m, self_offset", [(150, 300, 280), (40, 50, 30), (129, 129, 60)])
def test_own_columns(number_type, n, m, self_offset):
    problem = make_problem(
        n, m, 9, dtype=number_type.dtype, d=20, self_offset=self_offset, requires_grad=True
    )
    check_statistics(on_device(problem), number_type)


def dense_extrema(problem):
    references = problem.anchors if problem.references is None else problem.references
    x = measure_matrix(problem.anchors, references, problem.measure)
    hardness = x if problem.measure == "dot" else -x
    positive, negative = pair_masks(problem)
    return torch.stack(
        [
            hardness.masked_fill(~positive, math.inf).amin(1),
            hardness.masked_fill(~negative, -math.inf).amax(1),
        ]
    )


@all_number_types
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    "n, m", [(1, None), (150, 170), *([] if IS_EMULATED else [(420, None), (2200, None)])]
)
def test_extrema(number_type, measure, n, m):
    torch.set_float32_matmul_precision(number_type.precision)
    problem = on_device(make_problem(n, m, 25, measure, number_type.dtype))
    exact = dense_extrema(in_dtype(problem, torch.float64))
    with number_type.plain_products():
        plain = dense_extrema(in_dtype(problem, number_type.plain))
    number_type.assert_close(autograd.pair_extrema(problem, BACKEND), exact, plain, "extrema")


@all_number_types
def test_extent(number_type):
    torch.set_float32_matmul_precision(number_type.precision)
    problem = make_problem(300, 200, 20, dtype=number_type.dtype, requires_grad=True)
    problem = on_device(problem._replace(extent=torch.tensor([170, 131])))
    logit = torch.tensor(LOGIT, dtype=torch.float64)
    whole = autograd.pair_statistics(problem, logit, None, BACKEND)
    cut = problem._replace(
        anchors=problem.anchors[:170],
        references=problem.references[:131],
        anchor_labels=problem.anchor_labels[:170],
        reference_labels=problem.reference_labels[:131],
        extent=None,
    )
    part = autograd.pair_statistics(cut, logit, None, BACKEND)
    for name, a, b in zip(whole._fields, whole, part, strict=True):
        torch.testing.assert_close(a[:170], b, msg=name)
        outside = -math.inf if name.startswith("lse") else 0
        assert (a[170:] == outside).all(), name
    total = torch.where(whole.lse_negative.isfinite(), whole.lse_negative, 0).sum()
    grads = torch.autograd.grad(total, [problem.anchors, problem.references])
    assert not grads[0][170:].any()
    assert not grads[1][131:].any()


PAIR_FORMULAS = {
    "softplus_gap": (NTXentLoss, "dot"),
    "squared_hinge": (LiftedStructureLoss, "euclidean"),
}


@all_number_types
@pytest.mark.parametrize("name", PAIR_FORMULAS)
@pytest.mark.parametrize("n, m, d", [(129, None, 30), (400, None, 140), (200, 270, 64)])
def test_positive_pairs(number_type, name, n, m, d):
    torch.set_float32_matmul_precision(number_type.precision)
    kind, measure = PAIR_FORMULAS[name]
    formula, sign = kind().make_formula(), 1.0 if measure == "dot" else -1.0
    problem = on_device(make_problem(n, m, 30, measure, number_type.dtype, d=d, requires_grad=True))
    exact_problem = in_dtype(problem, torch.float64)
    plain_problem = in_dtype(problem, number_type.plain)
    exact = dense.losses(exact_problem, formula).sum(1)
    with number_type.plain_products():
        plain = dense.losses(plain_problem, formula).sum(1)
    logit, reference_lse = formula.logit(sign), None
    if m is not None and formula.needs_reference_lse:
        among = PairProblem(problem.references, None, problem.reference_labels, None, measure)
        reference_lse = autograd.pair_statistics(among, logit, None, BACKEND).lse_negative
    ours, counts = autograd.positive_pair_losses(
        problem, logit, reference_lse, formula.form, formula.form_parameters(), BACKEND
    )
    assert torch.equal(counts, pair_masks(problem)[0].sum(1))
    number_type.assert_close(ours, exact, plain, "losses")
    weights = torch.randn(n, dtype=torch.float64, device=DEVICE)

    def gradients(losses, of):
        return torch.autograd.grad((losses * weights.to(losses.dtype)).sum(), inputs_of(of))

    exact_grads, grads = gradients(exact, exact_problem), gradients(ours, problem)
    with number_type.plain_products():
        plain_grads = gradients(plain, plain_problem)
    for a, e, p in zip(grads, exact_grads, plain_grads, strict=True):
        number_type.assert_close(a, e, p, "gradient")


@all_number_types
@pytest.mark.parametrize("measure", MEASURES)
# few rows divide the columns; several rows of tiles do, too
@pytest.mark.parametrize(
    "n, m, self_offset, d", [(65, None, None, 20), (30, 700, 680, 140), (1300, 900, None, 8)]
)
def test_windows(number_type, measure, n, m, self_offset, d):
    if IS_EMULATED and n > 1000:
        pytest.skip("takes minutes on the emulator")
    torch.set_float32_matmul_precision(number_type.precision)
    generator = torch.Generator().manual_seed(n)
    problem = make_problem(n, m, 30, measure, torch.float64, d=d, self_offset=self_offset)
    # eighths, whose products are exact: measures lie on the bounds, but roots, which round
    anchors, references = (
        None if x is None else torch.randint(-2, 3, x.shape, generator=generator).double() / 8
        for x in problem[:2]
    )
    problem = on_device(problem._replace(anchors=anchors, references=references))
    others = problem.anchors if references is None else problem.references
    x = measure_matrix(problem.anchors, others, measure)
    quantiles = torch.tensor([[0.1, 0.5], [0.4, 0.8]], dtype=torch.float64, device=DEVICE)
    ends = torch.stack([torch.quantile(x, of_kind, 1) for of_kind in quantiles])
    ends = (64 * ends).round() / 64 + (1e-3 if measure == "euclidean" else 0)
    shift = torch.arange(n, device=DEVICE).double() % 4 / 4 * torch.ones(2, 1, 1, device=DEVICE)
    dtype = number_type.dtype
    windows = torch.cat([ends + shift, shift], 1).to(accumulation_dtype(dtype))
    ours = in_dtype(problem, dtype)
    given = [*ours[:5], ours.excluded, windows, split_width(n, len(others))]
    counts = operator("window_counts")(*given)
    running = counts.view(-1).cumsum(0)
    rows, columns, measures = operator("window_pairs")(
        *given, running.view(counts.shape), int(running[-1]), True
    )
    masks = zip(pair_masks(problem), ends, strict=True)
    inside = [mask & (x >= low[:, None]) & (x <= high[:, None]) for mask, (low, high) in masks]
    assert torch.equal(counts.sum(2), torch.stack(inside).sum(2))
    expected = torch.cat([kept.nonzero() for kept in inside])
    assert torch.equal(torch.stack([rows, columns], 1), expected)
    torch.testing.assert_close(measures.double(), x[rows, columns], rtol=1e-6, atol=1e-6)


@all_number_types
@pytest.mark.parametrize("measure", MEASURES)
# few rows divide the columns; several rows of tiles do, too
@pytest.mark.parametrize(
    "n, m, self_offset, count", [(65, None, None, 7), (30, 700, 680, 60), (1300, 900, None, 3)]
)
def test_threshold_pairs(number_type, measure, n, m, self_offset, count):
    if IS_EMULATED and n > 1000:
        pytest.skip("takes minutes on the emulator")
    torch.set_float32_matmul_precision(number_type.precision)
    generator = torch.Generator().manual_seed(n)
    problem = make_problem(n, m, 5, measure, torch.float64, d=8, self_offset=self_offset)
    # eighths, whose products are exact: ties are many, and the first column is due
    anchors, references = (
        None if x is None else torch.randint(-2, 3, x.shape, generator=generator).double() / 8
        for x in problem[:2]
    )
    problem = on_device(problem._replace(anchors=anchors, references=references))
    others = problem.anchors if references is None else problem.references
    x = measure_matrix(problem.anchors, others, measure)
    y = x if measure == "dot" else -x
    some = torch.randint(len(others), (n, count), generator=generator).to(DEVICE)
    # measures of the row's pairs; between them where roots round
    thresholds = (y.gather(1, some) + (1e-3 if measure == "euclidean" else 0)).sort(1).values
    dtype = number_type.dtype
    ours = in_dtype(problem, dtype)
    given = [*ours[:5], ours.excluded, thresholds.to(accumulation_dtype(dtype))]
    columns = operator("threshold_pairs")(*given)
    _, negative = pair_masks(problem)
    for k in range(count):
        below = negative & (y < thresholds[:, k, None])
        expected = torch.where(below, y, -math.inf).argmax(1).masked_fill(~below.any(1), -1)
        assert torch.equal(columns[:, k], expected)
    assert torch.equal(columns, operator("threshold_pairs")(*given))


# of each kind of function that the kernels sum
TERMS = (hinge(True, is_closed=True), softplus(True), squared_hinge(False), WITHIN_ENDS)


@all_number_types
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("largest", [(False, True), (True, False)])
@pytest.mark.parametrize("is_bounded", [False, True])
# tiles are 64 x 64 pairs; a self problem is swept by its upper triangle from about 1000 rows on
@pytest.mark.parametrize("n, m, d", [(65, None, 20), (300, 70, 140), (1300, None, 8)])
def test_extreme_pairs(number_type, measure, largest, is_bounded, n, m, d):
    if IS_EMULATED and n > 1000:
        pytest.skip("takes minutes on the emulator")
    torch.set_float32_matmul_precision(number_type.precision)
    generator = torch.Generator().manual_seed(n)
    problem = make_problem(n, m, 30, measure, torch.float64, d=d)
    # quarters, whose products are exact: ties are everywhere
    anchors, references = (
        None if x is None else torch.randint(-2, 3, x.shape, generator=generator).double() / 4
        for x in problem[:2]
    )
    problem = on_device(problem._replace(anchors=anchors, references=references))
    others = problem.anchors if references is None else problem.references
    is_root = measure == "euclidean"
    # compared by their squares, which are exact, too
    exact = measure_matrix(problem.anchors, others, "squared_euclidean" if is_root else measure)
    intervals = None
    if is_bounded:
        quantiles = torch.tensor([0.1, 0.8, 0.3, 0.9], dtype=torch.float64, device=DEVICE)
        ends = torch.quantile(exact, quantiles, 1).view(2, 2, n)
        # ends that are met; not of roots, which round
        ends = ends + 1 / 32 if is_root else (16 * ends).round() / 16
        intervals = ends.sqrt() if is_root else ends
    dtype = number_type.dtype
    ours, columns = autograd.extreme_pairs(
        in_dtype(problem, dtype),
        largest,
        None if intervals is None else intervals.to(accumulation_dtype(dtype)),
        BACKEND,
    )
    for k, (pairs, is_largest) in enumerate(zip(pair_masks(problem), largest, strict=True)):
        sign, mask = 1 if is_largest else -1, pairs
        if is_bounded:
            low, high = ends[k, :, :, None]
            mask = pairs & (exact >= low) & (exact <= high)
        y = (sign * exact).masked_fill(~mask, -math.inf)
        best = y.amax(1)
        at = torch.where(
            (y == best[:, None]) & mask, torch.arange(y.shape[1], device=DEVICE), n + 999
        )
        at = torch.where(best == -math.inf, -1, at.amin(1))
        found = sign * best
        if is_root:
            found = torch.where(found.isfinite(), found.sqrt(), found)
        torch.testing.assert_close(ours[k].double(), found, rtol=1e-6, atol=0)
        assert torch.equal(columns[k], at)


def dense_sums(problem, logit, shifts, both_sides):
    references = problem.anchors if problem.references is None else problem.references
    x, masks = measure_matrix(problem.anchors, references, problem.measure), pair_masks(problem)
    n = len(problem.anchors)
    sides = [(x, masks, shifts[:, :n])]
    if both_sides:
        sides.append((x.T, [mask.T for mask in masks], shifts[:, n:]))
    of_sides = [
        dense.pair_sums(x, *masks, SumFormula(lambda _: logit, TERMS, shifts), 1.0)
        for x, masks, shifts in sides
    ]
    return PairSums(*(torch.cat(parts, -1) for parts in zip(*of_sides, strict=True)))


@all_number_types
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("logit_device", DEVICES)
# tiles are 64 x 64 pairs; both sides of two operands
@pytest.mark.parametrize("n, m, d", [(65, None, 20), (300, None, 140), (70, 129, 33)])
def test_sums(number_type, measure, logit_device, n, m, d):
    torch.set_float32_matmul_precision(number_type.precision)
    generator = torch.Generator().manual_seed(n)
    self_offset = None if m is None else 90
    problem = make_problem(n, m, 30, measure, torch.float64, d=d, self_offset=self_offset)
    # quarters, whose products are exact: what is in an interval is the same in every number type
    anchors, references = (
        None if x is None else torch.randint(-2, 3, x.shape, generator=generator).double() / 4
        for x in problem[:2]
    )
    problem = on_device(problem._replace(anchors=anchors, references=references))
    lines = n if m is None else n + m
    shifts = torch.randint(-8, 9, (2, lines), generator=generator).to(DEVICE).double() / 8
    weights = torch.randn(len(TERMS), lines, dtype=torch.float64, generator=generator).to(DEVICE)
    logit64 = torch.tensor([-0.5, 0.5, 0.25, -0.25], dtype=torch.float64, device=DEVICE)

    def results(sums, dtype, logit, to_shifts):
        given = in_dtype(problem, dtype)
        given = given._replace(anchors=given.anchors.requires_grad_())
        if m is not None:
            given = given._replace(references=given.references.requires_grad_())
        of = [*inputs_of(given), logit.requires_grad_(), shifts.to(to_shifts).requires_grad_()]
        found = sums(given, of[-2], of[-1])
        total = (found.sums * weights.to(found.sums)).sum()
        return found[1:], found.sums, *torch.autograd.grad(total, of)

    def dense_results(dtype):
        logit = logit64.to(dtype).detach()
        return results(lambda *of: dense_sums(*of, m is not None), dtype, logit, dtype)

    def ours_results(given, logit, shifts):
        return autograd.pair_sums(given, logit, TERMS, shifts, m is not None, BACKEND)

    counts, *exact = dense_results(torch.float64)
    with number_type.plain_products():
        _, *plain = dense_results(number_type.plain)
    of_ours, *ours = results(
        ours_results, number_type.dtype, logit64.detach().to(logit_device), torch.float64
    )
    for a, e in zip(of_ours, counts, strict=True):
        assert torch.equal(a, e)
    for k, (x, e, p) in enumerate(zip(ours, exact, plain, strict=True)):
        number_type.assert_close(x.to(DEVICE), e, p, f"output {k}")


def dense_groups(anchors, vectors, labels, logit, group, sharpness):
    """lse of the other classes and logit of the own one, [2, n]."""
    num_classes, size, d = vectors.shape
    y = (anchors @ vectors.reshape(-1, d).T).view(-1, num_classes, size)
    s = REDUCTIONS[group](y * sharpness, 2) / sharpness
    own = labels[:, None] == torch.arange(num_classes, device=labels.device)
    z = torch.where(own, logit[0] * s + logit[1], logit[2] * s + logit[3])
    lse = torch.logsumexp(z.masked_fill(own, -math.inf), 1)
    return torch.stack([lse, torch.where(own, z, 0).sum(1)])


@all_number_types
@pytest.mark.parametrize("group", REDUCTIONS)
@pytest.mark.parametrize("logit_device", DEVICES)
# a tile of 128 vectors holds 64 classes of 2, 40 of 3, 8 of 9 to 16
@pytest.mark.parametrize(
    "n, num_classes, size, d", [(129, 41, 3, 33), (37, 9, 10, 140), (70, 65, 2, 64), (9, 17, 16, 8)]
)
def test_groups(number_type, group, logit_device, n, num_classes, size, d):
    torch.set_float32_matmul_precision(number_type.precision)
    generator = torch.Generator().manual_seed(n)
    # ratios of small whole numbers, whose sums are exact: which vectors are the nearest is the same
    # in every number type
    a, w = (
        (torch.randint(-8, 9, shape, generator=generator) / 8).to(number_type.plain).to(DEVICE)
        for shape in ((n, d), (num_classes, size, d))
    )
    w = w / 4 if d < 64 else w / 8
    labels = torch.randint(num_classes, (n,), generator=generator).to(DEVICE)
    logit64 = torch.tensor(LOGIT, dtype=torch.float64, device=DEVICE)
    sharpness = torch.tensor([3.0], dtype=torch.float64)
    weights = torch.randn(2, n, dtype=torch.float64, generator=generator).to(DEVICE)

    def results(compute, dtype, logit):
        of = [x.to(dtype).requires_grad_() for x in (a, w)] + [logit.requires_grad_()]
        statistics = compute(*of[:2], labels, of[2])
        return statistics, *torch.autograd.grad((statistics * weights.to(statistics)).sum(), of)

    def dense_results(dtype):
        return results(
            lambda *of: dense_groups(*of, group, float(sharpness)),
            dtype,
            logit64.to(dtype).detach(),
        )

    def ours_results(*of):
        row = autograd.group_statistics(*of, group, sharpness.to(logit_device), BACKEND)
        return torch.stack([row.lse_negative, row.sum_positive])

    exact = dense_results(torch.float64)
    with number_type.plain_products():
        plain = dense_results(number_type.plain)
    ours = results(ours_results, number_type.dtype, logit64.detach().to(logit_device))
    for name, x, e, p in zip(("value", "a", "w", "logit"), ours, exact, plain, strict=True):
        number_type.assert_close(x.to(DEVICE), e, p, name)


def listed_results(anchors, references, rows, columns, measure, weights, backend):
    """x of the listed pairs, and the gradients of a weighted sum."""
    of = [anchors] if references is None else [anchors, references]
    x = autograd.pair_values(anchors, references, rows, columns, measure, backend)
    return x, *torch.autograd.grad((x * weights.to(x.dtype)).sum(), of)


@all_number_types
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("n, m, d", [(9, None, 72), (130, 7, 33), (3, 300, 520)])
def test_listed_pairs(number_type, measure, n, m, d):
    torch.set_float32_matmul_precision(number_type.precision)
    problem = make_problem(n, m, 4, measure, number_type.dtype, d=d, requires_grad=True)
    problem = on_device(problem)
    rows = torch.randint(n, (700,)).to(DEVICE)
    columns = torch.randint(m or n, (700,)).to(DEVICE)
    weights = torch.randn(700, dtype=torch.float64).to(DEVICE)

    def results(dtype):
        """By differences of the rows themselves: those of a row from itself are zero."""
        of = inputs_of(in_dtype(problem, dtype))
        left, right = of[0][rows], of[-1][columns]
        x = {
            "dot": lambda: (left * right).sum(1),
            "euclidean": lambda: (left - right).norm(dim=1),
            "squared_euclidean": lambda: (left - right).square().sum(1),
        }[measure]()
        return x, *torch.autograd.grad((x * weights.to(dtype)).sum(), of)

    ours = listed_results(*problem[:2], rows, columns, measure, weights, BACKEND)
    exact, plain = results(torch.float64), results(number_type.plain)
    for a, e, p in zip(ours, exact, plain, strict=True):
        number_type.assert_close(a, e, p, "listed pairs")
    again = listed_results(*problem[:2], rows, columns, measure, weights, BACKEND)
    for a, b in zip(ours, again, strict=True):
        assert torch.equal(a, b)


def test_listed_pairs_out_of_range_are_nan():
    anchors, references = torch.ones(4, 8, device=DEVICE), torch.ones(3, 8, device=DEVICE)
    rows = torch.tensor([0, -1, 4, 3], device=DEVICE)
    columns = torch.tensor([3, 1, 0, 2], device=DEVICE)
    x = operator("pair_values")(anchors, references, rows, columns, "dot")
    assert x.isnan().tolist() == [True, True, True, False]


NARROWED = [(dtype, dtype) for dtype in (torch.float64, torch.float32, torch.bfloat16)] + [
    (torch.float32, torch.bfloat16),
    (torch.float32, torch.float16),
]


@pytest.mark.parametrize("given, dtype", NARROWED)
@pytest.mark.parametrize("n, d", [(1, 1), (130, 33), (70, 768)])
def test_normalized_rows(given, dtype, n, d):
    x = torch.randn(n, d, dtype=torch.float64).to(given).to(DEVICE).requires_grad_()
    order = RowOrder.by_label(torch.randint(9, (n,)).to(DEVICE))
    grad = torch.randn(n, d, dtype=torch.float64).to(dtype).to(DEVICE)

    def results():
        y = row_normalizer(BACKEND, x)(x, dtype, order)
        return y, torch.autograd.grad(y, x, grad)[0]

    y, x_grad = results()
    exact_x = x.detach().double().requires_grad_()
    exact = torch.nn.functional.normalize(exact_x)[order.rows]
    (exact_grad,) = torch.autograd.grad(exact, exact_x, grad.double())
    assert (y.dtype, x_grad.dtype) == (dtype, given)
    for actual, expected in ((y, exact), (x_grad, exact_grad)):
        # a sum, and one rounding
        tolerance = 4 * torch.finfo(torch.promote_types(given, torch.float32)).eps
        tolerance += torch.finfo(actual.dtype).eps / 2
        assert (actual - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1)
    for a, b in zip((y, x_grad), results(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("n, m", [(0, None), (0, 5), (5, 0)])
def test_empty_problems(n, m):
    problem = make_problem(n, m, 3, requires_grad=True)
    check_statistics(on_device(problem), NUMBER_TYPES["float64"])


def test_scattered_inputs_give_the_same_bits():
    problem = on_device(make_problem(200, 150, 9, dtype=torch.float32, d=33))
    logit = torch.tensor(LOGIT, dtype=torch.float64)
    scattered = problem._replace(
        anchors=spread(problem.anchors),
        references=problem.references.T.contiguous().T,
        anchor_labels=spread(problem.anchor_labels),
        reference_labels=spread(problem.reference_labels),
    )
    assert not scattered.anchors.is_contiguous()
    assert not scattered.references.is_contiguous()
    results = []
    for one in (problem, scattered):
        arguments = [*one[:4], logit, one.measure, one.excluded, None, None]
        statistics, counts = operator("pair_statistics")(*arguments)
        upstream = torch.linspace(-1, 1, 600, device=DEVICE).reshape(3, 200)
        upstream = upstream if one is problem else spread(upstream)
        grads = operator("pair_gradient")(*arguments, statistics, upstream, [True] * 3)
        results.append((statistics, counts, *grads))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "needs", [[True, False, False], [False, True, False], [False, False, True]]
)
@pytest.mark.parametrize("m", [None, 60])
def test_only_what_is_needed(needs, m):
    problem = on_device(make_problem(100, m, 9, dtype=torch.float32))
    logit = torch.tensor(LOGIT, dtype=torch.float64)
    arguments = [*problem[:4], logit, "dot", 0, None, None]
    statistics, _ = operator("pair_statistics")(*arguments)
    upstream = torch.ones_like(statistics)
    every = operator("pair_gradient")(*arguments, statistics, upstream, [True] * 3)
    some = operator("pair_gradient")(*arguments, statistics, upstream, needs)
    for k, (a, b) in enumerate(zip(some, every, strict=True)):
        assert a.numel() == (b.numel() if needs[k] else 0)
        if needs[k]:
            # the logit's alone may come by another route
            torch.testing.assert_close(a, b)


def arguments_of(name, m, dtype, logit_device):
    kind = LiftedStructureLoss if "positive" in name else GeneralizedLiftedStructureLoss
    formula = kind().make_formula()
    problem = on_device(make_problem(20, m, 4, "euclidean", dtype))
    pairs, rest = list(problem[:4]), [problem.measure, problem.excluded]
    logit = formula.logit(-1.0).to(logit_device)
    head = [formula.form, formula.form_parameters()]
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    row, rows = (torch.randn(*shape, 20, dtype=sums, device=DEVICE) for shape in ((), (3,)))
    whole = [*pairs, logit, *rest, None, None]
    reference_lse = None if m is None else torch.randn(m, dtype=sums, device=DEVICE)
    positive = [*pairs, logit, *rest, reference_lse, *head]
    vectors = torch.randn(13, 3, pairs[0].shape[1], device=DEVICE).to(dtype)
    sharpness = torch.tensor([3.0], dtype=torch.float64, device=logit_device)
    groups = [pairs[0], vectors, pairs[2] % 13, logit, "soft_maximum", sharpness]
    thresholds = torch.randn(20, 3, dtype=sums, device=DEVICE).sort(1).values
    window = [-math.inf, -math.inf, math.inf]
    others = None if m is None else pairs[0].flip(0)
    against = [*pairs, *rest, others, thresholds, 3, "sigmoid", [0.0, -0.5, 0.1, *window]]
    shifts, of_lines = torch.randn(2, 2, 20 + (m or 0), dtype=sums, device=DEVICE)
    terms = packed((hinge(True), softplus(False)))
    summed = [*pairs, logit, *rest, shifts, None, terms, m is not None]
    other = pairs[0].flip(0) if m is None else pairs[1], pairs[2] if m is None else pairs[3]
    both = [pairs[0], other[0], pairs[2], other[1], logit, problem.measure, None]
    of_both = torch.randn(3, 20 + len(other[0]), dtype=sums, device=DEVICE)
    windows = [*pairs, *rest, torch.stack([rows, rows + 1]), 128]
    in_windows = operator("window_counts")(*windows)
    ends = in_windows.view(-1).cumsum(0).view_as(in_windows)
    of_two = torch.tensor([2.0, 0.0, 0.5, 1.5], dtype=torch.float64, device=logit_device)
    teacher = pairs[0].flip(1)[:, :5].contiguous()
    divergences = [pairs[0], teacher, None if m is None else pairs[2], of_two]
    index = torch.arange(9, device=DEVICE)
    listed = [*pairs[:2], index, index.flip(0), problem.measure]
    return {
        "pair_extrema": [*pairs, *rest],
        "extreme_pairs": [*pairs, *rest, rows.new_zeros(2, 2, 20), [True, False]],
        "window_counts": windows,
        "window_pairs": [*windows, ends, int(in_windows.sum()), True],
        "pair_statistics": whole,
        "row_losses": [*whole, *head],
        "pair_gradient": [*whole, rows, rows, [True, m is not None, True]],
        "two_sided_statistics": both,
        "two_sided_gradient": [*both, of_both, of_both, [True] * 3],
        "pair_sums": summed,
        "pair_sums_gradient": [*summed, of_lines, of_lines.long(), of_lines, [True] * 3],
        "row_divergences": divergences,
        "row_divergences_gradient": [*divergences, row, rows[:2], row, [True] * 3],
        "group_statistics": groups,
        "group_gradient": [*groups, rows[:2], rows[:2], [True] * 3],
        "threshold_sums": against,
        "threshold_gradient": [*against, rows.T, row.abs(), [True, m is not None]],
        "threshold_pairs": [*pairs, *rest, thresholds],
        "positive_pair_losses": positive,
        "positive_pair_gradient": [*positive, rows, row, [True, False, True]],
        "pair_values": listed,
        "pair_values_gradient": [*listed, row[:9], [True, True]],
        "normalize_rows": [pairs[0], torch.arange(20, device=DEVICE).flip(0), dtype],
        "normalize_rows_gradient": [pairs[0], None, row[:, None].exp(), pairs[0].flip(0)],
    }[name]


@pytest.mark.parametrize("name", native.OPERATORS)
@pytest.mark.parametrize("m", [None, 13])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("logit_device", DEVICES)
def test_opcheck(name, m, dtype, logit_device):
    torch.library.opcheck(
        operator(name),
        arguments_of(name, m, dtype, logit_device),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize("name", native.OPERATORS)
@pytest.mark.parametrize("m", [None, 13])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_fake_kernels_keep_their_promises_in_every_layout(name, m, dtype):
    assert_promises_kept(operator(name), arguments_of(name, m, dtype, "cpu"))


@pytest.mark.parametrize("setting", ["highest", "high", "medium"])
def test_float32_follows_torchs_setting(setting):
    problem = on_device(make_problem(300, None, 9, dtype=torch.float32, d=256))
    logit = torch.tensor(LOGIT, dtype=torch.float64)
    exact = dense_statistics(in_dtype(problem, torch.float64), logit.to(DEVICE)).lse_negative
    torch.set_float32_matmul_precision(setting)
    ours = autograd.pair_statistics(problem, logit, None, BACKEND).lse_negative
    error = (ours - exact).abs().max().item()
    # rounding of the products: 2^-24, 2^-11 and 2^-9, times the slope of the logit
    smallest, largest = {"highest": (0, 3e-6), "high": (3e-6, 2e-3), "medium": (1e-4, 1e-2)}[
        setting
    ]
    assert smallest < error < largest


def test_not_finite_rows_are_nan():
    problem = on_device(make_problem(300, 200, 9, dtype=torch.float32))
    logit = torch.tensor(LOGIT, dtype=torch.float64)
    problem.anchors[130, 3] = math.nan
    row = autograd.pair_statistics(problem, logit, None, BACKEND)
    is_bad = row.lse_negative.isnan()
    assert is_bad[130] and is_bad.sum() == 1
    problem.references[7, 0] = math.inf
    row = autograd.pair_statistics(problem, logit, None, BACKEND)
    assert (row.lse_negative.isnan() | row.lse_positive.isnan()).all()


@pytest.mark.parametrize(
    "change, text",
    [
        (
            {"labels": lambda: torch.zeros(9, device=DEVICE)},
            "anchor_labels must be Long, got Float",
        ),
        (
            {"labels": lambda: torch.zeros(8, device=DEVICE).long()},
            "anchor_labels must have 9 elem",
        ),
        ({"logit": lambda: torch.zeros(3).double()}, "logit must have 4 elements, got 3"),
        ({"logit": lambda: torch.zeros(4)}, "logit must be Double, got Float"),
        (
            {"measure": lambda: "cosine"},
            "measure must be one of dot, euclidean, squared_euc.*cosine",
        ),
        (
            {"anchors": lambda: torch.zeros(9, device=DEVICE)},
            r"anchors must be \[n, d\] with d >= 1",
        ),
        (
            {"anchors": lambda: torch.zeros(9, 4, device=DEVICE).long()},
            "anchors must be float16, .*Long",
        ),
    ],
)
def test_errors_of_a_direct_call(change, text):
    arguments = {
        "anchors": torch.randn(9, 4, device=DEVICE),
        "labels": torch.zeros(9, dtype=torch.int64, device=DEVICE),
        "logit": torch.tensor(LOGIT, dtype=torch.float64),
        "measure": "dot",
    }
    for name, value in change.items():
        arguments[name] = value()
    anchors, labels, logit, measure = arguments.values()
    with pytest.raises(RuntimeError, match=text):
        operator("pair_statistics")(anchors, None, labels, None, logit, measure, 0, None, None)


@pytest.mark.parametrize(
    "change, text",
    [
        ({"vectors": (7, 17, 4)}, r"vectors must be \[classes, 2 to 16, 4\]"),
        ({"vectors": (7, 3, 5)}, r"vectors must be \[classes, 2 to 16, 4\]"),
        ({"vectors": (7, 4)}, r"vectors must be \[classes, 2 to 16, 4\], got 2 dimensions"),
        ({"group": "mean"}, "group must be one of maximum, soft_maximum, got mean"),
        ({"sharpness": torch.ones(2).double()}, "sharpness must have 1 element, got 2"),
        ({"sharpness": torch.ones(1)}, "sharpness must be Double, got Float"),
    ],
)
def test_errors_of_a_direct_call_with_groups(change, text):
    given = {"vectors": (7, 3, 4), "group": "maximum", "sharpness": None} | change
    vectors = torch.randn(given["vectors"], device=DEVICE)
    labels, logit = torch.zeros(9).long().to(DEVICE), torch.tensor(LOGIT, dtype=torch.float64)
    arguments = [labels, logit, given["group"], given["sharpness"]]
    with pytest.raises(RuntimeError, match=text):
        operator("group_statistics")(torch.randn(9, 4, device=DEVICE), vectors, *arguments)


@pytest.mark.parametrize(
    "change, text",
    [
        ({"terms": torch.zeros(2, 9)}, r"terms must be \[K, 9\] of Double on the CPU, got 2"),
        ({"terms": torch.zeros(9).double()}, "got 1 dimensions of Double"),
        ({"terms": packed((hinge(True),) * 3)}, "at most 2 of each kind of pair, got 3 terms"),
        ({"measure": "circle"}, "sums of terms need the measure dot, euclidean or squared"),
        ({"shifts": torch.zeros(2, 8)}, "shifts must have 18 elements, got 16"),
    ],
)
def test_errors_of_a_direct_call_with_sums(change, text):
    given = {"measure": "dot", "shifts": None, "terms": packed((hinge(True),))} | change
    anchors, labels = torch.randn(9, 4, device=DEVICE), torch.zeros(9).long().to(DEVICE)
    logit = torch.tensor(LOGIT, dtype=torch.float64)
    shifts = None if given["shifts"] is None else given["shifts"].to(DEVICE)
    rest = [given["measure"], 0, shifts, None, given["terms"], False]
    with pytest.raises(RuntimeError, match=text):
        operator("pair_sums")(anchors, None, labels, None, logit, *rest)


@pytest.mark.parametrize(
    "measure, intervals, text",
    [
        ("circle", None, "extreme pairs need the measure dot, euclidean or squared_euclidean"),
        ("dot", torch.zeros(2, 2, 8), "intervals must have 36 elements, got 32"),
    ],
)
def test_errors_of_a_direct_call_with_extreme_pairs(measure, intervals, text):
    anchors, labels = torch.randn(9, 4, device=DEVICE), torch.zeros(9).long().to(DEVICE)
    intervals = None if intervals is None else intervals.to(DEVICE)
    with pytest.raises(RuntimeError, match=text):
        operator("extreme_pairs")(anchors, None, labels, None, measure, 0, intervals, [True, True])


@pytest.mark.parametrize(
    "measure, width, text",
    [
        ("circle", 128, "windows need the measure dot, euclidean or squared_euclidean"),
        ("dot", 64, "width must be a multiple of 128, got 64"),
        ("dot", 256, "windows must have 54 elements, got 48"),
    ],
)
def test_errors_of_a_direct_call_with_windows(measure, width, text):
    anchors, labels = torch.randn(9, 4, device=DEVICE), torch.zeros(9).long().to(DEVICE)
    windows = torch.zeros(2, 3, 8, device=DEVICE)
    with pytest.raises(RuntimeError, match=text):
        operator("window_counts")(anchors, None, labels, None, measure, 0, windows, width)


@pytest.mark.parametrize(
    "has_references, others, text",
    [
        (False, torch.zeros(9, 4), "references must be given beside others"),
        (True, torch.zeros(9, 3), r"others must be \[9, 4\], got 2 dimensions of 27 elements"),
        (True, torch.zeros(9, 4).double(), "others must have the anchors' dtype Float"),
    ],
)
def test_errors_of_a_direct_call_with_others(has_references, others, text):
    rows, labels = torch.randn(9, 4, device=DEVICE), torch.zeros(9).long().to(DEVICE)
    references = (rows, labels, labels) if has_references else (None, labels, None)
    numbers = [0.0, 1.0, 0.0, -math.inf, -math.inf, math.inf]
    against = others.to(DEVICE), torch.zeros(9, 1, device=DEVICE), 1, "hinge", numbers
    with pytest.raises(RuntimeError, match=text):
        operator("threshold_sums")(rows, *references, "dot", None, *against)


@pytest.mark.parametrize(
    "change, text",
    [
        ({"teacher": torch.zeros(8, 3)}, r"teacher must be \[9, d\] with d >= 1, got 2 dimensions"),
        ({"teacher": torch.zeros(9, 3).double()}, "teacher must have the anchors' dtype Float"),
        ({"labels": torch.zeros(8).long()}, "labels must have 9 elements, got 8"),
        ({"numbers": torch.zeros(4)}, "numbers must be Double, got Float"),
    ],
)
def test_errors_of_a_direct_call_with_a_teacher(change, text):
    given = {
        "teacher": torch.zeros(9, 3),
        "labels": torch.zeros(9).long(),
        "numbers": torch.tensor(LOGIT, dtype=torch.float64),
    } | change
    *rows, numbers = given.values()
    with pytest.raises(RuntimeError, match=text):
        operator("row_divergences")(
            torch.randn(9, 4, device=DEVICE), *(x.to(DEVICE) for x in rows), numbers
        )


@needs_gpu
def test_labels_on_the_cpu():
    labels = torch.zeros(9, dtype=torch.int64)
    logit = torch.tensor(LOGIT, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="anchor_labels must be on the anchors' device"):
        operator("pair_statistics")(
            torch.randn(9, 4, device=DEVICE), None, labels, None, logit, "dot", 0, None, None
        )
