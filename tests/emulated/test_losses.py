"""Every loss by the emulated kernels, in every number type, against the dense formula."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from benchmarks.cases import Case
from fusedml.distances import DotProductSimilarity, LpDistance
from fusedml.engine import threshold_rows
from fusedml.engine.pairs import PairProblem
from fusedml.engine.routes import swapped_triplets
from fusedml.engine.triplet_lists import nearest_semihard
from fusedml.functional import multi_similarity_loss
from fusedml.losses import (
    DISTILLATION_LOSSES,
    LOSSES,
    SimilarityDistillationLoss,
    SoftTripleLoss,
    TripletMarginLoss,
)
from fusedml.reducers import MeanReducer
from tests.loss_accuracy import check_distillation, check_loss
from tests.losses.made import PAIR_LOSSES
from tests.number_types import NUMBER_TYPES, all_number_types
from tests.problems import assert_close

# (route, d, rounding of the tensor cores).  The batch has two tiles of 128 rows, the second of
# three.  d = 40 and 72 take the two kernels of route A, and their last slice is ragged; d = 140 is
# beyond it.  Both roundings meet both routes.
RUNS = [
    ("rows", 40, "nearest"),
    ("rows", 72, "truncate"),
    ("panel", 40, "truncate"),
    ("panel", 140, "nearest"),
]
# float64 has neither route A nor tensor cores that round
RUNS_OF = {name: RUNS[2 * (name == "float64") :] for name in NUMBER_TYPES}


def pairs_of_settings() -> Iterator[tuple[object, ...]]:
    """Each loss in each number type, and each number type in each run, but not all three."""
    for i, name in enumerate(LOSSES):
        for k, (number_type, runs) in enumerate(RUNS_OF.items()):
            yield name, number_type, *runs[(i + k) % len(runs)]


def test_every_run_meets_every_number_type() -> None:
    met = {(number_type, *run) for _, number_type, *run in pairs_of_settings()}
    assert met == {(name, *run) for name, runs in RUNS_OF.items() for run in runs}


@pytest.mark.parametrize(
    "name, number_type, route, d, mma_rounding",
    list(pairs_of_settings()),
    indirect=["route", "mma_rounding"],
)
def test_value_and_gradients(emulated, name, number_type, route, d, mma_rounding):
    case = Case(name, 131, d, num_classes=40, dtype="float64")
    check_loss(case, NUMBER_TYPES[number_type], "emulated")


@all_number_types
@pytest.mark.parametrize("name", DISTILLATION_LOSSES)
def test_losses_with_a_teacher(emulated, name, number_type):
    check_distillation(name, 131, number_type, "emulated")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_teacher_of_another_dtype(emulated, dtype):
    """No kernel reads two types: both are measured in that of the batch's sums."""
    generator = torch.Generator().manual_seed(0)
    x, t = (torch.randn(70, d, generator=generator, dtype=torch.float64) for d in (9, 20))
    x, t, temperature = x.to(dtype).requires_grad_(), t.half().requires_grad_(), 0.1
    of_sums = [y.detach().float().requires_grad_() for y in (x, t)]
    results = []
    for given in ([x, t], of_sums):
        loss = SimilarityDistillationLoss(temperature, False, backend="emulated")(*given)
        results.append([loss, *torch.autograd.grad(loss, given)])
    for ours, exact, given in zip(*results, (x, x, t), strict=True):
        assert ours.dtype == given.dtype
        # their unit rows are rounded, and the gradients
        assert (ours - exact).abs().max() <= 2**-6 * exact.abs().max()


@all_number_types
@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_index_tuples(emulated, name, number_type):
    case = Case(name, 41, 72, num_classes=12, dtype="float64")
    check_loss(case, number_type, "emulated", listed=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_gamma_that_learns(emulated, dtype):
    """By the kernels; in 16 bits by PyTorch, as those take no rows of another type than vectors."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(40, 16, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(8, (40,), generator=generator)
    results = []
    for backend, of in (("emulated", embeddings), ("dense", embeddings.double())):
        gamma = torch.nn.Parameter(torch.tensor(0.2, dtype=torch.float64))
        loss = SoftTripleLoss(8, 16, centers_per_class=5, gamma=gamma, backend=backend)
        with torch.no_grad():
            loss.fc.copy_(torch.randn(16, 40, generator=torch.Generator().manual_seed(1)))
        value = loss(of, labels)
        results.append((value, *torch.autograd.grad(value, [gamma, loss.fc])))
    tolerance = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 3e-2}[dtype]
    for ours, exact in zip(*results, strict=True):
        assert (ours.double() - exact).abs().max() <= tolerance * exact.abs().max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
# classes of a few rows and of many, and one class, which has no negatives; strips of one row, of
# some and of all
@pytest.mark.parametrize(
    "n, m, num_classes, elements",
    [(60, None, 12, 200), (30, 40, 3, 1), (90, None, 2, 1 << 22), (9, 5, 1, 20)],
)
@pytest.mark.parametrize("is_dot", [True, False])
def test_semihard_triplets(emulated, monkeypatch, is_dot, n, m, num_classes, elements, dtype):
    """The kernels list what strips of rows do, in their order; ties where products are exact."""
    monkeypatch.setattr(threshold_rows, "STRIP_ELEMENTS", elements)
    generator = torch.Generator().manual_seed(n)

    def side(rows):
        shape = rows, 4
        x = torch.randint(-2, 3, shape, generator=generator).double()
        x = x if is_dot else torch.randn(shape, generator=generator).double()
        return x.to(dtype), torch.randint(num_classes, (rows,), generator=generator)

    (x, labels), (others, of_others) = side(n), side(m or n)
    labels[0] = 99  # a row without positives
    sides = (x, None, labels, None) if m is None else (x, others, labels, of_others)
    problem = PairProblem(*sides, exclude_diagonal=m is None)
    kind = DotProductSimilarity if is_dot else LpDistance
    found, expected = (
        nearest_semihard(problem, kind(normalize_embeddings=False), "", backend)
        for backend in ("emulated", "torch")
    )
    assert (len(expected.positive_rows) > 0) == (num_classes > 1)
    for ours, exact in zip(found, expected, strict=True):
        assert torch.equal(ours, exact)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
# few classes and many, single rows, references, and one class, without a triplet
@pytest.mark.parametrize(
    "n, m, num_classes, smooth_loss",
    [(60, None, 12, False), (70, 40, 3, True), (60, None, 2, True), (9, 5, 1, False)],
)
def test_triplets_of_the_harder(emulated, monkeypatch, n, m, num_classes, smooth_loss, dtype):
    """Each positive pair is a row of two embeddings; strips of whole rows, and of broken ones."""
    monkeypatch.setattr(swapped_triplets, "_GATHERED", 6 * 40)
    monkeypatch.setattr(swapped_triplets, "LISTED_PAIRS", 300)
    generator = torch.Generator().manual_seed(n)

    def side(rows):
        # whole numbers, whose products are exact: either measure is the harder, or neither is
        x = torch.randint(-3, 4, (rows, 6), generator=generator).double()
        return x, torch.randint(num_classes, (rows,), generator=generator)

    given = [side(n)] if m is None else [side(n), side(m)]
    given[0][1][0] = 99  # a row without positives
    margin = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    distance, results = DotProductSimilarity(normalize_embeddings=False), []
    for backend, of in (("emulated", dtype), ("dense", torch.float64)):
        loss = TripletMarginLoss(margin, True, smooth_loss, distance=distance, backend=backend)
        sides = [x.to(of, copy=True).requires_grad_() for x, _ in given]
        others = () if m is None else (None, sides[1], given[1][1])
        value = loss(sides[0], given[0][1], *others)
        options = {"allow_unused": True, "materialize_grads": True}
        results.append((value, *torch.autograd.grad(value, [*sides, margin], **options)))
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    for ours, exact in zip(*results, strict=True):
        assert (exact.abs().max() > 0) == (num_classes > 1)
        assert (ours.double() - exact).abs().max() <= tolerance * exact.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_harder_are_as_accurate_as_their_list(emulated, monkeypatch, dtype):
    """By the project's rule, with the gradients of several strips added up."""
    monkeypatch.setattr(swapped_triplets, "_GATHERED", 40 * 64)
    generator = torch.Generator().manual_seed(1)
    x, labels = torch.randn(120, 40, generator=generator).to(dtype), torch.arange(120) // 4
    found = []
    for backend, of in (("emulated", x), ("dense", x.double()), ("dense", x)):
        loss = TripletMarginLoss(0.3, swap=True, backend=backend, reducer=MeanReducer())
        embeddings = of.clone().requires_grad_()
        value = loss(embeddings, labels)
        found.append((value, *torch.autograd.grad(value, embeddings)))
    floor = 1e-6 if dtype == torch.float32 else 2**-7
    for ours, exact, plain in zip(*found, strict=True):
        assert_close(ours, exact, plain, floor, "value or gradient")


def test_triplets_of_the_harder_by_distance(emulated):
    """Of unit rows, which are among the references; a NaN reaches the loss."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 6, generator=generator).double()
    labels, results = torch.randint(9, (60,), generator=generator), []
    for backend in ("emulated", "dense"):
        loss = TripletMarginLoss(0.2, swap=True, mining="semihard", backend=backend)
        anchors, references = (rows.clone().requires_grad_() for rows in (x[20:50], x))
        value = loss(anchors, labels[20:50], None, references, labels, self_offset=20)
        grads = torch.autograd.grad(value, [anchors, references], create_graph=True)
        results.append((value, *grads))
    torch.testing.assert_close(*results)
    with pytest.raises(RuntimeError, match="differentiate"):
        results[0][1].sum().backward()
    x[3, 2] = math.nan
    assert TripletMarginLoss(swap=True, backend="emulated")(x, labels).isnan()


def test_semihard_triplets_by_loss(emulated):
    """Values and gradients in float32, with the rows among the references."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 6, generator=generator).double()
    labels, results = torch.randint(9, (60,), generator=generator), []
    for backend, of in (("emulated", x.float()), ("dense", x)):
        loss = TripletMarginLoss(
            2.0,
            mining="nearest_semihard",
            distance=LpDistance(normalize_embeddings=False),
            backend=backend,
        )
        anchors, references = (rows.clone().requires_grad_() for rows in (of[20:50], of))
        value = loss(anchors, labels[20:50], None, references, labels, self_offset=20)
        results.append((value, *torch.autograd.grad(value, [anchors, references])))
    for ours, exact in zip(*results, strict=True):
        assert exact.abs().max() > 0
        assert (ours.double() - exact).abs().max() <= 1e-5 * exact.abs().max()


def test_mining(emulated, route):
    # in float64 only: elsewhere rounding may move a pair across its row's threshold
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(70, 20, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(8, (70,), generator=generator)
    ours, exact = (
        (loss.detach(), *torch.autograd.grad(loss, embeddings))
        for loss in (
            multi_similarity_loss(embeddings, labels, mining_epsilon=0.1, backend=backend)
            for backend in ("emulated", "torch")
        )
    )
    for actual, expected in zip(ours, exact, strict=True):
        assert (actual - expected).abs().max() <= 1e-11 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mining", [None, "semihard", "hard"])
# two classes: each row has more positives than are compared one by one
@pytest.mark.parametrize("n, num_classes", [(90, 2), (60, 12)])
def test_triplets_on_the_bounds_of_their_window(emulated, n, num_classes, mining, dtype):
    """Whole numbers, whose products are exact in every number type: many pairs lie on a bound."""
    generator = torch.Generator().manual_seed(n)
    x = torch.randint(-3, 4, (n, 6), generator=generator, dtype=torch.float64)
    labels = torch.randint(num_classes, (n,), generator=generator)
    distance, results = DotProductSimilarity(normalize_embeddings=False), []
    for backend, of in (("emulated", x.to(dtype)), ("dense", x)):
        loss = TripletMarginLoss(margin=2.0, mining=mining, distance=distance, backend=backend)
        embeddings = of.clone().requires_grad_()
        value = loss(embeddings, labels)
        results.append((value, *torch.autograd.grad(value, embeddings)))
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    for ours, exact in zip(*results, strict=True):
        assert exact.abs().max() > 0
        assert (ours.double() - exact).abs().max() <= tolerance * exact.abs().max()
