"""Reducers beside pytorch-metric-learning's, and where theirs are wrong."""

from __future__ import annotations

import math

import pytest
import torch
from pytorch_metric_learning import reducers as pml_reducers

from fusedml import losses, reducers
from tests.losses.made import NUM_CLASSES, make_batch

N = 12
EMBEDDINGS = torch.randn(N, 3).double()
LABELS = torch.arange(N) % 4
PAIRS = (torch.arange(N) % 5, torch.arange(N) % 7)
VALUES = torch.linspace(-1, 2, N).double()
INFOS = {
    "element": {"losses": VALUES, "indices": torch.arange(N), "reduction_type": "element"},
    "pos_pair": {"losses": VALUES, "indices": PAIRS, "reduction_type": "pos_pair"},
    "neg_pair": {"losses": VALUES, "indices": PAIRS, "reduction_type": "neg_pair"},
    "triplet": {
        "losses": VALUES,
        "indices": (*PAIRS, PAIRS[0]),
        "reduction_type": "triplet",
    },
    "already_reduced": {
        "losses": VALUES[3],
        "indices": None,
        "reduction_type": "already_reduced",
    },
    "zero": {"losses": 0, "indices": None, "reduction_type": "already_reduced"},
}
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 3.0])
MAKERS = {
    "MeanReducer": lambda package: package.MeanReducer(),
    "SumReducer": lambda package: package.SumReducer(),
    "AvgNonZeroReducer": lambda package: package.AvgNonZeroReducer(),
    "ThresholdReducer": lambda package: package.ThresholdReducer(low=-0.4, high=1.5),
    "nothing passes": lambda package: package.ThresholdReducer(low=9),
    "DivisorReducer": lambda package: package.DivisorReducer(),
    "ClassWeightedReducer": lambda package: package.ClassWeightedReducer(WEIGHTS.clone()),
    "PerAnchorReducer": lambda package: package.PerAnchorReducer(),
    "PerAnchorReducer, sum": lambda package: package.PerAnchorReducer(package.SumReducer()),
    "PerAnchorReducer, own": lambda package: package.PerAnchorReducer(
        aggregation_func=lambda x, k: x.square().sum(1) + k
    ),
    "MultipleReducers": lambda package: package.MultipleReducers({"a": package.SumReducer()}),
}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("kind", INFOS)
def test_value_and_gradient(maker: str, kind: str) -> None:
    if kind == "triplet" and maker.startswith("PerAnchor"):
        with pytest.raises(NotImplementedError, match="Triplet reduction not supported"):
            reducers.PerAnchorReducer()({"a": INFOS[kind]}, EMBEDDINGS, LABELS)
        return
    results = []
    for package in (reducers, pml_reducers):
        info = dict(INFOS[kind], divisor=3.5)
        embeddings = EMBEDDINGS.clone().requires_grad_()
        inputs = [embeddings]
        if isinstance(info["losses"], torch.Tensor):
            info["losses"] = info["losses"].clone().requires_grad_()
            inputs.append(info["losses"])
        value = MAKERS[maker](package)({"a": info}, embeddings, LABELS)
        grads = torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True)
        results.append([value, *grads])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("maker", MAKERS)
def test_no_losses_give_a_zero(maker: str) -> None:
    empty = torch.zeros(0, requires_grad=True).double()
    index = torch.zeros(0, dtype=torch.int64)
    info = {"losses": empty, "indices": (index, index), "reduction_type": "pos_pair", "divisor": 0}
    if maker == "PerAnchorReducer, own":
        pytest.skip("its aggregation is not zero")
    value = MAKERS[maker](reducers)({"a": info}, EMBEDDINGS, LABELS)
    assert value == 0
    assert value.requires_grad


@pytest.mark.parametrize("maker", MAKERS)
def test_nan_stays_nan(maker: str) -> None:
    losses_ = VALUES.clone()
    losses_[4] = float("nan")
    info = dict(INFOS["element"], losses=losses_, divisor=2)
    assert MAKERS[maker](reducers)({"a": info}, EMBEDDINGS, LABELS).isnan()


@pytest.mark.parametrize("divisor", [0, 4, torch.tensor(0), torch.tensor(4)])
def test_divisor(divisor: int | torch.Tensor) -> None:
    value = reducers.DivisorReducer()(
        {"a": dict(INFOS["element"], divisor=divisor)}, EMBEDDINGS, None
    )
    torch.testing.assert_close(value, VALUES.sum() / 4 if divisor else VALUES.sum() * 0)


def test_divisor_sums_half_precision_in_float32() -> None:
    info = dict(INFOS["element"], losses=torch.full((N,), 6e4).half(), divisor=N)
    assert reducers.DivisorReducer()({"a": info}, EMBEDDINGS, None) == torch.tensor(6e4).half()


def test_a_repeated_pair_counts_once_per_anchor() -> None:
    twice = (torch.tensor([0, 0, 1, 0]), torch.tensor([1, 2, 0, 1]))
    info = {"losses": torch.tensor([3.0, 5.0, 7.0, 3.0]), "indices": twice}
    info["reduction_type"] = "pos_pair"
    expected = pml_reducers.PerAnchorReducer()({"a": info}, EMBEDDINGS, LABELS)
    assert reducers.PerAnchorReducer()({"a": info}, EMBEDDINGS, LABELS) == expected == 11 / N


def test_class_weights_of_losses_that_theirs_broadcasts() -> None:
    """Multi-Similarity under class weights: theirs multiplies (n, 1) by (n)."""
    embeddings, labels = make_batch()
    weights = torch.rand(NUM_CLASSES).double()
    rows = losses.MultiSimilarityLoss(reducer=reducers.DoNothingReducer())(embeddings, labels)
    expected = (rows["loss"]["losses"] * weights[labels]).mean()
    for package in (reducers, pml_reducers):
        loss = losses.MultiSimilarityLoss(reducer=package.ClassWeightedReducer(weights))
        torch.testing.assert_close(loss(embeddings, labels), expected)


def test_class_weights_of_proxies() -> None:
    """The rows of a proxy loss are classes, whatever the batch's labels are."""
    embeddings, labels = make_batch()
    weights = torch.rand(NUM_CLASSES).double()
    loss = losses.ProxyAnchorLoss(NUM_CLASSES, 8, reducer=reducers.DoNothingReducer()).double()
    terms = loss(embeddings, labels)
    loss.set_reducer(reducers.ClassWeightedReducer(weights))
    expected = sum((info["losses"] * weights).mean() for info in terms.values())
    torch.testing.assert_close(loss(embeddings, labels), expected)


@pytest.mark.parametrize("name", ["LiftedStructureLoss", "NTXentLoss"])
def test_per_anchor_of_pair_losses_with_and_without_the_list(name: str) -> None:
    """Row sums and the listed pairs give the same; theirs crashes for lifted structure."""
    embeddings, labels = make_batch(22)
    labels[0] = 99
    streamed = losses.LOSSES[name](reducer=reducers.PerAnchorReducer())
    listed = losses.LOSSES[name](
        reducer=reducers.PerAnchorReducer(aggregation_func=lambda x, k: x.sum(1) / k.clamp(min=1))
    )
    results = []
    for loss in (streamed, listed):
        value = loss(embeddings, labels)
        results.append((value, *torch.autograd.grad(value, embeddings)))
    torch.testing.assert_close(*results)


def test_collected_statistics() -> None:
    ours = reducers.ThresholdReducer(low=0, high=1.5, collect_stats=True)
    ours({"a": INFOS["element"]}, EMBEDDINGS, LABELS)
    keep = (VALUES > 0) & (VALUES < 1.5)
    assert ours.losses_size == N
    assert ours.num_past_filter == keep.sum()
    assert ours.num_above_low == (VALUES > 0).sum()


@pytest.mark.parametrize("name", ["SupConLoss", "NTXentLoss", "NPairsLoss"])
def test_statistics_are_collected_of_single_losses(name: str) -> None:
    loss = losses.LOSSES[name](reducer=reducers.MeanReducer(collect_stats=True))
    value = loss(EMBEDDINGS, LABELS)
    torch.testing.assert_close(
        value, losses.LOSSES[name](reducer=reducers.MeanReducer())(EMBEDDINGS, LABELS)
    )
    single = losses.LOSSES[name](reducer=reducers.DoNothingReducer())(EMBEDDINGS, LABELS)
    assert loss.reducer.losses_size == len(single["loss"]["losses"])


def test_errors() -> None:
    two = {"a": INFOS["element"], "b": INFOS["element"]}
    with pytest.raises(ValueError, match=r"loss_dict must hold one loss, got \['a', 'b'\]"):
        reducers.MeanReducer()(two, EMBEDDINGS, LABELS)
    with pytest.raises(ValueError, match="At least one of low or high must be specified"):
        reducers.ThresholdReducer()
    with pytest.raises(KeyError, match="divisor"):
        reducers.DivisorReducer()({"a": INFOS["element"]}, EMBEDDINGS, LABELS)
    with pytest.raises(KeyError, match="divisor"):
        losses.MultiSimilarityLoss(reducer=reducers.DivisorReducer())(*make_batch())
    with pytest.raises(ValueError, match="labels are required by ClassWeightedReducer"):
        reducers.ClassWeightedReducer(WEIGHTS)({"a": INFOS["element"]}, EMBEDDINGS, None)


@pytest.mark.parametrize("maker", [maker for maker in MAKERS if maker != "PerAnchorReducer, own"])
def test_one_graph(maker: str) -> None:
    torch._dynamo.reset()
    info = dict(INFOS["element"], divisor=torch.tensor(3))
    reducer = MAKERS[maker](reducers)
    compiled = torch.compile(reducer, fullgraph=True, backend="eager")
    actual = compiled({"a": info}, EMBEDDINGS, LABELS)
    torch.testing.assert_close(actual, reducer({"a": info}, EMBEDDINGS, LABELS))


@pytest.mark.parametrize("losses", [[1.0, 2.0], [1.0, 0.0], [float("nan"), 1.0], [0.0, 0.0]])
def test_the_mean_of_what_is_kept_and_of_all(losses, monkeypatch):
    losses = torch.tensor(losses)
    value = reducers.masked_mean(losses, ~(losses <= 0))
    monkeypatch.setattr(reducers, "is_free_to_read", lambda _: False)
    expected = reducers.masked_mean(losses, ~(losses <= 0))
    torch.testing.assert_close(value, expected, equal_nan=True)


def both_sides() -> list[torch.Tensor]:
    return [torch.randn(size, 3, dtype=torch.float64, requires_grad=True) for size in (5, 7)]


@pytest.mark.parametrize("bad", [None, math.nan, math.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_a_zero_of_two_sides_is_nan_where_either_is_not_finite(bad, side) -> None:
    sides = both_sides()
    if bad is not None:
        sides[side].data[2, 1] = bad
    loss = reducers.zero_loss(*sides)
    assert loss.shape == () and loss.dtype == torch.float64
    assert loss.isnan().item() if bad is not None else loss.item() == 0
    for of_side, x in zip(torch.autograd.grad(loss, sides), sides, strict=True):
        assert of_side.shape == x.shape and of_side.stride() == x.stride()
        assert not of_side.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_zero_of_two_sides_that_add_up_to_inf(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    sides = [torch.full((5, 3), largest, dtype=dtype, requires_grad=True) for _ in range(2)]
    assert reducers.zero_loss(*sides).item() == 0


def test_derivatives_of_a_zero_of_two_sides() -> None:
    """Of its gradients, too; many at once, and within transforms."""
    sides, factor = both_sides(), torch.ones((), dtype=torch.float64, requires_grad=True)
    loss = factor * reducers.zero_loss(*sides)
    grads = torch.autograd.grad(loss, sides, create_graph=True)
    (again,) = torch.autograd.grad(sum(grad.square().sum() for grad in grads), factor)
    assert again.item() == 0
    zero = reducers.zero_loss(*sides)
    several = torch.autograd.grad(
        zero, sides, torch.ones(4, dtype=torch.float64), is_grads_batched=True
    )
    assert [grad.shape for grad in several] == [(4, *x.shape) for x in sides]
    assert not any(grad.any() for grad in several)
    mapped = torch.func.vmap(torch.func.grad(reducers.zero_loss, (0, 1)))
    assert not any(grad.any() for grad in mapped(*(x.detach().expand(4, -1, -1) for x in sides)))
