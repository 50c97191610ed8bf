"""What is the angular loss's own: rows that are sums of two embeddings, made in strips."""

from __future__ import annotations

import math

import pytest
import torch
from pytorch_metric_learning import distances as pml_distances
from pytorch_metric_learning import losses as pml_losses
from torch import Tensor
from torch.nn.functional import normalize

from fusedml import distances, reducers
from fusedml.engine import autograd, joint_classes, joint_rows, whole
from fusedml.engine.pairs import PairProblem
from fusedml.engine.routes import joint_pairs
from fusedml.engine.routes.joint_pairs import LseOfSums
from fusedml.errors import DistanceError
from fusedml.losses import AngularLoss
from tests.losses.made import DIMENSION, gradient, make_batch


def by_hand(embeddings: Tensor, labels: Tensor, degrees: float = 40) -> list[Tensor]:
    """The loss of each positive pair, pair by pair."""
    t, unit, losses = math.tan(math.radians(degrees)) ** 2, normalize(embeddings), []
    for i, p in (labels[:, None] == labels).fill_diagonal_(False).nonzero().tolist():
        others = embeddings[labels != labels[i]]
        logits = 4 * t * (others @ (unit[i] + unit[p])) - 2 * (1 + t) * (unit[i] @ unit[p])
        losses.append(torch.log(1 + torch.exp(logits).sum()))
    return losses


STRIPS = pytest.mark.parametrize("pairs", [None, 1, 7], ids=["at once", "one pair", "7 pairs"])


@pytest.fixture
def strips(pairs: int | None, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """Number of joint rows that are held at a time."""
    if pairs is not None:
        monkeypatch.setattr(joint_rows, "STRIP_ELEMENTS", pairs * DIMENSION + 1)
    return pairs


@pytest.mark.also_emulated
@pytest.mark.usefixtures("whole_or_tiles", "strips")
@STRIPS
def test_the_formula(pairs: int | None) -> None:
    embeddings, labels = make_batch()
    expected = torch.stack(by_hand(embeddings, labels, 35))
    value, grad = gradient(AngularLoss(35), embeddings, labels)
    torch.testing.assert_close(value, expected.mean().detach())
    torch.testing.assert_close(grad, torch.autograd.grad(expected.mean(), embeddings)[0])


@pytest.mark.usefixtures("whole_or_tiles", "strips")
@STRIPS
@pytest.mark.parametrize("with_references", [False, True])
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("reducer", ["SumReducer", "PerAnchorReducer", "ThresholdReducer"])
def test_strips_are_the_dense_form(
    pairs: int | None, with_references: bool, listed: bool, reducer: str
) -> None:
    embeddings, labels = make_batch(17)
    batch: list[Tensor | tuple[Tensor, ...] | None] = [labels, None]
    if listed:
        generator = torch.Generator().manual_seed(0)
        batch[1] = tuple(torch.randint(13, (31,), generator=generator) for _ in range(3))
    leaves = [embeddings]
    if with_references:
        references, reference_labels = make_batch(13, seed=1)
        leaves.append(references)
        batch += [references, reference_labels]
    make = {
        "SumReducer": reducers.SumReducer,
        "PerAnchorReducer": reducers.PerAnchorReducer,
        "ThresholdReducer": lambda: reducers.ThresholdReducer(low=0.1),
    }[reducer]
    results = []
    for backend in ("auto", "dense"):
        alpha = torch.tensor(40.0, dtype=torch.float64, requires_grad=True)
        loss = AngularLoss(alpha, reducer=make(), backend=backend)
        value = loss(embeddings, *batch)
        results.append((value, *torch.autograd.grad(value, [*leaves, alpha])))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("num_classes", [1, 2])
@pytest.mark.parametrize("m", [None, 10])
def test_products_of_rows_taken_once(num_classes: int, m: int | None) -> None:
    """Of more pairs than rows; of one class no pair has a negative."""
    x = torch.randn(12, DIMENSION, dtype=torch.float64, requires_grad=True)
    r = None if m is None else torch.randn(m, DIMENSION, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(12) % num_classes
    ref_labels = None if m is None else torch.arange(m) % num_classes
    values = []
    for backend in ("auto", "dense"):
        alpha = torch.tensor(35.0, dtype=torch.float64, requires_grad=True)
        value = AngularLoss(alpha, backend=backend)(x, labels, None, r, ref_labels)
        leaves = [leaf for leaf in (x, r, alpha) if leaf is not None]
        values.append([value, *torch.autograd.grad(value, leaves)])
    torch.testing.assert_close(*values)
    assert (values[0][0] > 0) == (num_classes > 1)


@pytest.mark.parametrize("with_references", [False, True])
@pytest.mark.parametrize("listed", [0, 6, 29])
@pytest.mark.parametrize("low", [None, 0.5])
def test_means_whose_gradient_the_forward_finds(
    with_references: bool, listed: int, low: float | None
) -> None:
    """And its derivative.  Of fewer listed pairs than rows, and of more; some are listed twice."""
    embeddings, labels = make_batch(14)
    labels, references, ref_labels = labels.clamp(max=1), None, None
    leaves = [embeddings]
    if with_references:
        references, ref_labels = make_batch(9, seed=1)
        references, ref_labels = references * 3, ref_labels.clamp(max=1) * 0 + 1
        leaves.append(references)
    indices = None
    if listed:
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(9, (3, listed - 2), generator=generator)
        indices = tuple(torch.cat([drawn, drawn[:, :2]], 1))
    reducer = reducers.MeanReducer() if low is None else reducers.ThresholdReducer(low=low)
    results = []
    for backend in ("auto", "dense"):
        loss = AngularLoss(20, reducer=reducer, backend=backend)
        value = loss(embeddings, labels, indices, references, ref_labels)
        assert ("SmallOperator" in type(value.grad_fn).__name__) == (backend == "auto")
        grads = torch.autograd.grad(value, leaves, create_graph=True)
        again = torch.autograd.grad(sum(grad.square().sum() for grad in grads), leaves)
        results.append((value, *grads, *again))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("number", [math.nan, math.inf, 3e38])
def test_means_of_what_is_not_finite(number: float) -> None:
    embeddings, labels = make_batch(14)
    x = embeddings.detach().float()
    x[3, 2] = number
    value = AngularLoss()(x, labels)
    assert not value.isfinite()
    assert value.isnan() == AngularLoss(reducer=reducers.SumReducer())(x, labels).isnan()


def test_no_more_joint_rows_are_held_than_a_strip_has(monkeypatch: pytest.MonkeyPatch) -> None:
    n, most = 300, 1000
    monkeypatch.setattr(joint_rows, "STRIP_ELEMENTS", most * DIMENSION)
    monkeypatch.setattr(joint_classes, "LEAST_PAIRS", n)
    embeddings, _ = make_batch(n)
    labels = torch.arange(n) // (n // 2)
    saved = []

    def note(x: Tensor) -> Tensor:
        saved.append(x.numel())
        return x

    sizes, strip = [], joint_rows.JointRows._strip
    monkeypatch.setattr(
        joint_rows.JointRows,
        "_strip",
        lambda self, rows, *rest: sizes.append(len(rows)) or strip(self, rows, *rest),
    )
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        value = AngularLoss()(embeddings, labels)
    value.backward()
    assert sum(sizes) == 2 * 2 * math.comb(n // 2, 2)  # forward and backward, both classes
    assert max(sizes) <= most < sum(sizes) / 40
    assert max(saved) <= n * DIMENSION and sum(saved) < n * n / 4


def test_each_pair_is_one_row_for_both_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, real = [], autograd.pair_statistics
    monkeypatch.setattr(
        autograd,
        "pair_statistics",
        lambda problem, *args, **kwargs: (
            asked.append(problem.shape[0]) or real(problem, *args, **kwargs)
        ),
    )
    monkeypatch.setattr(whole, "MOST_PAIRS", -1)
    embeddings, labels = make_batch(12)
    AngularLoss()(embeddings, labels)
    assert asked == [6]  # two samples a class


def test_joint_rows_of_few_listed_pairs_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where those of all pairs are too many for a matrix."""
    monkeypatch.setattr(whole, "MOST_PAIRS", -1)
    (x, labels), (q, q_labels) = make_batch(12), make_batch(30, seed=1)
    rows, columns = torch.where(labels[:, None] == q_labels)
    indices = rows[::2], columns[::2], rows[:1], columns[:1] + 1
    results = []
    for backend in ("auto", "dense"):
        if backend == "auto":
            monkeypatch.setattr(autograd, "pair_statistics", None)
        value = AngularLoss(backend=backend)(x, labels, indices, q, q_labels)
        results.append((value, *torch.autograd.grad(value, [x, q])))
    torch.testing.assert_close(*results)


def test_a_row_that_is_in_no_pair_is_looked_at() -> None:
    """Neither listed nor a negative: it makes the loss NaN as any other."""
    x, labels = make_batch(18)
    first, second, other = torch.tensor([[0], [6], [1]])
    assert AngularLoss()(x, labels, (first, second, first, other)).isfinite()
    x = x.detach().clone().index_fill_(0, torch.tensor([12]), math.nan).requires_grad_()
    assert AngularLoss()(x, labels, (first, second, first, other)).isnan()


def test_negatives_keep_their_lengths() -> None:
    embeddings, labels = make_batch()
    assert not torch.isclose(
        AngularLoss()(2 * embeddings, labels), AngularLoss()(embeddings, labels)
    )


def test_a_tuple_lists_the_positives_only() -> None:
    embeddings, labels = make_batch()
    i, p, j, n = (torch.tensor(x) for x in ([0, 0, 3], [6, 6, 9], [0], [1]))
    losses = dict(
        zip(
            [
                tuple(x)
                for x in (labels[:, None] == labels).fill_diagonal_(False).nonzero().tolist()
            ],
            by_hand(embeddings, labels),
            strict=True,
        )
    )
    expected = (2 * losses[0, 6] + losses[3, 9]) / 3
    torch.testing.assert_close(AngularLoss()(embeddings, labels, (i, p, j, n)), expected)
    none = torch.zeros(0, dtype=torch.int64)
    for empty in ((i, p, none, none), (none, none, j, n)):
        value, grad = gradient(AngularLoss(), embeddings, labels, empty)
        assert value == 0 and not grad.any()


@pytest.mark.parametrize("alpha", [5.0, 60.0, 80.0])
def test_wide_angles_in_float32(alpha: float) -> None:
    embeddings, labels = make_batch(60, torch.float32)
    value, grad = gradient(AngularLoss(alpha), embeddings, labels)
    exact = embeddings.detach().double().requires_grad_()
    expected, expected_grad = gradient(pml_losses.AngularLoss(alpha).double(), exact, labels)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6)
    largest = expected_grad.abs().max()
    torch.testing.assert_close(grad.double() / largest, expected_grad / largest, rtol=0, atol=1e-5)


@pytest.mark.parametrize("with_references", [False, True])
def test_average_angle(with_references: bool) -> None:
    embeddings, labels = make_batch()
    references = make_batch(13, seed=1) if with_references else ()
    ours, theirs = AngularLoss(collect_stats=True), pml_losses.AngularLoss(collect_stats=True)
    for loss in (ours, theirs):
        loss(embeddings, labels, None, *references)
    assert ours.average_angle == pytest.approx(theirs.average_angle, rel=1e-6)
    assert AngularLoss().average_angle == 0


@pytest.mark.parametrize(
    "arguments", [{"normalize_embeddings": False}, {"power": 2}, {"p": 1}], ids=str
)
def test_other_distances_are_refused(arguments: dict[str, float]) -> None:
    for package in (distances, pml_distances):
        with pytest.raises(DistanceError, match=r"must have p=2, power=1 and normalize_embed.*got"):
            AngularLoss(distance=package.LpDistance(**arguments))
        AngularLoss(distance=package.LpDistance())
    with pytest.raises(DistanceError, match="must be a LpDistance for AngularLoss, got Cosine"):
        AngularLoss(distance=distances.CosineSimilarity())


def test_references_without_labels() -> None:
    embeddings, labels = make_batch()
    one = torch.tensor([0])
    with pytest.raises(ValueError, match="ref_labels has shape"):
        AngularLoss()(embeddings, labels, (one, one, one), make_batch(13)[0])


@pytest.fixture
def classes(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each loss was that of large classes, in tiles of three rows."""
    monkeypatch.setattr(joint_rows, "STRIP_ELEMENTS", 0)
    monkeypatch.setattr(joint_classes, "LEAST_PAIRS", 0)
    monkeypatch.setattr(joint_classes, "MOST_EXPONENTIALS", 0)
    monkeypatch.setattr(joint_classes, "LEAST_ROWS", 3)
    seen, compute = [], joint_pairs.class_pair_losses

    def counting(*args: object) -> Tensor | None:
        losses = compute(*args)
        seen.append(losses is not None)
        return losses

    monkeypatch.setattr(joint_pairs, "class_pair_losses", counting)
    return seen


@pytest.mark.parametrize("num_classes", [1, 2, 3])
@pytest.mark.parametrize("m", [None, 10])
@pytest.mark.parametrize("length", [1.0, 300.0])
def test_classes_of_many_pairs(num_classes: int, m: int | None, length: float, classes) -> None:
    """Exponentials of logits that are too far apart may underflow: these have joint rows."""
    leaves = [torch.randn(k, DIMENSION).double() * length for k in (16, m or 1)]
    x, r, alpha = (leaf.requires_grad_() for leaf in (*leaves, torch.tensor(35.0).double()))
    labels, ref_labels = torch.arange(16) % num_classes, torch.arange(m or 1) % num_classes
    references = (None, r, ref_labels) if m else ()

    def of(backend: str) -> list[Tensor]:
        value = AngularLoss(alpha, backend=backend)(x, labels, *references)
        return [value, *torch.autograd.grad(value, [x, alpha, *([r] if m else [])])]

    torch.testing.assert_close(of("auto"), of("dense"))
    assert classes == [length == 1 or num_classes == 1]


def test_second_derivatives_of_classes_of_many_pairs(classes) -> None:
    x, labels = make_batch(9)
    torch.autograd.gradgradcheck(lambda x: AngularLoss()(x, labels % 2), x, fast_mode=True)
    assert all(classes)


def test_two_classes_of_thousands_of_rows() -> None:
    n, d = 4096, 16
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0), requires_grad=True)
    unit, labels, logit = normalize(x), torch.arange(n) % 2, AngularLoss().logit(1.0)
    problem = PairProblem(unit, None, labels, None)
    sums = joint_classes.class_pair_losses(problem, x, logit, "softplus_gap", n * (n // 2 - 1))
    assert sums is not None
    (grad,) = torch.autograd.grad(sums.sum(), x)
    assert grad.isfinite().all() and (grad != 0).any(1).all()
    x, unit = x.detach().double(), unit.detach().double()
    scale, _, other_scale, _ = logit.tolist()
    joint = unit[0] + unit[2::2]
    lse = torch.logsumexp(other_scale * (joint @ x[1::2].T), 1)
    expected = torch.nn.functional.softplus(lse - scale * (unit[2::2] @ unit[0])).sum()
    torch.testing.assert_close(sums[0].double(), expected, rtol=1e-6, atol=0)


def test_log_sums_of_few_products() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(9, 13, generator=generator, dtype=torch.float64) * 20
    z[:4, 2:5], z[4:, 7] = -torch.inf, -torch.inf
    z.requires_grad_()
    i, p = torch.tensor([0, 0, 3, 5, 5, 8]), torch.tensor([1, 2, 0, 6, 8, 4])

    def of_sums(z: Tensor) -> Tensor:
        return torch.logsumexp(z[i] + z[p], 1)

    found, derivatives = [], []
    for lse in (LseOfSums.apply(z, i, p), of_sums(z)):
        weights = torch.arange(1.0, 7, dtype=torch.float64)
        (grad,) = torch.autograd.grad(lse, z, weights, create_graph=True)
        found.append((lse, grad))
        derivatives.append(torch.autograd.grad(grad.square().sum(), z))
    torch.testing.assert_close(*found)
    torch.testing.assert_close(*derivatives)
    far = torch.eye(9, 13, dtype=torch.float64) * 2000  # e^-1000 e^-1000 beside 1
    assert LseOfSums.apply(far, i, p) is None
    assert LseOfSums.apply(torch.full_like(far, -torch.inf), i, p) is None
