"""What nvcc makes of every kernel, interpreted on small problems, against numpy in float64.

The emulator runs the kernels' C++ sources at many sizes; here one small problem of each operator,
measure and route shows that the PTX, with its inline assembly, computes the same.  Every kernel of
every number type is among what is interpreted.
"""

import ctypes as c
from dataclasses import replace

import numpy as np
import pytest
from dense_numpy import sigmoid, softplus
from interpreter import Module
from kernel_api import (
    DISTANCES,
    FORMS,
    PAIR_HEADS,
    ROW_HEADS,
    ExtremePairs,
    GradientOutputs,
    KernelLibrary,
    ListedPairs,
    Normalization,
    PairSums,
    PairSumsOutputs,
    PairTerm,
    PairWindows,
    PositivePairs,
    RowHead,
    SecondProduct,
    SortedPairs,
    StatisticsOutputs,
    Thresholds,
    WindowList,
    gradient_options,
    sweep_options,
)
from kernel_launches import NoExecution, find_library, read_table
from kernel_library import NUMBER_TYPES, interpreted_ptx, short_name
from kernel_problem import (
    GRADIENT_TOLERANCE,
    TOLERANCE,
    SmallGroups,
    SmallProblem,
    numbers,
    real_of,
    stored,
)

# An instruction of the interpreter is one of a team of warps, here of a whole block.
MOST_INSTRUCTIONS = 100_000
# Dynamic shared memory of a block on sm_86 and sm_89; sm_80 and sm_90 have more.
MOST_SHARED_BYTES = 99 * 1024


@pytest.fixture(scope="session")
def host():
    path = find_library()
    if path is None:
        pytest.skip("the emulated kernels are not built: cmake -B build && cmake --build build")
    return KernelLibrary(path)


@pytest.fixture(scope="module")
def modules():
    """{number type: interpreter.Module}, of the last one: all its cases share its kernels."""
    last = {}
    yield last
    _forget(last)


def _forget(modules):
    """Frees them without a collection, which would visit all that is there."""
    while modules:
        modules.popitem()[1].forget_programs()


@pytest.fixture(params=NUMBER_TYPES)
def kernels(request, nvcc, modules):
    """(number type, interpreter.Module)."""
    number_type = request.param
    if number_type not in modules:
        _forget(modules)
        modules[number_type] = Module(interpreted_ptx(nvcc, number_type).read_text())
    return number_type, modules[number_type]


@pytest.fixture
def library(host, kernels):
    """The host code with fresh memory; afterwards the count of instructions is checked."""
    _, module = kernels
    executed = module.executed
    host.start(module)
    yield host
    host.module = None
    assert 0 < module.executed - executed < MOST_INSTRUCTIONS
    assert max(shared_bytes for _, _, shared_bytes in host.launched) <= MOST_SHARED_BYTES


def kernels_of(library):
    """The kernels that were launched, without what distinguishes their instances."""
    return [short_name(name).split()[0] for name, _, _ in library.launched]


def check_statistics(library, number_type, measure, m, mined, has_extent, tile_size="large"):
    p = SmallProblem(library, number_type, measure, 9, m, 20, mined=mined, has_extent=has_extent)
    statistics, losses, partials = p.zeros(3, 9), p.zeros(9), p.zeros(3, 9)
    counts = p.zeros(2, 9, dtype=np.int64)
    head = RowHead(ROW_HEADS.index("softplus_sum"), None, (2.0, 10.0))
    outputs = StatisticsOutputs(statistics, counts, losses, partials)
    sweep = sweep_options(tile_size=tile_size)
    library.call("pair_statistics", p.struct, head, outputs, sweep, workspace=[sweep])
    expected, tolerance = p.dense.statistics(), TOLERANCE[number_type]
    p.expect("statistics", statistics, expected, tolerance)
    p.expect("counts", counts, p.dense.counts(), 0)
    positive, negative, _ = expected
    p.expect("losses", losses, softplus(positive) / 2 + softplus(negative) / 10, tolerance)
    of_rows = np.stack([sigmoid(positive) / 2, sigmoid(negative) / 10, np.zeros(9)])
    p.expect("partials", partials, of_rows, tolerance)
    norms = ["squared_norms"] * 2 if measure in DISTANCES else []
    assert kernels_of(library) == [*norms, "pair_sweep", "finish_statistics"]


def check_symmetric_sweep(library, number_type, measure):
    """A self problem of three tiles, each of which feeds its rows and its columns; grid_blocks 1
    makes that the faster plan."""
    n = 2 * (64 if number_type == "fp64" else 128) + 1
    p = SmallProblem(library, number_type, measure, n, 0, 4)
    statistics, counts, sweep = (
        p.zeros(3, n),
        p.zeros(2, n, dtype=np.int64),
        sweep_options(grid_blocks=1),
    )
    outputs = StatisticsOutputs(statistics, counts, None, None)
    library.call("pair_statistics", p.struct, RowHead(), outputs, sweep, workspace=[sweep])
    p.expect("statistics", statistics, p.dense.statistics(), TOLERANCE[number_type])
    p.expect("counts", counts, p.dense.counts(), 0)
    extrema = p.zeros(2, n)
    library.call("pair_extrema", p.struct, extrema, sweep, workspace=[sweep])
    p.expect("extrema", extrema, p.dense.extrema(), TOLERANCE[number_type])
    launched = zip(kernels_of(library), library.blocks, strict=True)
    # three pairs of equal and three of different tiles; a rectangle would have a block per row tile
    assert [blocks for name, blocks in launched if name == "pair_sweep"] == [6, 6]


def check_extrema(library, number_type, measure, tile_size="large"):
    p = SmallProblem(library, number_type, measure, 7, 5, 16, has_extent=True)
    extrema, sweep = p.zeros(2, 7), sweep_options(tile_size=tile_size)
    library.call("pair_extrema", p.struct, extrema, sweep, workspace=[sweep])
    p.expect("extrema", extrema, p.dense.extrema(), TOLERANCE[number_type])
    assert kernels_of(library)[-2:] == ["pair_sweep", "finish_extrema"]


def expect_gradient(p, options, *, of_references=True, of_logit=True):
    """Gradients of the row statistics, and which kernels were launched for them."""
    library, number_type = p.library, p.number_type
    exact = p.dense.statistics()
    real = real_of(number_type)
    grad = np.random.default_rng(1).standard_normal((3, p.n)).astype(real)
    logit_grad = p.zeros(4, dtype=np.float64) if of_logit else None
    anchors = p.zero_embeddings(p.n)
    has_references = of_references and not p.is_self
    references = p.zero_embeddings(p.m) if has_references else None
    outputs = GradientOutputs(anchors, references, logit_grad)
    statistics = library.put(exact.astype(real))
    library.call(
        "pair_gradient",
        p.struct,
        statistics,
        library.put(grad),
        outputs,
        options,
        workspace=[outputs, options],
    )
    d_z = p.dense.logit_weights(exact, grad.astype(np.float64))
    to_anchors, to_references, to_logit = p.dense.gradients(d_z)
    tolerance = GRADIENT_TOLERANCE[number_type]
    p.expect("anchors_grad", anchors, to_anchors, tolerance, embeddings=True)
    if has_references:
        p.expect("references_grad", references, to_references, tolerance, embeddings=True)
    if of_logit:
        p.expect("logit_grad", logit_grad, to_logit, tolerance)
    return kernels_of(library)


def check_gradient(library, number_type, route, measure, m, d, has_rule, tile_size="large"):
    p = SmallProblem(library, number_type, measure, 9, m, d, mined=has_rule, has_extent=has_rule)
    launched = expect_gradient(p, gradient_options(route, tile_size=tile_size))
    uses_rows = route == "rows" and number_type != "fp64"
    expected = {"gradient_rows"} if uses_rows else {"pair_weights", "weights_product"}
    assert expected <= set(launched)
    assert ("weight_scale" in launched) == (number_type == "fp16")


def check_plain_tile(library, number_type, route, measure, tile_size="large"):
    """Tiles that hold nothing but counted negatives, whose weights have a path of their own.  In 20
    dimensions no two of the rows are so near that their distance cancels in TF32."""
    p = SmallProblem(library, number_type, measure, 128, 128, 20, disjoint_labels=True)
    options = gradient_options(route, tile_size=tile_size)
    expect_gradient(p, options, of_references=False, of_logit=False)


def check_sets(library, number_type, route, m, self_offset=None):
    """Labels that are sets, of two words; and own columns that wrap."""
    options = {"set_words": 2, "self_offset": self_offset}
    p = SmallProblem(library, number_type, "dot", 9, m, 20, **options)
    assert p.dense.positive.any() and p.dense.negative.any()
    statistics, counts, sweep = p.zeros(3, 9), p.zeros(2, 9, dtype=np.int64), sweep_options()
    outputs = StatisticsOutputs(statistics, counts, None, None)
    library.call("pair_statistics", p.struct, RowHead(), outputs, sweep, workspace=[sweep])
    p.expect("statistics", statistics, p.dense.statistics(), TOLERANCE[number_type])
    p.expect("counts", counts, p.dense.counts(), 0)
    expect_gradient(p, gradient_options(route))


def check_divided_columns(library, number_type):
    """Columns that are divided among blocks by route A."""
    p = SmallProblem(library, number_type, "dot", 3, 449, 4)
    rows = gradient_options("rows")
    launched = expect_gradient(p, rows, of_references=False)
    assert ("merge_gradients" in launched) == (number_type != "fp64")


def check_many_rows(library, number_type):
    """So many that several blocks look for the scale of fp16's weights."""
    p = SmallProblem(library, number_type, "dot", 1366, 1, 4)
    options = gradient_options("panel")
    launched = expect_gradient(p, options, of_references=False, of_logit=False)
    assert "largest_gradient" in launched


def check_halved_panels(library, number_type):
    """A self problem of two rows of panels: the one beside the diagonal feeds rows and columns."""
    tile = 64 if number_type == "fp64" else 128
    element_bytes = {"bf16": 2, "fp16": 2, "fp64": 8}.get(number_type, 4)
    p = SmallProblem(library, number_type, "euclidean", tile + 1, 0, 5)
    panel = gradient_options("panel", tile * tile * element_bytes)
    assert expect_gradient(p, panel).count("weights_product") == 3
    # of the second panel its rows, and its columns, of which there is one tile
    blocks = zip(kernels_of(library), library.blocks_down, strict=True)
    assert [down for name, down in blocks if name == "weights_product"] == [1, 2, 1]


def check_many_columns(library, number_type):
    """Columns that are divided among blocks forward and among panels by route B.  The host code
    that divides them is the same for every number type, and so are the kernels."""
    p = SmallProblem(library, number_type, "dot", 3, 130, 4)
    statistics, sweep = p.zeros(3, 3), sweep_options()
    outputs = StatisticsOutputs(statistics, None, None, None)
    library.call("pair_statistics", p.struct, RowHead(), outputs, sweep, workspace=[sweep])
    p.expect("statistics", statistics, p.dense.statistics(), TOLERANCE[number_type])
    panel = gradient_options("panel", 128 * 128 * 2)
    assert expect_gradient(p, panel, of_references=False).count("weights_product") == 2


def dense_pair_loss(head, z, anchor_lse, reference_lse):
    """v, dv/dz, dv/dlse_i, dv/dlse_p of every pair [n, m]."""
    if head == "softplus_gap":
        share = sigmoid(anchor_lse - z)
        return softplus(anchor_lse - z), -share, share, 0 * share
    both = np.logaddexp(anchor_lse, reference_lse)
    inner = np.maximum(both + z, 0)
    return (
        inner**2 / 2,
        inner,
        inner * np.exp(anchor_lse - both),
        inner * np.exp(reference_lse - both),
    )


def check_positive_pairs(library, number_type, head, measure, m):
    p = SmallProblem(library, number_type, measure, 9, m, 16)
    real = real_of(number_type)
    generator = np.random.default_rng(2)
    grad = generator.standard_normal(9).astype(real)
    exact = p.dense.statistics()
    of_references = exact[1] if p.is_self else generator.standard_normal(m).astype(real)
    pairs = PositivePairs(PAIR_HEADS.index(head), None if p.is_self else library.put(of_references))
    statistics, losses = p.zeros(3, 9), p.zeros(9)
    counts = p.zeros(2, 9, dtype=np.int64)
    outputs = StatisticsOutputs(statistics, counts, losses, None)
    sweep = sweep_options()
    library.call("positive_pair_losses", p.struct, pairs, outputs, sweep, workspace=[sweep])

    value, d_z, d_anchor_lse, d_reference_lse = (
        np.where(p.dense.positive, x, 0)
        for x in dense_pair_loss(head, p.dense.z, exact[1][:, None], of_references[None])
    )
    p.expect("statistics", statistics, exact, TOLERANCE[number_type])
    p.expect("losses", losses, value.sum(axis=1), 4 * TOLERANCE[number_type])
    expected = {"pair_sweep", "finish_statistics", "label_ranges", "finish_pair_sums"}
    norms = {"squared_norms"} if measure in DISTANCES else set()
    assert set(kernels_of(library)) == expected | norms

    g = grad.astype(np.float64)[:, None]
    anchor_lse_grad = (g * d_anchor_lse).sum(axis=1)
    reference_lse_grad = (g * d_reference_lse).sum(axis=0)
    if p.is_self:
        anchor_lse_grad = anchor_lse_grad + reference_lse_grad
    through_lse = anchor_lse_grad[:, None] * np.exp(p.dense.z - exact[1][:, None])
    weights = g * d_z + np.where(p.dense.negative, through_lse, 0)
    to_anchors, to_references, to_logit = p.dense.gradients(weights)

    anchors, logit_grad = p.zero_embeddings(9), p.zeros(4, dtype=np.float64)
    references = None if p.is_self else p.zero_embeddings(m)
    lse_grad = None if p.is_self else p.zeros(m)
    outputs = GradientOutputs(anchors, references, logit_grad)
    options = gradient_options("auto")
    library.call(
        "positive_pair_gradient",
        p.struct,
        pairs,
        statistics,
        library.put(grad),
        outputs,
        lse_grad,
        options,
        workspace=[outputs, options],
    )
    tolerance = GRADIENT_TOLERANCE[number_type]
    p.expect("anchors_grad", anchors, to_anchors, tolerance, embeddings=True)
    p.expect("logit_grad", logit_grad, to_logit, tolerance)
    if not p.is_self:
        p.expect("references_grad", references, to_references, tolerance, embeddings=True)
        p.expect("reference_lse_grad", lse_grad, reference_lse_grad, 4 * TOLERANCE[number_type])


def check_listed_pairs(library, number_type, measure, m, d):
    """Values and gradients of pairs of which one row has more than a warp looks up at a time."""
    p = SmallProblem(library, number_type, measure, 5, m, d)
    generator, real = np.random.default_rng(3), real_of(number_type)
    rows, columns = np.array([*[2] * 34, 0, 4, 0]), generator.integers(0, p.m, 37)
    listed = ListedPairs(library.put(rows), library.put(columns), 37)
    values = p.zeros(37)
    library.call("pair_values", p.struct, listed, values, workspace=None)
    p.expect("values", values, p.dense.x[rows, columns], TOLERANCE["fp32"])

    orders = [np.argsort(index, kind="stable") for index in (rows, columns)]
    by_row, by_column = (
        SortedPairs(library.put(index[order]), library.put(order))
        for index, order in zip((rows, columns), orders, strict=True)
    )
    grad = generator.standard_normal(37).astype(real)
    anchors = p.zero_embeddings(5)
    references = None if p.is_self else p.zero_embeddings(m)
    outputs = GradientOutputs(anchors, references, None)
    arguments = [listed, by_row, by_column, library.put(grad), outputs]
    library.call("pair_values_gradient", p.struct, *arguments, workspace=[listed])
    d_x = np.zeros_like(p.dense.x)
    np.add.at(d_x, (rows, columns), grad.astype(np.float64))
    to_anchors, to_references = p.dense.measure_gradients(d_x)
    tolerance = GRADIENT_TOLERANCE[number_type]
    p.expect("anchors_grad", anchors, to_anchors, tolerance, embeddings=True)
    if not p.is_self:
        p.expect("references_grad", references, to_references, tolerance, embeddings=True)


def check_normalize(library, number_type, d):
    """Rows in another order divided by their norms, and the gradient; 16 bits from fp32 too."""
    has_two = number_type in ("bf16", "fp16")
    for given_type in (number_type, "fp32")[: 1 + has_two]:
        p = SmallProblem(library, number_type, "dot", 5, 0, d)
        generator, real = np.random.default_rng(4), real_of(number_type)
        x = stored(generator.standard_normal((5, d)), given_type)
        x[3] = 0
        order = np.array([4, 2, 0, 3, 1])
        places = np.argsort(order)
        given = Normalization(
            NUMBER_TYPES.index(number_type),
            given_type == "fp32",
            library.put(x),
            library.put(order),
            library.put(places),
            5,
            d,
        )
        unit, norms = p.zero_embeddings(5), p.zeros(5)
        library.call("normalize_rows", given, unit, norms, workspace=None)
        exact = numbers(x, given_type)
        with np.errstate(divide="ignore"):
            of_rows = np.linalg.norm(exact, axis=1)
            of_rows = np.where(of_rows == 0, np.inf, of_rows)[:, None]
        y = exact / of_rows
        tolerance = {"bf16": 4e-3, "fp16": 5e-4}.get(number_type, TOLERANCE["fp32"])
        p.expect("unit rows", unit, y[order], tolerance, embeddings=True)
        p.expect("norms", norms, of_rows[order, 0], TOLERANCE["fp32"])

        grad = stored(generator.standard_normal((5, d)), number_type)
        x_grad = library.put(stored(np.full((5, d), 7.0), given_type))
        arrays = [library.put(of_rows[order, 0].astype(real)), library.put(grad), x_grad]
        library.call("normalize_rows_gradient", given, *arrays, workspace=None)
        g = numbers(grad, number_type)[places]
        expected = (g - y * (g * y).sum(axis=1, keepdims=True)) / of_rows
        tolerance = {"bf16": 4e-3, "fp16": 5e-4}.get(given_type, TOLERANCE["fp32"])
        as_given = SmallProblem(library, given_type, "dot", 5, 0, d)
        as_given.expect("x_grad", x_grad, expected, 2 * tolerance, embeddings=True)


def check_groups(library, number_type, group, num_classes, size):
    p = SmallGroups(library, number_type, group, 9, num_classes, size, 20)
    statistics, sweep = p.zeros(2, 9), sweep_options()
    outputs = StatisticsOutputs(statistics, None, None, None)
    library.call("pair_statistics", p.struct, RowHead(), outputs, sweep, workspace=[sweep])
    exact = p.statistics()
    p.expect("statistics", statistics, exact, TOLERANCE[number_type])
    real, num_vectors = real_of(number_type), num_classes * size
    grad = np.random.default_rng(1).standard_normal((2, 9)).astype(real)
    anchors, vectors = p.zero_embeddings(9), p.zero_embeddings(num_vectors)
    logit_grad = p.zeros(4, dtype=np.float64)
    outputs, options = GradientOutputs(anchors, vectors, logit_grad), gradient_options("auto")
    arguments = [library.put(exact.astype(real)), library.put(grad), outputs, options]
    library.call("pair_gradient", p.struct, *arguments, workspace=[outputs, options])
    to_anchors, to_vectors, to_logit = p.gradients(exact, grad.astype(np.float64))
    tolerance = GRADIENT_TOLERANCE[number_type]
    p.expect("anchors_grad", anchors, to_anchors, tolerance, embeddings=True)
    p.expect("vectors_grad", vectors, to_vectors, tolerance, embeddings=True)
    p.expect("logit_grad", logit_grad, to_logit, tolerance)


class DenseThresholds:
    """Thresholds [n, count] of a problem, a random number of each row, and what is made of them.

    None lies within 0.02 of where a pair of its row is counted or not.  others: further embeddings
    of the rows, as stored; share: of dL/dy, that of the anchors' own measures.
    """

    share = 1

    MARGIN, AT_LEAST, BELOW = 0.5, -0.75, 0.25

    def __init__(self, p, form, count, others=None):
        generator = np.random.default_rng(6)
        sign = -1.0 if p.measure in DISTANCES else 1.0
        self.p, self.form, self.count = p, form, count
        self.origin, self.unit = (-1.0 - sign, 0.5) if form == "pulse" else (0.0, sign / 2)
        self.y = (p.dense.x - self.origin) / self.unit
        if others is not None:  # of two embeddings of a row the harder counts
            second = replace(p.dense, anchors=numbers(others, p.number_type))
            of_others = (second.x - self.origin) / self.unit
            self.share = self.y > of_others
            self.y = np.maximum(self.y, of_others)
        self.values = np.full((p.n, count), 1e37)
        if form == "pulse":
            self.values[:] = np.arange(count)
        else:
            for row, y in zip(self.values, self.y, strict=True):
                number = generator.integers(count + 1)
                row[:number] = np.sort([self._apart(generator, y) for _ in range(number)])
        real = real_of(p.number_type)
        address = p.library.put(self.values.astype(real))
        bounds = self.MARGIN, self.AT_LEAST, -np.inf, self.BELOW
        self.struct = Thresholds(address, count, FORMS.index(form), self.origin, self.unit, *bounds)
        self.struct.others = p.library.put(others)

    def _apart(self, generator, y):
        while True:
            t = generator.uniform(y.min(), y.max())
            bounds = t + np.array([-self.MARGIN, self.AT_LEAST, self.BELOW])
            if np.abs(y[:, None] - bounds).min() > 0.02:
                return t

    def terms(self):
        """f, f' and the third summand, [n, m, count] each; 0 where there is no threshold."""
        u = self.y[:, :, None] - np.where(self.values < 1e36, self.values, np.inf)[:, None]
        if self.form == "pulse":
            return [np.maximum(0, 1 - np.abs(u))]
        counts = (u >= self.AT_LEAST) & (u < self.BELOW)
        if self.form == "hinge":
            v = np.where(counts, np.maximum(u + self.MARGIN, 0), 0)
            return [v, (v > 0) * 1.0, counts * 1.0]
        u = np.where(np.isfinite(u), u, -50)
        if self.form == "softplus":
            v = u + self.MARGIN
            return [counts * softplus(v), counts * sigmoid(v), counts * 1.0]
        step = sigmoid(u)
        is_real = (self.values < 1e36)[:, None]
        return [is_real * x for x in (step, step * (1 - step), u * step * (1 - step))]

    def sums(self):
        dense = self.p.dense
        if self.form == "pulse":
            kinds = dense.positive, dense.negative
            return np.stack([(self.terms()[0] * kind[:, :, None]).sum(1) for kind in kinds])
        return np.stack([(x * dense.negative[:, :, None]).sum(1) for x in self.terms()])

    def weights(self, grad):
        """dL/dx, [n, m]."""
        dense = self.p.dense
        if self.form == "pulse":
            cells = np.clip(np.floor(self.y), 0, self.count - 2).astype(int)
            slopes = (np.take_along_axis(np.diff(g, axis=1), cells, 1) for g in grad)
            kinds = dense.positive, dense.negative
            d_y = sum(np.where(kind, s, 0) for kind, s in zip(kinds, slopes, strict=True))
        else:
            g = grad[:, None] if self.form == "sigmoid" else grad[:, None, None]
            d_y = np.where(dense.negative, (g * self.terms()[1]).sum(2), 0)
        return d_y * self.share / self.unit


def check_thresholds(library, number_type, form, measure, m, count, has_others=False):
    p, others = SmallProblem(library, number_type, measure, 9, m, 16), None
    if has_others:
        others = stored(np.random.default_rng(9).standard_normal((9, 16)) / 4, number_type)
    against, sweep = DenseThresholds(p, form, count, others), sweep_options()
    exact = against.sums()
    sums = p.zeros(*exact.shape)
    library.call(
        "threshold_sums", p.struct, against.struct, sums, sweep, workspace=[against.struct, sweep]
    )
    found = p.get(sums).astype(np.float64)
    if form == "hinge":  # of each row, wherever in it
        found[0], exact[0] = (x[0].sum(1, keepdims=True) for x in (found, exact))
    p.expect("sums", library.put(found), exact, 2 * TOLERANCE[number_type])

    shape = {"sigmoid": (9, count), "pulse": (2, 9, count)}.get(form, (9,))
    grad = np.random.default_rng(7).standard_normal(shape).astype(real_of(number_type))
    to_anchors, to_references = p.dense.measure_gradients(against.weights(grad.astype(np.float64)))
    anchors = p.zero_embeddings(9)
    references = None if p.is_self else p.zero_embeddings(m)
    outputs, options = GradientOutputs(anchors, references, None), gradient_options("auto")
    largest = library.put(np.full(9, 2.0 * count, real_of(number_type)))
    arguments = [against.struct, library.put(grad), largest, outputs, options]
    library.call(
        "threshold_gradient",
        p.struct,
        *arguments,
        workspace=[against.struct, outputs, options],
    )
    tolerance = GRADIENT_TOLERANCE[number_type]
    p.expect("anchors_grad", anchors, to_anchors, tolerance, embeddings=True)
    if not p.is_self:
        p.expect("references_grad", references, to_references, tolerance, embeddings=True)
    finish = "finish_searched_sums" if form == "hinge" and count > 32 else "finish_threshold_sums"
    assert {"threshold_sweep", finish, "threshold_weights"} <= set(kernels_of(library))


def check_two_sided(library, number_type, measure, n, m):
    """Rows and columns from the same tiles; several of them in each direction."""
    p = SmallProblem(library, number_type, measure, n, m, 4)
    dense = [p.dense, p.dense.turned()]
    exact = np.concatenate([of.statistics() for of in dense], 1)
    lines, real = n + m, real_of(number_type)
    statistics, counts = p.zeros(3, lines), p.zeros(2, lines, dtype=np.int64)
    outputs, sweep = StatisticsOutputs(statistics, counts, None, None), sweep_options()
    library.call("two_sided_statistics", p.struct, outputs, sweep, workspace=[sweep])
    p.expect("statistics", statistics, exact, TOLERANCE[number_type])
    p.expect("counts", counts, np.concatenate([of.counts() for of in dense], 1), 0)
    assert kernels_of(library)[-3:] == ["pair_sweep", *["finish_statistics"] * 2]

    grad = np.random.default_rng(1).standard_normal((3, lines)).astype(real)
    anchors, references = p.zero_embeddings(n), p.zero_embeddings(m)
    logit_grad = p.zeros(4, dtype=np.float64)
    outputs = GradientOutputs(anchors, references, logit_grad)
    arguments = [library.put(exact.astype(real)), library.put(grad), outputs]
    options = gradient_options("auto")
    library.call("two_sided_gradient", p.struct, *arguments, options, workspace=[outputs, options])
    of_rows, of_columns = (
        of.logit_weights(exact[:, part], grad[:, part].astype(np.float64))
        for of, part in zip(dense, (slice(None, n), slice(n, None)), strict=True)
    )
    to_anchors, to_references, to_logit = p.dense.gradients(of_rows + of_columns.T)
    tolerance = GRADIENT_TOLERANCE[number_type]
    p.expect("anchors_grad", anchors, to_anchors, tolerance, embeddings=True)
    p.expect("references_grad", references, to_references, tolerance, embeddings=True)
    p.expect("logit_grad", logit_grad, to_logit, tolerance)


def check_extreme_pairs(library, number_type, measure, m, is_bounded):
    p = SmallProblem(library, number_type, measure, 9, m, 20, has_extent=True, exact=True)
    x, n = p.dense.x, p.n
    ends = np.array([x.min() - 1, np.median(x), np.median(x), x.max() + 1]).astype(
        real_of(number_type)
    )
    intervals = np.repeat(ends.reshape(2, 2, 1), n, 2)
    wanted = ExtremePairs((True, False), library.put(intervals) if is_bounded else None)
    measures, columns = p.zeros(2, n), p.zeros(2, n, dtype=np.int64)
    sweep = sweep_options()
    arguments = [wanted, measures, columns, sweep]
    library.call("extreme_pairs", p.struct, *arguments, workspace=[sweep])
    found, at = np.zeros((2, n)), np.zeros((2, n))
    for k, (of_kind, sign) in enumerate(((p.dense.positive, 1), (p.dense.negative, -1))):
        within = (x >= ends[2 * k]) & (x <= ends[2 * k + 1])
        pairs = of_kind & within if is_bounded else of_kind
        y = np.where(pairs, sign * x, -np.inf)
        found[k], at[k] = sign * y.max(1), np.where(pairs.any(1), y.argmax(1), -1)
    p.expect("measures", measures, found, 1e-6)
    p.expect("columns", columns, at, 0)
    assert kernels_of(library)[-2:] == ["pair_sweep", "finish_extreme_pairs"]


def check_windows(library, number_type, measure, n, m, is_measured):
    """Counted and listed; of roots none lies on a bound."""
    exact, d, width = measure != "euclidean", 20, 128
    p = SmallProblem(library, number_type, measure, n, m, d, has_extent=True, exact=True)
    x, real, splits = p.dense.x, real_of(number_type), -(-p.m // width)
    low, high = np.quantile(x, [0.2, 0.7]) if exact else np.quantile(x, [0.2, 0.7]) + 1e-3
    low, high = (np.round(np.array([low, high]) * 16) / 16).tolist() if exact else (low, high)
    ends = np.array([low, high, 0.0, low + 0.25, high + 0.25, 0.25])
    windows = PairWindows(library.put(np.repeat(ends, n).astype(real)), width)
    counts, numbers = p.zeros(2, n, splits, dtype=np.int64), np.zeros((2, n, splits))
    library.call("window_counts", p.struct, windows, counts, workspace=[])
    kinds = [of & (x >= low) & (x <= high) for of in (p.dense.positive, p.dense.negative)]
    for s in range(splits):
        numbers[:, :, s] = [of[:, s * width : (s + 1) * width].sum(1) for of in kinds]
    p.expect("counts", counts, numbers, 0)
    rows, columns = np.concatenate([np.argwhere(of) for of in kinds]).T
    size = len(rows)
    given, found = library.put(numbers.cumsum().astype(np.int64)), p.zeros(2, size, dtype=np.int64)
    measures = p.zeros(size) if is_measured else None
    of_list = WindowList(given, size, found, found + 8 * size, measures)
    library.call("window_pairs", p.struct, windows, of_list, workspace=[])
    p.expect("rows and columns", found, np.stack([rows, columns]), 0)
    if is_measured:
        p.expect("measures", measures, x[rows, columns], TOLERANCE[number_type])
    assert kernels_of(library)[-1] == "window_sweep"


def check_threshold_pairs(library, number_type, measure, m, count):
    """Of equal negatives the first column is due; of roots none lies on a threshold."""
    p = SmallProblem(library, number_type, measure, 9, m, 20, exact=True)
    y = -p.dense.x if measure in DISTANCES else p.dense.x
    generator = np.random.default_rng(8)
    thresholds = np.full((p.n, count), 1e37)
    for row, of_row in zip(thresholds, y, strict=True):
        number = generator.integers(count + 1)
        row[:number] = np.sort(generator.choice(of_row, number))
    if measure == "euclidean":
        thresholds[thresholds < 1e36] += 1e-3
    columns = p.zeros(p.n, count, dtype=np.int64)
    sweep = sweep_options()
    given = library.put(thresholds.astype(real_of(number_type))), count, columns, sweep
    library.call("threshold_pairs", p.struct, *given, workspace=[count, sweep])
    below = p.dense.negative[:, None] & (y[:, None] < thresholds[:, :, None])
    below &= (thresholds < 1e36)[:, :, None]
    easier = np.where(below, y[:, None], -np.inf)
    p.expect("columns", columns, np.where(below.any(2), easier.argmax(2), -1), 0)
    assert kernels_of(library)[-2:] == ["threshold_pairs", "finish_threshold_pairs"]


def pair_term(kind, value, slope, **numbers):
    """(is_positive, PairTerm, value and slope as functions of z, whether z counts)."""
    floor, ceiling = numbers.setdefault("floor", -np.inf), numbers.setdefault("ceiling", np.inf)
    return kind, PairTerm(**numbers), value, slope, lambda z: (z > floor) & (z < ceiling)


TERMS = [
    pair_term(False, lambda z: z, lambda z: 1 + 0 * z, linear=1, floor=0),
    pair_term(True, softplus, sigmoid, is_softplus=True),
    pair_term(
        False,
        lambda z: np.exp(z / 2) * (z * z + 1),
        lambda z: np.exp(z / 2) * (z * z / 2 + 0.5 + 2 * z),
        exponent=0.5,
        square=1,
        constant=1,
        ceiling=0.75,
    ),
]


def check_sums(library, number_type, measure, m, both_sides):
    p = SmallProblem(library, number_type, measure, 9, m, 20, has_extent=True, exact=True)
    real, sides = real_of(number_type), 2 if both_sides else 1
    lines = 9 + (m if both_sides else 0)
    generator = np.random.default_rng(4)
    shifts = (generator.integers(-8, 9, (2, lines)) / 8).astype(real)
    grad = generator.standard_normal((len(TERMS), lines)).astype(real)
    sums = PairSums(num_terms=len(TERMS), both_sides=both_sides, shifts=library.put(shifts))
    for k, (kind, term, *_) in enumerate(TERMS):
        sums.terms[k], sums.is_positive[k] = term, kind
    F, D, C, numbers = (np.zeros((k, lines)) for k in (*[len(TERMS)] * 3, 2))
    d_z = np.zeros_like(p.dense.z)
    for k, (kind, _, value, slope, counts) in enumerate(TERMS):
        pairs = p.dense.positive if kind else p.dense.negative
        for axis, of in zip((1, 0), (slice(0, 9), slice(9, None))[:sides], strict=False):
            z = p.dense.z + np.expand_dims(shifts[0 if kind else 1, of], axis)
            active = pairs & counts(z)
            F[k, of] = np.where(active, value(z), 0).sum(axis)
            D[k, of] = np.where(active, slope(z), 0).sum(axis)
            C[k, of], numbers[0 if kind else 1, of] = active.sum(axis), pairs.sum(axis)
            d_z += np.where(active, slope(z) * np.expand_dims(grad[k, of], axis), 0)
    values, slopes = p.zeros(len(TERMS), lines), p.zeros(len(TERMS), lines)
    counted, num_pairs = (p.zeros(k, lines, dtype=np.int64) for k in (len(TERMS), 2))
    outputs, sweep = PairSumsOutputs(values, slopes, counted, num_pairs), sweep_options()
    library.call("pair_sums", p.struct, sums, outputs, sweep, workspace=[sums, sweep])
    tolerance = TOLERANCE[real_name := "fp64" if number_type == "fp64" else "fp32"]
    for what, address, expected in (("F", values, F), ("D", slopes, D)):
        p.expect(what, address, expected, tolerance)
    p.expect("C", counted, C, 0)
    p.expect("numbers", num_pairs, numbers, 0)

    anchors, logit_grad = p.zero_embeddings(9), p.zeros(4, dtype=np.float64)
    references = None if p.is_self else p.zero_embeddings(m)
    outputs, shifts_grad = GradientOutputs(anchors, references, logit_grad), p.zeros(2, lines)
    options = gradient_options("auto")
    arguments = [sums, slopes, library.put(grad), outputs, shifts_grad, options]
    library.call("pair_sums_gradient", p.struct, *arguments, workspace=[sums, outputs, options])
    to_anchors, to_references, to_logit = p.dense.gradients(d_z)
    rounding = GRADIENT_TOLERANCE[number_type]
    p.expect("anchors_grad", anchors, to_anchors, rounding, embeddings=True)
    if not p.is_self:
        p.expect("references_grad", references, to_references, rounding, embeddings=True)
    p.expect("logit_grad", logit_grad, to_logit, rounding)
    of_kinds = [[k for k, term in enumerate(TERMS) if term[0] == kind] for kind in (True, False)]
    of_shifts = np.stack([(grad[of] * D[of]).sum(0) for of in of_kinds])
    p.expect("shifts_grad", shifts_grad, of_shifts, 4 * TOLERANCE[real_name])


def check_divergences(library, number_type, n, d, width, has_labels, grid_blocks=0):
    """Of a second matrix `width` wide; the gradients of both, and of the logits' numbers.

    grid_blocks 1: the symmetric sweep of a self problem, whose forward alone is interpreted.
    """
    p = SmallProblem(library, number_type, "dot", n, 0, d)
    generator, real = np.random.default_rng(3), real_of(number_type)
    t = stored(generator.standard_normal((n, width)) / np.sqrt(width), number_type)
    both = p.dense.anchors, numbers(t, number_type)
    scale, *shifts, equal = logit = (3.0, -0.25, 0.5, 1.25)
    labels = p.dense.anchor_labels
    same = (labels[:, None] == labels) & has_labels
    p.struct.logit, p.struct.exclude_diagonal = (c.c_double * 4)(*logit), False
    if not has_labels:
        p.struct.anchor_labels = None
    x, y = (
        scale * np.where(same, equal, a @ a.T + shift)
        for a, shift in zip(both, shifts, strict=True)
    )
    exact = np.log(np.exp(np.stack([x, y])).sum(2))
    log_p, log_q = x - exact[0][:, None], y - exact[1][:, None]
    divergences = (np.exp(log_q) * (log_q - log_p)).sum(1)
    second, sweep = SecondProduct(library.put(t), width), sweep_options(grid_blocks)
    losses, log_sums = p.zeros(n), p.zeros(2, n)
    arguments = [second, losses, log_sums, sweep]
    library.call("row_divergences", p.struct, *arguments, workspace=[second, sweep])
    p.expect("losses", losses, divergences, TOLERANCE[number_type])
    p.expect("log_sums", log_sums, exact, TOLERANCE[number_type])
    assert kernels_of(library)[-2:] == ["pair_sweep", "finish_divergences"]
    if grid_blocks > 0:
        assert library.blocks[-2] == 6  # of three tiles, half of their pairs
        return  # the weights see no more than a tile

    grad = generator.standard_normal(n).astype(real)
    d_x = grad[:, None] * (np.exp(log_p) - np.exp(log_q))
    d_y = grad[:, None] * np.exp(log_q) * (log_q - log_p - divergences[:, None])
    anchors, logit_grad = p.zero_embeddings(n), p.zeros(4, dtype=np.float64)
    others = library.put(stored(np.full((n, width), 7.0), number_type))
    outputs, options = GradientOutputs(anchors, others, logit_grad), gradient_options("auto")
    saved = [library.put(values.astype(real)) for values in (divergences, exact, grad)]
    arguments = [second, *saved, outputs, options]
    library.call(
        "row_divergences_gradient", p.struct, *arguments, workspace=[second, outputs, options]
    )
    tolerance = GRADIENT_TOLERANCE[number_type]
    for address, a, d_z in zip((anchors, others), both, (d_x, d_y), strict=True):
        weights = np.where(same, 0, scale * d_z)
        p.expect("gradient", address, (weights + weights.T) @ a, tolerance, embeddings=True)
    of_pairs = [np.where(same, 0, scale * d_z).sum() for d_z in (d_x, d_y)]
    of_equal = np.where(same, scale * (d_x + d_y), 0).sum()
    of_scale = ((d_x * x + d_y * y) / scale).sum()
    p.expect("logit_grad", logit_grad, np.array([of_scale, *of_pairs, of_equal]), tolerance)


# Cases that alone launch some kernel, by every number type.
CASES_OF_EVERY_TYPE = [
    (check_extrema, "squared_euclidean"),
    (check_gradient, "rows", "dot", 0, 72, False),
    (check_gradient, "rows", "euclidean", 0, 72, False),
    (check_gradient, "rows", "circle", 0, 72, False),
    (check_gradient, "panel", "circle", 6, 20, True),
    (check_statistics, "dot", 0, False, False, "small"),
    (check_statistics, "euclidean", 6, True, True, "small"),
    (check_statistics, "circle", 6, True, False, "small"),
    (check_extrema, "dot", "small"),
    (check_extrema, "squared_euclidean", "small"),
    (check_gradient, "panel", "euclidean", 6, 20, True, "small"),
    (check_gradient, "panel", "circle", 6, 20, True, "small"),
    (check_thresholds, "hinge", "euclidean", 0, 33),
    (check_divergences, 9, 20, 72, True),
    (check_divided_columns,),
    (check_positive_pairs, "softplus_gap", "dot", 6),
    (check_positive_pairs, "softplus_gap", "angular_margin", 0),
    (check_positive_pairs, "squared_hinge", "euclidean", 0),
]
# The others, by every second number type in turn: one of 16 bits and one of 32, which differ in
# their products alone.  Cases of the same kernels follow one another.  The symmetric sweep is of
# one measure: what it does with columns does not depend on the measure.
CASES = [
    (check_statistics, "dot", 0, False, False),
    (check_statistics, "dot", 6, True, False),
    (check_statistics, "euclidean", 6, True, True),
    (check_statistics, "circle", 6, True, False),
    (check_symmetric_sweep, "dot"),
    (check_extrema, "dot"),
    (check_gradient, "rows", "euclidean", 6, 20, True),
    (check_gradient, "panel", "dot", 0, 72, False),
    (check_gradient, "rows", "angular_margin", 6, 20, True),
    (check_gradient, "panel", "euclidean", 6, 20, True),
    *((check_plain_tile, r, "angular_margin") for r in ("rows", "panel")),
    *((check_plain_tile, r, m) for r in ("rows", "panel") for m in ("dot", "euclidean")),
    (check_gradient, "panel", "dot", 0, 72, False, "small"),
    (check_plain_tile, "panel", "dot", "small"),
    (check_groups, "maximum", 5, 3),
    (check_groups, "soft_maximum", 7, 10),
    (check_thresholds, "hinge", "dot", 6, 3),
    (check_thresholds, "softplus", "euclidean", 6, 3),
    (check_thresholds, "pulse", "squared_euclidean", 0, 5),
    (check_thresholds, "sigmoid", "dot", 0, 3),
    (check_thresholds, "hinge", "dot", 70, 1, True),
    (check_thresholds, "softplus", "euclidean", 6, 3, True),
    (check_two_sided, "dot", 130, 20),
    (check_extreme_pairs, "dot", 0, True),
    (check_extreme_pairs, "euclidean", 6, False),
    (check_windows, "dot", 9, 0, True),
    (check_windows, "euclidean", 7, 135, False),
    (check_threshold_pairs, "dot", 0, 40),
    (check_threshold_pairs, "euclidean", 135, 3),
    (check_sums, "dot", 0, False),
    (check_sums, "squared_euclidean", 6, True),
    (check_divergences, 130, 4, 7, False, 1),
    (check_sets, "rows", 11, 7),
    (check_sets, "panel", 0),
    (check_halved_panels,),
    (check_listed_pairs, "dot", 0, 72),
    (check_listed_pairs, "euclidean", 6, 13),
    (check_listed_pairs, "squared_euclidean", 6, 16),
    (check_normalize, 13),
    (check_normalize, 160),
]
ONE_TYPE_CASES = [("bf16", check_many_columns), ("fp16", check_many_rows)]


def name_of(case):
    check, *arguments = case
    return "-".join([check.__name__.removeprefix("check_"), *map(str, arguments)])


def cases_of(number_type):
    """What is interpreted of a number type, whose kernels are all among it."""
    return CASES_OF_EVERY_TYPE + CASES[NUMBER_TYPES.index(number_type) % 2 :: 2]


@pytest.mark.parametrize(
    ("kernels", "case"),
    [
        pytest.param(number_type, case, id=f"{number_type}-{name_of(case)}")
        for number_type in NUMBER_TYPES
        for case in cases_of(number_type)
    ],
    indirect=["kernels"],
)
def test_kernels(library, kernels, case):
    check, *arguments = case
    check(library, kernels[0], *arguments)


@pytest.mark.parametrize(("kernels", "check"), ONE_TYPE_CASES, indirect=["kernels"])
def test_kernels_of_one_number_type(library, kernels, check):
    check(library, kernels[0])


@pytest.mark.parametrize("number_type", NUMBER_TYPES)
def test_every_kernel_is_interpreted(host, number_type, monkeypatch):
    for problem in (SmallProblem, SmallGroups):
        monkeypatch.setattr(problem, "expect", lambda *_, **__: None)
    interpreted = set()
    of_type = [(check,) for only, check in ONE_TYPE_CASES if only == number_type]
    for check, *arguments in cases_of(number_type) + of_type:
        host.start(NoExecution())
        check(host, number_type, *arguments)
        interpreted |= {short_name(name) for name, _, _ in host.launched}
    host.module = None
    assert interpreted == {kernel for its_type, kernel in read_table() if its_type == number_type}
