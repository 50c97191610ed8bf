"""Means over few triplets of listed pairs, in Python: against PyTorch's, and the dense formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fusedml import reducers
from fusedml.distances import CosineSimilarity, DotProductSimilarity, LpDistance
from fusedml.engine import few_triplets
from fusedml.engine.few_triplets import number_of_triplets
from fusedml.engine.routes.distinct_pairs import PairIndices
from fusedml.engine.routes.triplets import TripletFormula
from fusedml.losses import TripletMarginLoss

# anchors with several of both kinds, with one kind alone, and a pair twice
PAIRS = (
    torch.tensor([0, 0, 3, 5, 5, 9, 0]),
    torch.tensor([4, 1, 2, 6, 7, 2, 4]),
    torch.tensor([0, 0, 5, 8, 0]),
    torch.tensor([2, 7, 6, 3, 9]),
)
TRIPLETS = (
    torch.tensor([0, 0, 3, 5, 5]),
    torch.tensor([4, 1, 2, 6, 4]),
    torch.tensor([2, 7, 6, 3, 9]),
)
REDUCERS = {
    "default": lambda: None,
    "mean": reducers.MeanReducer,
    "above": lambda: reducers.ThresholdReducer(low=0.1),
    "between": lambda: reducers.ThresholdReducer(low=-1.0, high=0.5),
    "below": lambda: reducers.ThresholdReducer(high=0.4),
    "below 0": lambda: reducers.ThresholdReducer(high=-1.0),
}


@pytest.fixture
def made(monkeypatch):
    """Grows when a mean is taken in Python."""
    found: list[str] = []
    evaluate = few_triplets.FewTriplets.evaluate
    monkeypatch.setattr(
        few_triplets.FewTriplets, "evaluate", lambda self: found.append("few") or evaluate(self)
    )
    return found


def _sides(has_references: bool, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    sides = [torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (10, 12)]
    return [x.to(dtype).requires_grad_() for x in sides[: 2 if has_references else 1]]


def _found(loss: TripletMarginLoss, sides: list[Tensor], given: tuple[Tensor, ...]) -> list[Tensor]:
    value = loss(sides[0], None, given, *sides[1:])
    return [value, *torch.autograd.grad(value, sides)]


@pytest.mark.usefixtures("gathered_or_read")
@pytest.mark.parametrize("given", [PAIRS, TRIPLETS], ids=["pairs", "triplets"])
@pytest.mark.parametrize("reducer", REDUCERS)
@pytest.mark.parametrize("has_references", [False, True])
@pytest.mark.parametrize(
    ("distance", "margin"),
    [
        (CosineSimilarity(), 0.2),
        (LpDistance(), 0.2),
        (LpDistance(power=2, normalize_embeddings=False), 1.0),
    ],
    ids=["cosine", "euclidean", "squared"],
)
def test_values_and_gradients(
    given, reducer, has_references, distance, margin, made, monkeypatch
) -> None:
    sides, found = _sides(has_references), []
    for backend, most in (("auto", few_triplets.MOST_TRIPLETS), ("auto", -1), ("dense", -1)):
        monkeypatch.setattr("fusedml.losses.tripletwise.MOST_TRIPLETS", most)
        options = {"distance": distance, "margin": margin, "reducer": REDUCERS[reducer]()}
        found.append(_found(TripletMarginLoss(backend=backend, **options), sides, given))
    assert made == ["few"]
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])
    if reducer in ("default", "mean", "above"):
        assert found[0][0] > 0 and found[0][1].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("given", [PAIRS, TRIPLETS], ids=["pairs", "triplets"])
def test_dtypes(dtype: torch.dtype, given, made) -> None:
    """By the dense formula in float64."""
    (x,) = _sides(False, dtype)
    found = _found(TripletMarginLoss(margin=0.5), [x], given)
    value = TripletMarginLoss(margin=0.5, backend="dense")(x.double(), None, given)
    assert made == ["few"] and value > 0
    eps = 4 * torch.finfo(dtype).eps
    expected = [value.to(dtype), *torch.autograd.grad(value, x)]
    torch.testing.assert_close(found, expected, atol=eps, rtol=eps)


class Windowed(TripletMarginLoss):
    """Of the triplets whose difference is in a window."""

    def formula(self) -> TripletFormula:
        return TripletFormula(0.5, at_least=-0.3, below=0.4)


def test_a_window_is_left_to_pytorch(made) -> None:
    x = _sides(False)[0]
    found, expected = (_found(Windowed(backend=b), [x], PAIRS) for b in ("auto", "dense"))
    torch.testing.assert_close(found, expected)
    assert not made and found[0] != TripletMarginLoss(0.5)(x, None, PAIRS)


def test_what_is_left_to_pytorch(made) -> None:
    x = _sides(False)[0]
    learnt = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
    for loss in (
        TripletMarginLoss(margin=learnt),
        TripletMarginLoss(smooth_loss=True),
        TripletMarginLoss(swap=True),
        TripletMarginLoss(reducer=reducers.DoNothingReducer()),
    ):
        loss(x, None, PAIRS)
    assert not made


@pytest.mark.usefixtures("gathered_or_read")
@pytest.mark.parametrize("margin", [math.inf, -math.inf, 1e300])
def test_margins_that_are_infinite_in_float32(margin: float, made, monkeypatch) -> None:
    sides, found = _sides(False, torch.float32), []
    for most in (few_triplets.MOST_TRIPLETS, -1):
        monkeypatch.setattr("fusedml.losses.tripletwise.MOST_TRIPLETS", most)
        found.append(_found(TripletMarginLoss(margin=margin), sides, PAIRS))
    assert made == ["few"]
    torch.testing.assert_close(*found, equal_nan=True)


@pytest.mark.parametrize("reducer", ["default", "mean"])
def test_a_difference_that_is_the_margin_in_float32(reducer: str, made) -> None:
    """It is no loss above 0, though no float32 number is 0.7."""
    x = torch.tensor([[1.0, 0.0], [0.7, 1.0], [0.0, 1.0]], requires_grad=True)
    given = tuple(torch.tensor([k]) for k in (0, 1, 2))
    distance = DotProductSimilarity(normalize_embeddings=False)
    loss = TripletMarginLoss(margin=0.7, distance=distance, reducer=REDUCERS[reducer]())
    value, grad = _found(loss, [x], given)
    assert made == ["few"] and value == 0 and not grad.any()


@pytest.mark.parametrize("bounds", [{"low": 0.7}, {"low": 0.0, "high": 0.7}, {"high": 0.3}])
def test_a_loss_that_is_a_bound_in_float32(bounds: dict[str, float], made) -> None:
    """It is not between the bounds, on whichever side of them its number in float32 is."""
    at = max(bounds.values())
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [at, 1.0]], requires_grad=True)
    given = tuple(torch.tensor([k]) for k in (0, 1, 2))
    distance = DotProductSimilarity(normalize_embeddings=False)
    reducer = reducers.ThresholdReducer(**bounds)
    value, grad = _found(TripletMarginLoss(0.0, distance=distance, reducer=reducer), [x], given)
    assert made == ["few"] and value == 0 and not grad.any()


@pytest.mark.usefixtures("gathered_or_read")
@pytest.mark.parametrize("given", [PAIRS, TRIPLETS], ids=["pairs", "triplets"])
def test_second_derivatives(given, made) -> None:
    sides, found = _sides(True), []
    for backend in ("auto", "dense"):
        distance = LpDistance(power=2)
        value = TripletMarginLoss(0.5, distance=distance, backend=backend)(
            sides[0], None, given, sides[1]
        )
        grads = torch.autograd.grad(value, sides, create_graph=True)
        total = sum(grad.square().sum() for grad in grads)
        found.append(torch.autograd.grad(total, sides))
    assert made == ["few"]
    torch.testing.assert_close(*found)


def test_the_number_of_triplets() -> None:
    pairs = PairIndices(*PAIRS)
    assert number_of_triplets(pairs, joins=True) == 3 * 3 + 2 * 1
    triplets = PairIndices(TRIPLETS[0], TRIPLETS[1], TRIPLETS[0], TRIPLETS[2])
    assert number_of_triplets(triplets, joins=False) == 5
    nothing = PAIRS[0][:0]
    for one_kind in (pairs._replace(positive_rows=nothing), pairs._replace(negative_rows=nothing)):
        assert number_of_triplets(one_kind, joins=True) == 0
        assert number_of_triplets(one_kind, joins=False) == 0
    apart = pairs._replace(negative_rows=torch.tensor([1, 2, 4]))
    assert number_of_triplets(apart, joins=True) == 0
    many = PairIndices(*(index.repeat(40) for index in PAIRS))
    assert number_of_triplets(many, joins=True) is None
    assert number_of_triplets(many, joins=False) is None
