"""TripletMarginLoss: without a list what pytorch-metric-learning makes of all triplets."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from pytorch_metric_learning import distances as pml_distances
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import miners, reducers
from pytorch_metric_learning.utils import loss_and_miner_utils
from torch import Tensor

from fusedml import reducers as own_reducers
from fusedml.engine import whole
from fusedml.engine.inputs import make_batch as checked_batch
from fusedml.engine.pairs import PairProblem
from fusedml.engine.routes import swapped_triplets
from fusedml.engine.tiled import plan, thresholds, triplets
from fusedml.losses import TripletMarginLoss
from tests.losses.made import gradient, make_batch
from tests.problems import assert_close
from tests.routes.test_route_memory import LargestTensor

WINDOWS = ("all", "hard", "semihard", "easy")
# up to 8 positives are held and compared, more are searched: classes of 4 and of 20
CLASS_SIZES = (4, 20)
REDUCERS = {
    "default": None,
    "mean": reducers.MeanReducer(),
    "sum": reducers.SumReducer(),
    "low": reducers.ThresholdReducer(low=0.1),
    "high": reducers.ThresholdReducer(high=0.2),
    "both": reducers.ThresholdReducer(low=0.1, high=0.4),
}
DOT = pml_distances.DotProductSimilarity(normalize_embeddings=False)


def labels_of(n: int, size: int) -> Tensor:
    """Classes of that many, one of them cut short, and a class of its own."""
    labels = torch.arange(n) % max(1, n // size)
    labels[0] = -1
    return labels


def whole_numbers(n: int, seed: int = 0) -> Tensor:
    """Embeddings whose dot products are exact, and often equal."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-2, 3, (n, 3), generator=generator).double().requires_grad_()


@pytest.fixture(params=["whole", "tiles"])
def tiles(request, monkeypatch):
    """Small problems held whole, and in many tiles, with several strips of rows."""
    if request.param == "tiles":
        monkeypatch.setattr(whole, "MOST_PAIRS", -1)
        for module in (plan, thresholds):
            monkeypatch.setattr(module, "TILE_ROWS", 8)
            monkeypatch.setattr(module, "TILE_ELEMENTS", 128)
        monkeypatch.setattr(plan, "LEAST_ELEMENTS", 64)
        monkeypatch.setattr(thresholds, "STRIP_ELEMENTS", 100)
        monkeypatch.setattr(swapped_triplets, "STRIP_ELEMENTS", 800)
        monkeypatch.setattr(swapped_triplets, "LISTED_PAIRS", 100)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("size", CLASS_SIZES)
@pytest.mark.parametrize("mining", WINDOWS)
@pytest.mark.parametrize("reducer", REDUCERS)
@pytest.mark.parametrize("smooth", [False, True])
def test_mining_is_the_loss_on_the_miners_tuple(size, mining, reducer, smooth) -> None:
    options = {"smooth_loss": smooth, "reducer": REDUCERS[reducer]}
    labels = labels_of(45, size)
    cases = [(make_batch(45)[0], 0.3, {}), (make_batch(45)[0], 0.05, {})]
    # ties and open hinges at every bound: which comparison is strict matters
    cases += [(whole_numbers(45), margin, {"distance": DOT}) for margin in (1, 2, 0, -1)]
    for embeddings, margin, kind in cases:
        miner = miners.TripletMarginMiner(margin=margin, type_of_triplets=mining, **kind)
        mined = miner(embeddings, labels)
        theirs = pml_losses.TripletMarginLoss(margin=margin, **options, **kind)
        expected = gradient(theirs, embeddings, labels, mined)
        for backend in ("auto", "dense"):
            ours = TripletMarginLoss(
                margin=margin, mining=mining, backend=backend, **options, **kind
            )
            torch.testing.assert_close(gradient(ours, embeddings, labels), expected)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("size", CLASS_SIZES)
@pytest.mark.parametrize("arguments", [{}, {"smooth_loss": True}, {"swap": True}])
@pytest.mark.parametrize("reducer", REDUCERS)
def test_all_triplets(size, arguments, reducer) -> None:
    options = {"reducer": REDUCERS[reducer], **arguments}
    labels = labels_of(45, size)
    for embeddings, kind in ((make_batch(45)[0], {}), (whole_numbers(45), {"distance": DOT})):
        theirs, ours = (
            kind_of(margin=1, **options, **kind)
            for kind_of in (pml_losses.TripletMarginLoss, TripletMarginLoss)
        )
        expected = gradient(theirs, embeddings, labels)
        torch.testing.assert_close(gradient(ours, embeddings, labels), expected)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("size", CLASS_SIZES)
@pytest.mark.parametrize("mining", [None, *WINDOWS])
def test_references(size, mining) -> None:
    embeddings, labels = whole_numbers(40), labels_of(40, size)
    others, other_labels = whole_numbers(33, seed=1), labels_of(33, size)
    mined = None
    if mining is not None:
        miner = miners.TripletMarginMiner(margin=2, type_of_triplets=mining, distance=DOT)
        mined = miner(embeddings, labels, others, other_labels)
    results = []
    for loss, listed in (
        (TripletMarginLoss(margin=2, mining=mining, distance=DOT), None),
        (pml_losses.TripletMarginLoss(margin=2, distance=DOT), mined),
    ):
        value = loss(embeddings, labels, listed, others, other_labels)
        sides = [embeddings, others]
        grads = torch.autograd.grad(value, sides, allow_unused=True, materialize_grads=True)
        results.append((value, *grads))
    torch.testing.assert_close(*results)


def hardest(y: Tensor, labels: Tensor) -> Tensor:
    """Anchors, positives and negatives of each positive pair, one pair after the other."""
    found = []
    for i, p in itertools.product(range(len(y)), repeat=2):
        negatives = torch.where(labels != labels[i])[0].tolist()
        if i == p or labels[i] != labels[p] or not negatives:
            continue
        easier = [n for n in negatives if y[i, n] < y[i, p]]
        order = sorted(easier or negatives, key=lambda n, i=i: y[i, n].item())
        found.append((i, p, order[-1] if easier else order[0]))
    return torch.tensor(found).T


@pytest.mark.parametrize("embeddings", [make_batch(30)[0], whole_numbers(30)])
def test_listed_mining(embeddings) -> None:
    labels = labels_of(30, 4)
    y = (embeddings @ embeddings.T).detach()
    tuples = {
        "batch_hard": miners.BatchHardMiner(distance=DOT)(embeddings, labels),
        "nearest_semihard": tuple(hardest(y, labels)),
    }
    for mining, mined in tuples.items():
        ours = TripletMarginLoss(margin=1, mining=mining, distance=DOT)
        theirs = pml_losses.TripletMarginLoss(margin=1, distance=DOT)
        actual = gradient(ours, embeddings, labels)
        expected = gradient(theirs, embeddings, labels, mined)
        torch.testing.assert_close(actual[0], expected[0])
        if not torch.equal(embeddings, embeddings.round()):  # theirs picks any of equal ones
            torch.testing.assert_close(actual[1], expected[1])


@pytest.mark.usefixtures("tiles")
def test_swap_with_references_measures_among_them() -> None:
    embeddings, labels = make_batch(12)
    others, other_labels = make_batch(15, seed=1)
    to_others = torch.cdist(*(torch.nn.functional.normalize(x) for x in (embeddings, others)))
    among = torch.cdist(*(torch.nn.functional.normalize(others),) * 2)
    i, p, n = loss_and_miner_utils.get_all_triplets_indices(labels, other_labels)
    losses = torch.relu(to_others[i, p] - torch.minimum(to_others[i, n], among[p, n]) + 0.3)
    value = TripletMarginLoss(0.3, swap=True)(embeddings, labels, None, others, other_labels)
    expected = losses[losses > 0].mean()
    torch.testing.assert_close(value, expected)
    sides = [embeddings, others]
    torch.testing.assert_close(*(torch.autograd.grad(of, sides) for of in (value, expected)))


@pytest.mark.usefixtures("tiles")
@pytest.mark.filterwarnings("ignore:.*not a distance that fusedml")
@pytest.mark.parametrize("mining", [None, "semihard"])
@pytest.mark.parametrize("size", CLASS_SIZES)
def test_swap_mines_what_its_list_does(size, mining) -> None:
    labels = labels_of(40, size)
    distances = [None, DOT, pml_distances.LpDistance(p=1), pml_distances.SNRDistance()]
    for distance, reducer in itertools.product(distances, [None, reducers.MeanReducer()]):
        results = []
        for backend in ("auto", "dense"):  # the latter lists
            options = {"distance": distance, "reducer": reducer, "backend": backend}
            loss = TripletMarginLoss(0.3, swap=True, mining=mining, **options)
            # of references, too, the diagonal left out
            embeddings = whole_numbers(40) if distance is DOT else make_batch(40)[0]
            results += [gradient(loss, embeddings, labels)]
            results[-1] += gradient(loss, embeddings, labels, None, embeddings.detach(), labels)
        torch.testing.assert_close(*results)


def test_swap_adds_up_the_losses_of_each_anchor() -> None:
    embeddings, labels = make_batch(40)[0], labels_of(40, 4)
    losses = TripletMarginLoss(0.3, swap=True).losses_by_label(
        checked_batch(embeddings, labels, None, None, True)
    )
    listed, rows = losses.listed(), losses.rows()
    expected = torch.zeros(40, dtype=torch.float64).index_add(0, listed.rows, listed.losses)
    torch.testing.assert_close(rows.sums, expected)
    assert torch.equal(rows.counts, torch.bincount(listed.rows, minlength=40))
    assert expected.unique().numel() > 20


@pytest.mark.parametrize("num_classes", [1, 2, 40])
def test_swap_takes_bounded_memory(num_classes, monkeypatch) -> None:
    n, most = 120, 1 << 12
    monkeypatch.setattr(swapped_triplets, "STRIP_ELEMENTS", most)
    monkeypatch.setattr(swapped_triplets, "LISTED_PAIRS", most)
    embeddings, labels = make_batch(n)[0], torch.arange(n) % num_classes
    results = []
    for backend in ("auto", "dense"):
        loss = TripletMarginLoss(0.1, swap=True, backend=backend)
        with LargestTensor() as mode:
            results.append(gradient(loss, embeddings, labels))
        assert backend == "dense" or mode.elements <= 2 * most
    torch.testing.assert_close(*results)
    assert mode.elements > 2 * most or num_classes == 1  # there are more triplets
    assert bool(results[0][1].any()) == (num_classes > 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_swap_is_as_accurate_as_its_list(dtype) -> None:
    embeddings, labels = make_batch(120, dtype)[0], torch.arange(120) // 4
    options = {"swap": True, "reducer": reducers.MeanReducer()}
    exact = embeddings.detach().double().requires_grad_()
    runs = [("auto", embeddings), ("dense", exact), ("dense", embeddings)]
    found = [gradient(TripletMarginLoss(0.3, backend=b, **options), x, labels) for b, x in runs]
    floor = 1e-6 if dtype == torch.float32 else 2**-7
    for output, (a, e, p) in enumerate(zip(*found, strict=True)):
        assert_close(a, e, p, floor, f"output {output}")


@pytest.mark.usefixtures("whole_or_tiles")
@pytest.mark.parametrize("size", CLASS_SIZES)
@pytest.mark.parametrize("arguments", [{}, {"mining": "semihard"}, {"smooth_loss": True}])
def test_the_margin_learns(size, arguments) -> None:
    embeddings, labels = make_batch(41)[0], labels_of(41, size)
    margin = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    expected = TripletMarginLoss(margin, backend="dense", **arguments)(embeddings, labels)
    for backend in ("auto", "torch"):
        value = TripletMarginLoss(margin, backend=backend, **arguments)(embeddings, labels)
        actual = torch.autograd.grad(value, margin)
        torch.testing.assert_close(actual, torch.autograd.grad(expected, margin, retain_graph=True))


@pytest.mark.usefixtures("whole_or_tiles")
@pytest.mark.parametrize("size", [4, 8, 9, 60])  # on both sides of what is held
def test_float32_is_as_accurate_as_dense(size) -> None:
    def results(backend: str, dtype: torch.dtype) -> list[Tensor]:
        embeddings, labels = make_batch(300)[0], torch.arange(300) // size
        # far from 0: what is summed must not be the hardness itself
        embeddings = (embeddings.detach() + 4).to(dtype).requires_grad_()
        loss = TripletMarginLoss(margin=0.02, mining="semihard", backend=backend)
        # which triplets are mined must not depend on the last bit
        loss.distance = pml_distances.CosineSimilarity()
        return [x.double() for x in gradient(loss, embeddings, labels)]

    exact = results("dense", torch.float64)
    plain, ours = results("dense", torch.float32), results("auto", torch.float32)
    for output, (a, e, p) in enumerate(zip(ours, exact, plain, strict=True)):
        assert_close(a, e, p, 1e-5, f"output {output}")


@pytest.mark.parametrize("num_classes", [1, 2, 3])
def test_large_classes_take_bounded_memory(num_classes, monkeypatch) -> None:
    n = 1500
    monkeypatch.setattr(thresholds, "STRIP_ELEMENTS", 1 << 16)
    for module in (plan, thresholds):
        monkeypatch.setattr(module, "TILE_ELEMENTS", 1 << 16)
    x = torch.nn.functional.normalize(torch.randn(n, 4))
    problem = PairProblem(x, None, torch.arange(n) % num_classes, None, "euclidean")
    numbers = torch.tensor([0.2, -torch.inf, -0.2, 0.0], dtype=torch.float64)
    with LargestTensor() as mode:
        losses, counts, of_margin, met = triplets.triplet_losses(problem, numbers, "hinge")
        needs = [True, False, False]
        grad, *_ = triplets.triplet_gradient(
            problem, numbers, "hinge", of_margin, met, torch.ones(n), needs
        )
    assert mode.elements <= 2 << 16
    assert 4 * mode.elements < n * n
    leaf = x.double().requires_grad_()
    matrix = torch.cdist(leaf, leaf)
    labels = problem.anchor_labels
    total, number = 0.0, 0
    for i in range(0, n, 60):
        positive = (labels == labels[i]) & (torch.arange(n) != i)
        u = matrix[i, positive][:, None] - matrix[i, labels != labels[i]]
        assert losses[i].item() == pytest.approx(
            torch.where((u < 0) & (u > -0.2), u + 0.2, 0).sum().item(), rel=1e-4, abs=1e-4
        )
        number += int(((u < 0) & (u > -0.2)).sum())
        total += counts[i].item()
    assert total == pytest.approx(number, rel=1e-4, abs=2)
    assert grad.isfinite().all()
    assert bool(grad.any()) == (num_classes > 1)


def test_random_triplets() -> None:
    embeddings, labels = make_batch(50)[0], labels_of(50, 5)
    loss = TripletMarginLoss(triplets_per_anchor=40, reducer=own_reducers.DoNothingReducer())
    torch.manual_seed(3)
    a, p, n = loss(embeddings, labels)["loss"]["indices"]
    torch.manual_seed(3)
    again = loss(embeddings, labels)["loss"]["indices"]
    assert all(torch.equal(x, y) for x, y in zip((a, p, n), again, strict=True))
    assert (labels[a] == labels[p]).all()
    assert (labels[a] != labels[n]).all()
    assert (a != p).all()
    # an anchor without positives has none
    assert torch.equal(torch.bincount(a, minlength=50), 40 * (labels >= 0).long())
    # each of the four positives is as likely: three standard errors of 49 * 40 draws
    ranks = torch.stack([(labels[p] == labels[a]) & (p > a), p < a]).sum(1)
    assert int(ranks.sum()) == len(a)
    drawn = torch.bincount(p * 50 + a, minlength=2500).view(50, 50)
    possible = (labels[:, None] == labels) & ~torch.eye(50, dtype=torch.bool)
    share = drawn[possible] / 40 * (possible.sum(0)[None].expand(50, 50)[possible])
    assert share.mean() == pytest.approx(1, abs=1e-6)
    assert share.std() < 3 * (4 / 40) ** 0.5


def test_random_triplets_of_references() -> None:
    embeddings, labels = make_batch(12)
    others, other_labels = make_batch(30, seed=1)
    loss = TripletMarginLoss(triplets_per_anchor=7, reducer=own_reducers.DoNothingReducer())
    a, p, n = loss(embeddings, labels, None, others, other_labels)["loss"]["indices"]
    assert (labels[a] == other_labels[p]).all()
    assert (labels[a] != other_labels[n]).all()
    assert len(a) == 7 * 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mining": "hrad"}, "mining must be None or one of 'all', 'hard', .* got 'hrad'"),
        ({"triplets_per_anchor": 0}, "triplets_per_anchor must be at least 1, got 0"),
        ({"triplets_per_anchor": "some"}, "triplets_per_anchor must be .* got 'some'"),
        (
            {"triplets_per_anchor": 3, "mining": "hard"},
            "triplets_per_anchor must be \"all\" with mining='hard', got 3",
        ),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TripletMarginLoss(**arguments)


def test_a_tuple_beside_mining() -> None:
    embeddings, labels = make_batch()
    with pytest.raises(ValueError, match="indices_tuple must be None with mining='hard'"):
        TripletMarginLoss(mining="hard")(embeddings, labels, (labels, labels, labels))
