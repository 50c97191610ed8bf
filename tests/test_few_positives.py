"""Two operands with few positives: exponentials in a matrix, as far as it fits, and a list."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fusedml import dense
from fusedml.engine import autograd, few_matrix, few_positives, kept, ops
from fusedml.engine.pairs import PairProblem, measure_matrix
from fusedml.heads import PAIR_FORMS, ROW_FORMS
from tests.problems import (
    assert_close,
    dense_statistics,
    in_dtype,
    inputs_of,
    make_problem,
    weighted_sum,
)

LOGIT = torch.tensor([-2.0, 1.0, 8.0, -4.0], dtype=torch.float64)
SHAPES = [(1, 1), (20, 6), (6, 20), (250, 240), (300, 310)]
WAYS = ["kept", "strips", "strips, some kept", "strips, none kept"]


@pytest.fixture(autouse=True)
def small_problems_too(monkeypatch):
    monkeypatch.setattr(few_positives, "LEAST_PAIRS", 0)


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """All at once; in strips of rows; strips of which some, or all, are computed again."""
    if request.param != "kept":
        monkeypatch.setattr(few_positives, "LEAST_ROWS", 1)
        monkeypatch.setattr(few_positives, "STRIP_ELEMENTS", 1000)
    if request.param.endswith("some kept"):
        monkeypatch.setattr(few_matrix.FewPositives, "_num_kept", some_kept)
    if request.param.endswith("none kept"):
        monkeypatch.setattr(kept, "MOST_BYTES", 0)
    return request.param


def some_kept(few) -> int:
    return few.n // 2


@pytest.fixture
def evaluations(monkeypatch):
    """Whether each operator that was to list its positives could serve."""
    seen = []
    original = few_matrix.FewPositives.load

    def load(self):
        seen.append(original(self))
        return seen[-1]

    monkeypatch.setattr(few_matrix.FewPositives, "load", load)
    return seen


def few_problem(n, m, num_classes, **options):
    # as many classes as lines, so that a row has no positive, one, or several
    return make_problem(n, m, num_classes, requires_grad=True, **options)


def compare(ours, exact, inputs):
    torch.testing.assert_close(ours, exact)
    torch.testing.assert_close(
        torch.autograd.grad(ours, inputs),
        torch.autograd.grad(exact, inputs, retain_graph=True),
    )


@pytest.mark.parametrize("n, m", SHAPES)
@pytest.mark.parametrize("exclude_diagonal", [False, True])
@pytest.mark.parametrize("scale", [1.0, 60.0], ids=["small logits", "large"])
def test_statistics(n, m, exclude_diagonal, scale, way, evaluations):
    problem = few_problem(n, m, 100, exclude_diagonal=exclude_diagonal)
    logit = (LOGIT * scale).requires_grad_()
    weights = torch.linspace(-1, 2, 3 * n, dtype=torch.float64).view(3, n)
    row = autograd.pair_statistics(problem, logit)
    expected = dense_statistics(problem, logit)
    assert evaluations == [bool(expected.num_negative.all())]
    torch.testing.assert_close(list(row), list(expected), check_dtype=False)
    inputs = [*inputs_of(problem), logit]
    compare(weighted_sum(row, weights), weighted_sum(expected, weights), inputs)


@pytest.mark.parametrize("needed", [0, 1, 2])
def test_single_gradients(needed):
    problem = make_problem(20, 30, 20)
    operands = [*inputs_of(problem), LOGIT.clone()]
    operands[needed].requires_grad_()
    problem = problem._replace(anchors=operands[0], references=operands[1])
    ours = autograd.pair_statistics(problem, operands[2]).lse_negative.sum()
    exact = dense_statistics(problem, operands[2]).lse_negative.sum()
    compare(ours, exact, operands[needed])


@pytest.mark.parametrize("n, m", SHAPES)
@pytest.mark.parametrize("head", ROW_FORMS)
def test_row_losses_of_both_sides(n, m, head, way, evaluations):
    problem = few_problem(n, m, 60)
    parameters = torch.tensor([2.0, 5.0]).double()
    turned = problem._replace(
        anchors=problem.references,
        references=problem.anchors,
        anchor_labels=problem.reference_labels,
        reference_labels=problem.anchor_labels,
    )
    exact = [
        ROW_FORMS[head](dense_statistics(side, LOGIT), parameters).value
        for side in (problem, turned)
    ]
    one = autograd.row_losses(problem, LOGIT, head, parameters)
    both = autograd.two_sided_losses(problem, LOGIT, head, parameters)
    statistics = autograd.two_sided_statistics(problem, LOGIT)
    assert evaluations == [bool(statistics[0].num_negative.all())] * 3
    for ours in (both, [ROW_FORMS[head](side, parameters).value for side in statistics]):
        torch.testing.assert_close(list(ours), exact)
    inputs = inputs_of(problem)
    compare(one.sin().sum(), exact[0].sin().sum(), inputs)
    compare(both[0].sum() + both[1].cos().sum(), exact[0].sum() + exact[1].cos().sum(), inputs)


@pytest.mark.parametrize("n, m", SHAPES)
@pytest.mark.parametrize("head", ["softplus_gap", "squared_hinge"])
def test_losses_of_positive_pairs(n, m, head, way, evaluations):
    problem = few_problem(n, m, 60)
    reference_lse = torch.linspace(-1, 3, m, dtype=torch.float64, requires_grad=True)
    logit = LOGIT.clone().requires_grad_()
    ours, counts = autograd.positive_pair_losses(
        problem, logit, reference_lse, head, torch.zeros(0).double()
    )
    positive, negative = dense.pair_masks(problem)
    assert evaluations == [bool(negative.any(1).all())]
    x = measure_matrix(*problem[:2], "dot")
    lse = dense_statistics(problem, logit).lse_negative
    value = PAIR_FORMS[head](x * logit[0] + logit[1], lse[:, None], reference_lse[None, :]).value
    exact = torch.where(positive, value, 0).sum(1)
    assert torch.equal(counts, positive.sum(1))
    inputs = [*inputs_of(problem), logit]
    if head == "squared_hinge":
        inputs.append(reference_lse)
    compare(ours.sum(), exact.sum(), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 20.0], ids=["small logits", "large"])
def test_accuracy_by_the_rule(dtype, scale):
    problem = few_problem(300, 310, 200, dtype=dtype)
    exact_problem = in_dtype(problem, torch.float64)
    plain_problem = in_dtype(problem, torch.float32)
    results = [
        statistics(one, LOGIT * scale).lse_negative
        for statistics, one in (
            (autograd.pair_statistics, problem),
            (dense_statistics, exact_problem),
            (dense_statistics, plain_problem),
        )
    ]
    assert_close(*results, 1e-6, "lse")
    grads = [
        torch.autograd.grad(result.sum(), inputs_of(one))
        for result, one in zip(results, (problem, exact_problem, plain_problem), strict=True)
    ]
    floor = 1e-6 if dtype == torch.float32 else 2**-8
    for ours, exact, plain in zip(*grads, strict=True):
        assert_close(ours, exact, plain, floor, "gradient")


@pytest.mark.parametrize("per_row, is_few", [(16, True), (17, False)])
@pytest.mark.parametrize("n", [10, 400])
def test_up_to_a_number_of_positives(n, per_row, is_few, evaluations):
    problem = make_problem(n, n * per_row, 1)
    labels = torch.arange(n)
    problem = problem._replace(
        anchor_labels=labels, reference_labels=labels.repeat_interleave(per_row)
    )
    autograd.pair_statistics(problem, LOGIT)
    assert evaluations == [True] * is_few


@pytest.mark.parametrize(
    "other", ["self", "euclidean", "wide", "thresholds", "empty", "compiling", "backend"]
)
def test_what_is_left_to_others(other, evaluations, monkeypatch):
    m = {"self": None, "wide": few_positives.STRIP_ELEMENTS // few_positives.LEAST_ROWS + 1}
    problem = make_problem(
        0 if other == "empty" else 9,
        m.get(other, 7),
        5,
        "euclidean" if other == "euclidean" else "dot",
        d=2,
    )
    thresholds = torch.zeros(2, 9) if other == "thresholds" else None
    backend = "auto"
    if other == "backend":
        monkeypatch.setitem(ops.BACKENDS, "other", "fusedml_torch")
        backend = "other"
    if other == "compiling":
        torch.compile(autograd.pair_statistics, backend="eager")(problem, LOGIT)
    else:
        autograd.pair_statistics(problem, LOGIT, thresholds, backend)
    assert evaluations == []


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_not_finite_is_left_to_the_operator(side, value, normalize, evaluations):
    problem = make_problem(9, 7, 5)._replace(normalize=normalize)
    problem[side][4, 1] = value
    losses = autograd.row_losses(problem, LOGIT, "cross_entropy", torch.zeros(0))
    assert evaluations == [False]
    assert losses.isnan()[4 if side == 0 else slice(None)].all()


def test_a_column_of_minus_infinity_is_not_finite(evaluations):
    problem = make_problem(9, 7, 5)
    problem.anchors[:, 1] = 1
    problem.references[4] = torch.tensor([0, -math.inf, *[0] * 7])
    problem.reference_labels[4] = 99  # nobody's positive
    row = autograd.pair_statistics(problem, LOGIT)
    assert evaluations == [False]
    assert row.lse_negative.isnan().all()


def test_the_backward_can_be_run_again_with_the_same_bits(way):
    problem = few_problem(300, 310, 200)
    loss = autograd.row_losses(problem, LOGIT, "cross_entropy", torch.zeros(0)).sum()
    first = [x.clone() for x in torch.autograd.grad(loss, inputs_of(problem), retain_graph=True)]
    second = torch.autograd.grad(loss, inputs_of(problem))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("side", [0, 1])
def test_a_change_of_an_operand_before_the_backward_raises(side):
    problem = few_problem(20, 30, 20)
    loss = autograd.pair_statistics(problem, LOGIT).lse_negative.sum()
    with torch.no_grad():
        problem[side].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("labels", ["ascending", "descending", "ascending with a repetition"])
@pytest.mark.parametrize("more", [0, 5])
@pytest.mark.parametrize("exclude_diagonal", [False, True])
def test_the_list_is_that_of_equal_labels(labels, more, exclude_diagonal):
    problem = make_problem(30, 30 + more, 1, exclude_diagonal=exclude_diagonal)
    rows = torch.arange(30) * 3
    columns = torch.arange(30 + more) * 3
    if labels == "descending":
        columns = columns.flip(0)
    if labels == "ascending with a repetition":
        columns[4] = rows[4] = columns[5]
    problem = problem._replace(anchor_labels=rows, reference_labels=columns)
    listed = few_positives.few_positives(problem)
    expected = dense.pair_masks(problem)[0].nonzero().T
    assert torch.equal(torch.stack(listed[:2]), expected)
    assert listed.per_row == torch.equal(expected[0], torch.arange(30))
    assert listed.per_column == torch.equal(expected[1], torch.arange(30 + more))


@pytest.mark.parametrize("gap, serves", [(50.0, True), (70.0, False)])
def test_columns_far_below_the_rows_are_left_to_the_operator(gap, serves, evaluations):
    anchors = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    references = torch.tensor([[gap, 0.0], [gap, 1.0], [0.0, 1.0]], requires_grad=True)
    problem = PairProblem(
        anchors, references, torch.arange(3), torch.arange(3), exclude_diagonal=False
    )
    logit = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    sides = autograd.two_sided_statistics(problem, logit)
    assert evaluations == [serves]
    expected = (anchors @ references.T)[:2, 2].logsumexp(0)
    assert sides[1].lse_negative[2].item() == pytest.approx(expected.item(), abs=1e-5)


def products_of_a_step(n: int, m: int, d: int = 16) -> float:
    """In units of one product of all pairs."""
    problem = few_problem(n, m, n, dtype=torch.float32, d=d)
    with FlopCounterMode(display=False) as counter:
        row = autograd.pair_statistics(problem, LOGIT)
        torch.autograd.grad(row.lse_negative.sum(), inputs_of(problem))
    return counter.get_total_flops() / (2 * n * m * d)


def test_what_does_not_fit_is_computed_again(monkeypatch) -> None:
    assert products_of_a_step(3000, 800) == 3
    monkeypatch.setattr(kept, "MOST_BYTES", 0)
    # strips of 2621 rows
    assert products_of_a_step(3000, 800) == 4


@pytest.mark.parametrize("n, m, d", [(4000, 3990, 2), (4100, 4100, 256), (4100, 4100, 2)])
@pytest.mark.parametrize("name", ["pair_statistics", "two_sided_statistics"])
def test_what_is_kept_and_its_scratch_fit(n, m, d, name) -> None:
    problem = few_problem(n, m, n, dtype=torch.float32, d=d)
    saved = []

    def keep(x: torch.Tensor) -> torch.Tensor:
        saved.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        getattr(autograd, name)(problem, LOGIT)
    (matrix,) = (x for x in saved if x.shape[1:] == (m,))
    scratch = 0 if len(matrix) == n else few_positives.STRIP_ELEMENTS // m
    num_bytes = 4 * m * (len(matrix) + scratch)
    # little of what does not fit is kept where products are cheap
    most = kept.MOST_BYTES if len(matrix) == n or d >= 256 else kept.MOST_BYTES // 4
    assert most * 0.99 < num_bytes <= most
    with torch.no_grad():
        assert (
            few_matrix.FewStatistics(
                problem, few_positives.few_positives(problem), LOGIT, False
            ).num_kept
            == 0
        )


@pytest.mark.parametrize(("n", "m", "is_used"), [(360, 364, False), (364, 364, True)])
def test_whole_matrices_compute_smaller_problems(n, m, is_used, monkeypatch):
    monkeypatch.undo()
    seen = []
    original = few_matrix.FewPositives.load
    monkeypatch.setattr(
        few_matrix.FewPositives, "load", lambda few: seen.append(0) or original(few)
    )
    problem = PairProblem(
        torch.randn(n, 4), torch.randn(m, 4), torch.arange(n), torch.arange(m), "dot", False
    )
    autograd.pair_statistics(problem, LOGIT)
    assert bool(seen) == is_used
