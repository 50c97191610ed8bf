"""The emulated kernels against the tiled pure-PyTorch kernels in float64, operator by operator."""

from __future__ import annotations

import math

import pytest
import torch

from fusedml.distances import DotProductSimilarity
from fusedml.engine import autograd, ops
from fusedml.engine.label_sets import packed as packed_sets
from fusedml.engine.pairs import PairProblem
from fusedml.engine.reductions.thresholds import ABSENT
from fusedml.miners import BatchEasyHardMiner
from fusedml.terms import Term, hinge, identity, packed, softplus, square, squared_hinge

HEADS = {
    "softplus_sum": [2.0, 10.0],
    "hinge_sum": [],
    "cross_entropy": [],
    "mean_cross_entropy": [],
}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# n, m (None: a self problem), d: ragged sizes on both sides of the tile of 128 pairs
SIZES = [(1, None, 3), (130, None, 20), (37, 129, 17)]
# largest error of a gradient relative to its largest entry: the rounding of weights and result
GRADIENT_TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 5e-5,
    torch.bfloat16: 1.2e-2,
    torch.float16: 2e-3,
}
SUM_TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}


def make_pairs(n, m, d, dtype, measure, num_classes=5, set_words=0, self_offset=None):
    """set_words: of labels that are sets; 0 for numbers.  self_offset: with references."""
    generator = torch.Generator().manual_seed(0)

    def side(rows):
        x = torch.randn(rows, d, generator=generator, dtype=torch.float64) / d**0.5
        if set_words == 0:
            return x.to(dtype), torch.randint(num_classes, (rows,), generator=generator)
        members = torch.rand(rows, 64 * set_words, generator=generator) < 1 / (30 * set_words)
        return x.to(dtype), packed_sets(members)

    anchors, anchor_labels = side(n)
    references, reference_labels = (None, None) if m is None else side(m)
    sign = 1.0 if measure == "dot" else -1.0
    logit = torch.tensor([-2.0 * sign, 1.0, 8.0 * sign, -3.0], dtype=torch.float64)
    sides = [anchors, references, anchor_labels, reference_labels]
    return [*sides, logit, measure, 0 if m is None else self_offset]


def in_float64(args):
    return [
        x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in args
    ]


def assert_near(actual, expected, tolerance, least_scale=1e-3):
    actual, expected = actual.double(), expected.double()
    assert actual.shape == expected.shape
    finite = expected.isfinite()
    assert torch.equal(finite, actual.isfinite())
    assert torch.equal(actual[~finite], expected[~finite])
    if finite.any():
        scale = expected[finite].abs().max().clamp(min=least_scale)
        assert (actual - expected)[finite].abs().max() <= tolerance * scale


def compare(name, args, tolerances, least_scale=1e-3):
    actual = ops.operator(name, "emulated")(*args)
    expected = ops.operator(name, "torch")(*in_float64(args))
    if isinstance(actual, torch.Tensor):
        actual, expected = (actual,), (expected,)
    for ours, theirs, tolerance in zip(actual, expected, tolerances, strict=True):
        assert_near(ours, theirs, tolerance, least_scale)


def sums_dtype(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


@pytest.mark.parametrize("measure", ["dot", "euclidean", "squared_euclidean"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_statistics_and_extrema(emulated, size, dtype, measure):
    pairs = make_pairs(*size, dtype, measure)
    tolerance = SUM_TOLERANCE[sums_dtype(dtype)]
    compare("pair_statistics", [*pairs, None, None], (tolerance, 0))
    compare("pair_extrema", [*pairs[:4], measure, pairs[6]], (tolerance,))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head", HEADS)
def test_row_losses(emulated, head, dtype):
    pairs = make_pairs(130, None, 20, dtype, "dot")
    parameters = torch.tensor(HEADS[head], dtype=torch.float64)
    tolerance = SUM_TOLERANCE[sums_dtype(dtype)]
    compare("row_losses", [*pairs, None, None, head, parameters], (tolerance,) * 3)


@pytest.mark.parametrize("measure", ["dot", "euclidean", "squared_euclidean"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_gradient(emulated, route, size, dtype, measure):
    pairs = make_pairs(*size, dtype, measure)
    n, m, _ = size
    compare_gradients(pairs, torch.tensor([n - n // 4, n - n // 4 if m is None else m - m // 3]))


def compare_gradients(pairs, extent):
    n, m = len(pairs[0]), None if pairs[1] is None else len(pairs[1])
    dtype, whole = pairs[0].dtype, [*pairs, None, extent]
    statistics, _ = ops.operator("pair_statistics", "torch")(*in_float64(whole))
    grad = torch.randn(3, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grad = torch.where(statistics.isfinite(), grad, torch.zeros_like(grad))
    sums = sums_dtype(dtype)
    args = [*whole, statistics.to(sums), grad.to(sums), [True, m is not None, True]]
    compare("pair_gradient", args, (GRADIENT_TOLERANCE[dtype],) * 3)


@pytest.mark.parametrize("dtype", DTYPES)
# of one word, and of several
@pytest.mark.parametrize(("m", "set_words"), [(None, 1), (70, 3)])
def test_label_sets(emulated, route, dtype, m, set_words):
    pairs, sums = make_pairs(130, m, 20, dtype, "dot", set_words=set_words), sums_dtype(dtype)
    compare("pair_statistics", [*pairs, None, None], (SUM_TOLERANCE[sums], 0))
    compare("pair_extrema", [*pairs[:4], "dot", pairs[6]], (SUM_TOLERANCE[sums],))
    compare_gradients(pairs, None)
    compare_positive_pairs(pairs, "softplus_gap")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "set_words"), [(None, 2), (131, 1)])
def test_label_sets_of_further_kernels(emulated, dtype, m, set_words):
    compare_further_kernels(make_pairs(130, m, 20, dtype, "dot", set_words=set_words))


def compare_further_kernels(pairs):
    """Sums of terms, extreme pairs and sums against thresholds, of 130 rows."""
    m, dtype, sums = pairs[1], pairs[0].dtype, sums_dtype(pairs[0].dtype)
    generator = torch.Generator().manual_seed(3)
    compare_sums([*pairs, None, None, packed(TERMS["several"]), False])
    thresholds = torch.randint(-32, 32, (130, 3), generator=generator).sort(1).values.to(sums) / 32
    rest = [
        *pairs[5:],
        None,
        thresholds,
        3,
        "sigmoid",
        [0.0, 0.5, 0.0, -math.inf, -math.inf, math.inf],
    ]
    args, grad = [*pairs[:4], *rest], torch.randn(130, 3, generator=generator).to(sums)
    compare("threshold_sums", args, (SUM_TOLERANCE[sums],))
    args += [grad, torch.full((130,), 8.0, dtype=sums), [True, m is not None]]
    compare("threshold_gradient", args, (2 * GRADIENT_TOLERANCE[dtype],) * 2)
    for side in range(1 if m is None else 2):  # whose products are exact
        shape = pairs[side].shape
        pairs[side] = (torch.randint(-2, 3, shape, generator=generator) / 4).to(dtype)
    compare("extreme_pairs", [*pairs[:4], *pairs[5:], None, [False, True]], (1e-6, 0))


# from the last tile of columns on the first
OWN = {"m": 201, "self_offset": 190}


@pytest.mark.parametrize("dtype", DTYPES)
def test_own_columns(emulated, route, dtype):
    pairs, sums = make_pairs(130, d=20, dtype=dtype, measure="dot", **OWN), sums_dtype(dtype)
    compare("pair_statistics", [*pairs, None, None], (SUM_TOLERANCE[sums], 0))
    compare("pair_extrema", [*pairs[:4], *pairs[5:]], (SUM_TOLERANCE[sums],))
    compare_gradients(pairs, None)
    compare_positive_pairs(pairs, "softplus_gap")
    compare_two_sided(pairs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_own_columns_of_further_kernels(emulated, dtype):
    pairs, sums = make_pairs(130, d=6, dtype=dtype, measure="dot", **OWN), sums_dtype(dtype)
    compare_further_kernels(pairs)  # of which the products are exact then
    compare_windows(
        pairs, torch.tensor([[[-0.5], [0.5], [0.0]]] * 2).expand(2, 3, 130).to(sums), 128
    )
    thresholds = torch.tensor([-0.5, 0.0, 0.75]).expand(130, 3).to(sums)
    compare("threshold_pairs", [*pairs[:4], *pairs[5:], thresholds], (0,))


@pytest.mark.parametrize("measure", ["dot", "euclidean"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("head", ["softplus_gap", "squared_hinge"])
def test_positive_pairs(emulated, route, head, size, dtype, measure):
    compare_positive_pairs(make_pairs(*size, dtype, measure), head)


def compare_positive_pairs(pairs, head):
    n, m = len(pairs[0]), None if pairs[1] is None else len(pairs[1])
    dtype = pairs[0].dtype
    generator = torch.Generator().manual_seed(2)
    sums = sums_dtype(dtype)
    reference_lse = None if m is None else torch.randn(m, generator=generator).to(sums)
    args = [*pairs, reference_lse, head, torch.zeros(0, dtype=torch.float64)]
    # a loss of positive pairs sums and squares logits
    compare("positive_pair_losses", args, (5 * SUM_TOLERANCE[sums], SUM_TOLERANCE[sums], 0))
    _, statistics, _ = ops.operator("positive_pair_losses", "torch")(*in_float64(args))
    losses_grad = torch.randn(n, generator=generator).to(sums)
    tolerance = GRADIENT_TOLERANCE[dtype]
    compare(
        "positive_pair_gradient",
        [*args, statistics.to(sums), losses_grad, [True, m is not None, True]],
        (tolerance, tolerance, tolerance, 1e-4),
    )


@pytest.mark.parametrize("measure", ["dot", "euclidean"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_two_sided(emulated, route, dtype, measure):
    compare_two_sided(make_pairs(130, 70, 17, dtype, measure))


def compare_two_sided(pairs):
    dtype, sums = pairs[0].dtype, sums_dtype(pairs[0].dtype)
    compare("two_sided_statistics", pairs, (SUM_TOLERANCE[sums], 0))
    statistics, _ = ops.operator("two_sided_statistics", "torch")(*in_float64(pairs))
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(statistics.shape, generator=generator, dtype=torch.float64)
    grad = torch.where(statistics.isfinite(), grad, torch.zeros_like(grad))
    args = [*pairs, statistics.to(sums), grad.to(sums), [True] * 3]
    compare("two_sided_gradient", args, (GRADIENT_TOLERANCE[dtype],) * 3)


@pytest.mark.parametrize("dtype", DTYPES)
# (n, m, which are the largest): tiles are 64 x 64 pairs
@pytest.mark.parametrize(
    "size", [(1, None, [False, True]), (130, None, [True, True]), (37, 70, [False, False])]
)
def test_extreme_pairs(emulated, size, dtype):
    n, m, largest = size
    pairs = make_pairs(n, m, 6, torch.float64, "dot")
    generator, sums = torch.Generator().manual_seed(3), sums_dtype(dtype)
    # quarters, whose products are exact: ties are everywhere, and the lowest column is due
    for side in range(1 if m is None else 2):
        shape = pairs[side].shape
        pairs[side] = (torch.randint(-2, 3, shape, generator=generator) / 4).to(dtype)
    ends = torch.randint(-4, 5, (2, 2, n), generator=generator) / 2
    for intervals in (None, torch.sort(ends, dim=1).values.to(sums)):
        args = [*pairs[:4], *pairs[5:], intervals, largest]
        compare("extreme_pairs", args, (1e-6, 0))


@pytest.mark.parametrize("dtype", DTYPES)
# (n, m, width): tiles are 128 x 128 pairs, or 64 x 64
@pytest.mark.parametrize("size", [(1, None, 128), (130, None, 256), (37, 300, 128)])
def test_windows(emulated, size, dtype):
    n, m, width = size
    pairs = make_pairs(n, m, 6, torch.float64, "dot")
    generator, sums = torch.Generator().manual_seed(3), sums_dtype(dtype)
    # quarters, whose products are exact: many lie on the ends of the windows
    for side in range(1 if m is None else 2):
        shape = pairs[side].shape
        pairs[side] = (torch.randint(-2, 3, shape, generator=generator) / 4).to(dtype)
    ends = torch.randint(-4, 5, (2, 2, n), generator=generator) / 8
    shifts = torch.randint(-2, 3, (2, 1, n), generator=generator) / 16
    windows = torch.cat([torch.sort(ends, dim=1).values, shifts], 1).to(sums)
    compare_windows(pairs, windows, width)


def compare_windows(pairs, windows, width):
    args = [*pairs[:4], *pairs[5:], windows, width]
    compare("window_counts", args, (0,))
    counts = ops.operator("window_counts", "torch")(*in_float64(args))
    running = counts.view(-1).cumsum(0)
    of_list = running.view(counts.shape), int(running[-1])
    compare("window_pairs", [*args, *of_list, True], (0, 0, 0))
    assert len(ops.operator("window_pairs", "emulated")(*args, *of_list, False)[2]) == 0


@pytest.mark.parametrize("n, references", [(70, False), (90, True)])
def test_miners_by_kernels(emulated, monkeypatch, n, references):
    """The kernels find what the strips find, in one look at all rows."""
    generator = torch.Generator().manual_seed(1)
    x = (torch.randint(-2, 3, (n, 5), generator=generator) / 4).double()
    y = torch.randint(9, (n,), generator=generator)
    others = (x.flip(0), y.roll(3)) if references else (None, None)
    ranges = {"allowed_pos_range": (0.1, 1.5), "allowed_neg_range": (0.5, 2.0)}
    for strategies in (("hard", "hard"), ("easy", "semihard"), ("semihard", "hard")):
        for options in ({}, ranges):
            distance = DotProductSimilarity(normalize_embeddings=False)
            miner = BatchEasyHardMiner(*strategies, distance=distance, **options)
            expected = miner(x, y, *others)
            with monkeypatch.context() as patch:
                patch.setitem(ops.BACKENDS, "auto", "fusedml_emulated")
                found = miner(x, y, *others)
            for a, b in zip(found, expected, strict=True):
                assert torch.equal(a, b)


TERMS = {
    "hinges": (hinge(True, is_closed=True), hinge(False)),
    "several": (squared_hinge(True), identity(True), hinge(False), softplus(False)),
    "exponential": (
        Term(True, exponent=1.5, linear=1.0, floor=0.0),
        Term(False, exponent=-0.7, constant=1.0, floor=0.1, ceiling=0.9),
        Term(False, exponent=-0.7, square=2.0, linear=-0.3, constant=0.4),
    ),
}


@pytest.mark.parametrize("name", TERMS)
def test_terms_of_both_twins(emulated, name):
    """Each term on each of its logits, by the kernels: values, slopes and counts."""
    z = torch.cat([torch.linspace(-3, 3, 90), torch.tensor([0, 0.1, 0.9, -0.0])]).double()
    one, n = torch.ones(1, 1, dtype=torch.float64), len(z)
    logit = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    for is_positive in (True, False):
        terms = tuple(term for term in TERMS[name] if term.is_positive == is_positive)
        labels = torch.zeros(n, dtype=torch.int64), torch.full((1,), 0 if is_positive else 1)
        shifts = torch.zeros(2, n, dtype=torch.float64)
        pairs = [z[:, None], one, *labels, logit, "dot", None]
        sums, slopes, counts, _ = ops.operator("pair_sums", "emulated")(
            *pairs, shifts, None, packed(terms), False
        )
        for k, term in enumerate(terms):
            leaf = z.clone().requires_grad_()
            value = term.values(leaf)
            (slope,) = torch.autograd.grad(value.sum(), leaf)
            torch.testing.assert_close(sums[k], value.detach(), rtol=1e-14, atol=1e-14)
            torch.testing.assert_close(slopes[k], slope, rtol=1e-14, atol=1e-14)
            assert torch.equal(counts[k], term.counts(z).long())


@pytest.mark.parametrize("measure", ["dot", "euclidean"])
@pytest.mark.parametrize("dtype", DTYPES)
# (n, m, d, both sides, shifts)
@pytest.mark.parametrize(
    "size", [(1, None, 3, False, True), (130, None, 20, False, False), (37, 70, 17, True, True)]
)
def test_sums(emulated, size, dtype, measure):
    n, m, d, both_sides, has_shifts = size
    pairs, sums = make_pairs(n, m, d, dtype, measure), sums_dtype(dtype)
    generator, lines = torch.Generator().manual_seed(3), n + (m if both_sides else 0)
    shifts = torch.randn(2, lines, generator=generator).to(sums) if has_shifts else None
    extent = torch.tensor([n - n // 4, n - n // 4 if m is None else m - m // 3])
    compare_sums([*pairs, shifts, extent, packed(TERMS["several"]), both_sides])


def compare_sums(summed):
    references, dtype, generator = summed[1], summed[0].dtype, torch.Generator().manual_seed(4)
    sums = sums_dtype(dtype)
    tolerance = SUM_TOLERANCE[sums]
    compare("pair_sums", summed, (tolerance, tolerance, 0, 0))
    _, slopes, counts, _ = ops.operator("pair_sums", "torch")(*in_float64(summed))
    grad = torch.randn(counts.shape, generator=generator).to(sums)
    args = [*summed, slopes.to(sums), counts, grad, [True, references is not None, True]]
    tolerance = GRADIENT_TOLERANCE[dtype]
    compare("pair_sums_gradient", args, (tolerance,) * 3 + (1e-4,))


def test_sums_that_no_kernel_computes(emulated):
    """Three terms of a kind are PyTorch's."""
    anchors, _, labels, *_ = make_pairs(9, None, 5, torch.float64, "dot")
    problem, terms = (
        PairProblem(anchors, None, labels, None),
        (*TERMS["exponential"], square(False)),
    )
    logit = torch.tensor([2.0, 1.0, 3.0, -1.0], dtype=torch.float64)
    ours, theirs = (
        autograd.pair_sums(problem, logit, terms, backend=backend)
        for backend in ("emulated", "torch")
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
# (n, d, width of the teacher, has labels): tiles are 64 x 64 pairs
@pytest.mark.parametrize("size", [(1, 3, 5, False), (130, 20, 72, True), (70, 33, 7, False)])
def test_divergences(emulated, size, dtype):
    n, d, width, has_labels = size
    anchors, _, labels, *_ = make_pairs(n, None, d, dtype, "dot")
    teacher = make_pairs(n, None, width, dtype, "dot")[0]
    numbers = torch.tensor([5.0, 0.0, -0.5, 0.5], dtype=torch.float64)
    given, sums = [anchors, teacher, labels if has_labels else None, numbers], sums_dtype(dtype)
    compare("row_divergences", given, (SUM_TOLERANCE[sums],) * 2, least_scale=1)
    saved = [x.to(sums) for x in ops.operator("row_divergences", "torch")(*in_float64(given))]
    grad = torch.randn(n, generator=torch.Generator().manual_seed(1)).to(sums)
    for needs in ([True] * 3, [False, True, False], [False, False, True]):
        args = [*given, *saved, grad, needs]
        # that of a shift cancels: the weights of a row add up to 0
        tolerances = [GRADIENT_TOLERANCE[dtype] * times for times in (1, 1, 4)]
        compare("row_divergences_gradient", args, tolerances, least_scale=0.1)


@pytest.mark.parametrize("group", ["maximum", "soft_maximum"])
@pytest.mark.parametrize("dtype", DTYPES)
# (classes, vectors of each): less and more than a tile of 128 vectors holds
@pytest.mark.parametrize("shape", [(5, 2), (41, 3), (9, 10), (3, 16)])
def test_groups(emulated, shape, dtype, group):
    generator = torch.Generator().manual_seed(0)
    anchors, *_, logit, _, _ = make_pairs(37, None, 17, dtype, "dot")
    vectors = torch.randn(*shape, 17, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(shape[0], (37,), generator=generator)
    sharpness = torch.tensor([7.0], dtype=torch.float64)
    args, sums = [anchors, vectors, labels, logit, group, sharpness], sums_dtype(dtype)
    tolerance = SUM_TOLERANCE[sums]
    compare("group_statistics", args, (tolerance,))
    statistics = ops.operator("group_statistics", "torch")(*in_float64(args)).to(sums)
    grad = torch.randn(2, 37, generator=generator).to(sums)
    args += [statistics, grad, [True] * 3]
    compare("group_gradient", args, (2 * GRADIENT_TOLERANCE[dtype],) * 3)


@pytest.mark.parametrize("dtype", DTYPES)
# hinges against few thresholds, and against more than are compared one by one
@pytest.mark.parametrize(
    "form, count", [("hinge", 3), ("hinge", 40), ("softplus", 3), ("sigmoid", 5), ("pulse", 7)]
)
def test_thresholds(emulated, form, count, dtype):
    generator = torch.Generator().manual_seed(0)
    measure = "euclidean" if form == "softplus" else "dot"
    anchors, _, labels, *_ = make_pairs(131, None, 20, dtype, measure)
    sums, sign = sums_dtype(dtype), -1.0 if measure == "euclidean" else 1.0
    # coarse, so that with what bounds a pair their sums are exact
    thresholds = sign * torch.randint(64, (131, count), generator=generator).to(sums) / 64
    thresholds = thresholds.sort(1).values
    thresholds[::3, count // 2 :] = ABSENT
    window = [-math.inf, -0.5, 0.25]
    numbers = [-1.0, 0.5, 0.0, *window] if form == "pulse" else [0.0, sign, 0.25, *window]
    args = [anchors, None, labels, None, measure, 0, None, thresholds, count, form, numbers]
    ours = ops.operator("threshold_sums", "emulated")(*args).double()
    exact = ops.operator("threshold_sums", "torch")(*in_float64(args))
    if form == "hinge":  # of each row, wherever in it
        ours[0], exact[0] = (x[0].sum(1, keepdim=True) for x in (ours, exact))
    assert_near(ours, exact, SUM_TOLERANCE[sums])
    shape = {"sigmoid": (131, count), "pulse": (2, 131, count)}.get(form, (131,))
    grad = torch.randn(shape, generator=generator).to(sums)
    args += [grad, torch.full((131,), 2.0 * count, dtype=sums), [True, False]]
    compare("threshold_gradient", args, (2 * GRADIENT_TOLERANCE[dtype],) * 2)


@pytest.mark.parametrize("dtype", DTYPES)
# tiles are 64 x 64 pairs
@pytest.mark.parametrize(
    "form, measure, n, m, count",
    [
        ("hinge", "dot", 70, 131, 1),
        ("softplus", "squared_euclidean", 9, 20, 3),
        ("hinge", "dot", 5, 9, 40),
    ],
)
def test_thresholds_of_the_harder(emulated, form, measure, n, m, count, dtype):
    """Rows of two embeddings; products are exact, so that often neither measure is the harder."""
    generator, sums = torch.Generator().manual_seed(1), sums_dtype(dtype)

    def numbers(low, high, *shape):
        return torch.randint(low, high, shape, generator=generator).double()

    def side(rows):
        if measure == "dot":
            return (numbers(-2, 3, rows, 20) / 8).to(dtype)
        return torch.randn(rows, 20, generator=generator, dtype=torch.float64).to(dtype) / 8

    sides = [side(rows) for rows in (n, m, n)]
    labels = [numbers(0, 5, rows).long() for rows in (n, m)]
    thresholds = (numbers(-16, 16, n, count) / 16).sort(1).values.to(sums)
    sign = 1.0 if measure == "dot" else -1.0
    of_form = [0.0, sign, 0.25, -math.inf, -0.5, 0.25]
    args = [*sides[:2], *labels, measure, None, sides[2], thresholds, count, form, of_form]
    ours = ops.operator("threshold_sums", "emulated")(*args).double()
    exact = ops.operator("threshold_sums", "torch")(*in_float64(args))
    assert exact[2].any()
    if form == "hinge":  # of each row, wherever in it
        ours[0], exact[0] = (x[0].sum(1, keepdim=True) for x in (ours, exact))
    assert_near(ours, exact, SUM_TOLERANCE[sums])
    grad = torch.randn(n, generator=generator).to(sums)
    args += [grad, torch.full((n,), 3.0 * count, dtype=sums), [True, True]]
    compare("threshold_gradient", args, (2 * GRADIENT_TOLERANCE[dtype],) * 2)


@pytest.mark.parametrize("dtype", DTYPES)
# tiles are 128 x 128 pairs, or 64 x 64; many thresholds, and one class, which has no negatives
@pytest.mark.parametrize(
    "size", [(1, None, 2, 5), (130, None, 3, 5), (37, 129, 70, 5), (9, 20, 3, 1)]
)
def test_threshold_pairs(emulated, size, dtype):
    n, m, count, num_classes = size
    pairs = make_pairs(n, m, 6, torch.float64, "dot", num_classes)
    generator, sums = torch.Generator().manual_seed(3), sums_dtype(dtype)
    # quarters, whose products are exact: many are equal, and many lie on a threshold
    for side in range(1 if m is None else 2):
        shape = pairs[side].shape
        pairs[side] = (torch.randint(-2, 3, shape, generator=generator) / 4).to(dtype)
    thresholds = torch.randint(-8, 9, (n, count), generator=generator).to(sums).sort(1).values / 8
    thresholds[::3, count // 2 :] = ABSENT
    compare("threshold_pairs", [*pairs[:4], *pairs[5:], thresholds], (0,))


@pytest.mark.parametrize("size", [1, 17])
def test_groups_that_no_kernel_of_groups_takes(emulated, size):
    """One vector a class is a pair; more than a thread can hold are PyTorch's."""
    generator = torch.Generator().manual_seed(0)
    x, w = (
        torch.randn(*shape, 5, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((9,), (4, size))
    )
    labels, logit = torch.arange(9) % 4, torch.tensor([2.0, 1.0, 3.0, -1.0], dtype=torch.float64)
    results = []
    for backend in ("emulated", "torch"):
        row = autograd.group_statistics(x, w, labels, logit, "maximum", None, backend)
        total = (row.lse_negative + 2 * row.sum_positive).sum()
        results.append((total, row.num_negative, *torch.autograd.grad(total, [x, w])))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("measure", ["dot", "euclidean", "squared_euclidean"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_listed_pairs(emulated, size, dtype, measure):
    anchors, references, *_ = make_pairs(*size, dtype, measure)
    n, m, _ = size
    generator = torch.Generator().manual_seed(3)
    rows = torch.randint(n, (300,), generator=generator)
    columns = torch.randint(n if m is None else m, (300,), generator=generator)
    args = [anchors, references, rows, columns, measure]
    sums = sums_dtype(dtype)
    compare("pair_values", args, (SUM_TOLERANCE[sums],))
    grad = torch.randn(300, generator=generator).to(sums)
    tolerance = GRADIENT_TOLERANCE[dtype]
    args += [grad, [True, m is not None]]
    # the gradient of a row's distance to itself is 0 only after its two parts have cancelled
    compare("pair_values_gradient", args, (tolerance, tolerance), least_scale=0.1)


@pytest.mark.parametrize("name", ["pair_statistics", "pair_gradient"])
def test_same_bits_whatever_the_schedule(emulated, route, name):
    n = 300  # several panels, also on and above the diagonal
    emulated.OPTIONS["max_panel_bytes"] = 128 * 128 * 2
    pairs = make_pairs(n, None, 20, torch.bfloat16, "dot")
    args = [*pairs, None, None]
    if name == "pair_gradient":
        statistics = torch.zeros(3, n)
        args += [statistics, statistics + 1, [True, False, True]]
    results = []
    for seed in (0, 1, 2):
        emulated.kernels.set_seed(seed)
        results.append(ops.operator(name, "emulated")(*args))
    emulated.kernels.set_seed(0)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def one_element_on(x):
    """The same numbers, contiguous, from an address that no wide copy may begin at."""
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)


# rows of whole 16-byte chunks, which are copied at once where they begin at one, and others
@pytest.mark.parametrize("d", [16, 32, 33])
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_wherever_the_embeddings_begin(emulated, route, dtype, d):
    results = []
    for place in (lambda x: x, one_element_on):
        anchors, references, *rest = make_pairs(37, 130, d, dtype, "euclidean")
        sides = [place(anchors), place(references)]
        assert all(x.is_contiguous() for x in sides)
        args = [*sides, *rest, None, None]
        statistics, counts = ops.operator("pair_statistics", "emulated")(*args)
        grad = torch.ones_like(statistics)
        grads = ops.operator("pair_gradient", "emulated")(*args, statistics, grad, [True] * 3)
        results.append((statistics, counts, *grads))
    assert [x.data_ptr() % 16 for x in sides] == [anchors.element_size()] * 2
    for aligned, unaligned in zip(*results, strict=True):
        assert torch.equal(aligned, unaligned)


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_float32_precision(emulated, precision):
    pairs = make_pairs(70, None, 64, torch.float32, "dot")
    exact, _ = ops.operator("pair_statistics", "torch")(*in_float64([*pairs, None, None]))
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        ours, _ = ops.operator("pair_statistics", "emulated")(*pairs, None, None)
    finally:
        torch.set_float32_matmul_precision(before)
    error = (ours - exact).abs().max() / exact.abs().max()
    # units of fp32, tf32 and bf16 rounding, times the slope of the logits
    assert error < {"highest": 2e-6, "high": 5e-3, "medium": 5e-2}[precision]
    assert precision == "highest" or error > 1e-6
