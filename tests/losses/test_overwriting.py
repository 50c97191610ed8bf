"""What may be overwritten between forward and backward, and what PyTorch then refuses.

One rule, whatever the size, the distance and the backend: what needs no gradient may be (a memory
bank, labels, a temperature), because the backward has its own; what needs one may not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import fusedml
from fusedml import distances, losses
from fusedml.distances import fused_measure
from fusedml.losses import LOSSES
from tests.losses.made import (
    DIMENSION,
    NAMES,
    ONE_OF_EACH_KIND,
    PAIR_LOSSES,
    make_batch,
    make_loss,
    without_jumps,
)

pytestmark = [
    pytest.mark.usefixtures("whole_or_tiles"),
    pytest.mark.filterwarnings("ignore:.*not a distance that fusedml"),
]
also_emulated = pytest.mark.also_emulated
EVERY = pytest.mark.parametrize("name", NAMES)
PAIRS = pytest.mark.parametrize("name", PAIR_LOSSES)
REFUSED = "modified by an inplace operation"

DISTANCES: dict[str, distances.BaseDistance | None] = {
    "default": None,
    "dot product": distances.DotProductSimilarity(normalize_embeddings=False),
    "euclidean": distances.LpDistance(normalize_embeddings=False),
    "not fused": distances.LpDistance(p=1),
}
DISTANCE = pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
# seconds a loss: smaller banks are tried with every distance
LARGE_BANKS = [(name, "default") for name in ONE_OF_EACH_KIND if name in PAIR_LOSSES]
LARGE_BANKS += [(name, "dot product") for name in ("MultiSimilarityLoss", "SupConLoss")]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def require_once(whole_or_tiles: str) -> None:
    """Skips the second run of a test whose problem is too large for a whole matrix."""
    if whole_or_tiles == "tiles":
        pytest.skip("tiles it takes anyway")


def references_of(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    queue, labels = make_batch(48, dtype, seed=1)
    return queue.detach(), labels


@torch.no_grad()
def overwrite(tensors: Iterable[Tensor]) -> None:
    for x in tensors:
        half = x[: len(x) // 2]
        half.copy_(half.roll(1, 0))  # no class grows: triplets are compared by the hundred million


def gradients(
    forward: Callable[[], Tensor], inputs: list[Tensor], overwritten: Iterable[Tensor] = ()
) -> tuple[Tensor, ...]:
    value = forward()
    overwrite(overwritten)
    return torch.autograd.grad(value, inputs)


def assert_free(
    forward: Callable[[], Tensor], inputs: list[Tensor], overwritten: list[Tensor]
) -> None:
    expected = gradients(forward, inputs)
    for actual, right in zip(gradients(forward, inputs, overwritten), expected, strict=True):
        assert torch.equal(actual, right)
    changed = gradients(forward, inputs)  # otherwise nothing would have been tested
    assert any(not torch.equal(a, b) for a, b in zip(changed, expected, strict=True))


def assert_refused_or_right(
    forward: Callable[[], Tensor], inputs: list[Tensor], overwritten: list[Tensor]
) -> None:
    expected = gradients(forward, inputs)
    try:
        actual = gradients(forward, inputs, overwritten)
    except RuntimeError as error:
        assert REFUSED in str(error)
    else:
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@also_emulated
@PAIRS
@DISTANCE
@DTYPES
def test_a_memory_bank_and_all_labels_are_free(name, distance, dtype) -> None:
    loss, (embeddings, labels) = make_loss(name, distance=distance), make_batch(24, dtype)
    queue, queue_labels = references_of(dtype)
    assert_free(
        lambda: loss(embeddings, labels, None, queue, queue_labels),
        [embeddings],
        [queue, queue_labels, labels],
    )


@pytest.mark.parametrize(("name", "distance"), LARGE_BANKS)
def test_the_same_for_a_large_bank(name, distance, whole_or_tiles) -> None:
    require_once(whole_or_tiles)
    loss = make_loss(name, distance=DISTANCES[distance])
    embeddings, _ = make_batch(100, torch.float32)
    queue, _ = make_batch(6_500, torch.float32, seed=1)
    queue = queue.detach()
    # of as many classes as a bank has rather than six: triplets are compared by the hundred million
    labels, queue_labels = torch.arange(100) % 400, torch.arange(6_500) % 400
    assert_free(
        lambda: loss(embeddings, labels, None, queue, queue_labels),
        [embeddings],
        [queue, queue_labels, labels],
    )


@also_emulated
@EVERY
@DISTANCE
def test_labels_are_free(name, distance) -> None:
    loss, (embeddings, labels) = make_loss(name, distance=distance), make_batch(24)
    assert_free(lambda: loss(embeddings, labels), [embeddings], [labels])


@also_emulated
@PAIRS
@DISTANCE
def test_embeddings_without_gradient_are_free(name, distance) -> None:
    loss, (embeddings, labels) = make_loss(name, distance=distance), make_batch(24)
    others, other_labels = references_of(torch.float64)
    others.requires_grad_()
    embeddings = embeddings.detach()
    assert_free(
        lambda: loss(embeddings, labels, None, others, other_labels), [others], [embeddings]
    )


@EVERY
@pytest.mark.parametrize("distance", [None, "dot product", "euclidean"])
def test_the_same_of_the_dense_formula(name, distance) -> None:
    loss = make_loss(name, backend="dense", distance=DISTANCES[distance or "default"])
    (embeddings, labels), (others, other_labels) = make_batch(24), make_batch(30, seed=1)
    embeddings = embeddings.detach()
    if loss.weights_name is not None:
        leaf = getattr(loss, loss.weights_name)
        assert_free(lambda: loss(embeddings, labels), [leaf], [embeddings])
    elif loss.takes_references:
        assert_free(
            lambda: loss(embeddings, labels, None, others, other_labels), [others], [embeddings]
        )


TOWERS: dict[str, Callable[..., Callable[..., Tensor]]] = {
    "ClipLoss": lambda **kwargs: partial(losses.ClipLoss(**kwargs), logit_scale=torch.tensor(7.0)),
    "SigLipLoss": lambda **kwargs: partial(
        losses.SigLipLoss(**kwargs), logit_scale=torch.tensor(7.0), logit_bias=torch.tensor(-3.0)
    ),
    "InfoNCELoss": losses.InfoNCELoss,
    "symmetric InfoNCELoss": partial(losses.InfoNCELoss, symmetric=True),
    "VSELoss": losses.VSELoss,
}


@also_emulated
@pytest.mark.parametrize("backend", ["auto", "dense"])
@pytest.mark.parametrize("name", TOWERS)
def test_a_frozen_tower_is_free(name, backend) -> None:
    loss = TOWERS[name](backend=backend)
    towers = [normalize(make_batch(24, seed=seed)[0].detach()) for seed in range(2)]
    for frozen in range(2):
        sides = [x.clone() for x in towers]
        sides[1 - frozen].requires_grad_()
        assert_free(lambda sides=sides: loss(*sides), [sides[1 - frozen]], [sides[frozen]])


@PAIRS
@DTYPES
@pytest.mark.parametrize("distance, n", [(None, 24), (None, 810), ("dot product", 24)])
def test_embeddings_and_references_with_gradient_are_refused(
    name, distance, dtype, n, whole_or_tiles
) -> None:
    if n == 810:
        require_once(whole_or_tiles)
    loss = make_loss(name, distance=DISTANCES[distance or "default"])
    (leaf, labels), (others, other_labels) = make_batch(n, dtype), make_batch(n + 1, dtype)
    for overwritten in (0, 1):
        sides = [leaf * 1, others * 1]
        value = loss(sides[0], labels, None, sides[1], other_labels)
        if fused_measure(loss.distance) is None:  # which may measure copies of them
            assert_refused_or_right(
                lambda sides=sides: loss(sides[0], labels, None, sides[1], other_labels),
                sides,
                sides[overwritten : overwritten + 1],
            )
            continue
        overwrite(sides[overwritten : overwritten + 1])
        with pytest.raises(RuntimeError, match=REFUSED):
            torch.autograd.grad(value, sides)


@also_emulated
@EVERY
@DISTANCE
def test_never_a_wrong_gradient(name, distance) -> None:
    loss, (leaf, labels) = make_loss(name, distance=distance), make_batch(24)
    embeddings = leaf.detach().clone().requires_grad_()
    assert_refused_or_right(lambda: loss(embeddings, labels), [embeddings], [embeddings])


@also_emulated
@pytest.mark.parametrize("name", [name for name in NAMES if LOSSES[name].weights_name])
@DISTANCE
def test_vectors_of_classes_are_refused(name, distance) -> None:
    loss = make_loss(name, distance=distance)
    embeddings, labels = make_batch(24, torch.float32)
    leaf = getattr(loss, LOSSES[name].weights_name)
    assert_refused_or_right(lambda: loss(embeddings, labels), [embeddings, leaf], [leaf])


@pytest.mark.parametrize("name", [name for name in NAMES if LOSSES[name].weights_name])
def test_vectors_of_classes_without_gradient_are_free(name) -> None:
    loss = make_loss(name).requires_grad_(False)
    embeddings, labels = make_batch(24, torch.float32)
    vectors = getattr(loss, LOSSES[name].weights_name)
    assert_free(lambda: loss(embeddings, labels), [embeddings], [vectors])


def is_differentiable_again(name: str) -> bool:
    loss = LOSSES[name]
    return loss.has_second_derivative and loss.gradient_is_derivative


@pytest.mark.parametrize("name", [name for name in PAIR_LOSSES if is_differentiable_again(name)])
def test_second_derivatives_have_their_own(name) -> None:
    loss = make_loss(name, **without_jumps(name))
    embeddings, labels = make_batch(24)

    def second(overwritten: int | None) -> Tensor:
        free = [labels.clone(), *references_of(torch.float64)]
        value = loss(embeddings, free[0], None, *free[1:])
        (first,) = torch.autograd.grad(value, embeddings, create_graph=True)
        if overwritten is not None:
            overwrite([free[overwritten]])
        return torch.autograd.grad(first.square().sum(), embeddings)[0]

    expected = second(None)
    assert expected.any()
    for place in range(3):
        assert torch.equal(second(place), expected)


@also_emulated
@DISTANCE
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize(
    "name, key",
    [
        ("NTXentLoss", "temperature"),
        ("MultiSimilarityLoss", "beta"),
        ("MultiSimilarityLoss", "mining_epsilon"),
        ("LiftedStructureLoss", "neg_margin"),
        ("ArcFaceLoss", "scale"),
        ("RankedListLoss", "imbalance"),
    ],
)
def test_hyperparameters(name, key, requires_grad, distance) -> None:
    embeddings, labels = make_batch(24)
    number = torch.full((1,), 0.5, dtype=torch.float64)
    if requires_grad and key != "mining_epsilon":
        number.requires_grad_()
    loss = make_loss(
        name, distance=distance, **{key: number[0] if number.requires_grad else number}
    )

    def forward() -> Tensor:
        setattr(loss, key, number.reshape(()))
        return loss(embeddings, labels)

    inputs = [embeddings, number] if number.requires_grad else [embeddings]
    expected = gradients(forward, inputs)
    value = forward()
    with torch.no_grad():
        number.mul_(3)
    try:
        actual = torch.autograd.grad(value, inputs)
    except RuntimeError as error:
        assert REFUSED in str(error)
        assert number.requires_grad
    else:
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@PAIRS
@DISTANCE
def test_index_tuples(name, distance) -> None:
    loss, (embeddings, _) = make_loss(name, distance=distance), make_batch(24)
    rows = torch.arange(24)
    pairs = [rows, rows.roll(6), rows.clone(), rows.roll(1)]
    for place in range(4):
        given = [x.clone() for x in pairs]

        def forward(given=given) -> Tensor:
            return loss(embeddings, None, tuple(given))

        assert_refused_or_right(forward, [embeddings], [given[place]])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@also_emulated
def test_pair_statistics(dtype) -> None:
    (embeddings, labels), (queue, queue_labels) = make_batch(24, dtype), references_of(dtype)
    thresholds = torch.tensor([[0.5], [-0.5]], dtype=torch.float64).repeat(1, 24)

    def forward() -> Tensor:
        row = fusedml.pair_statistics(
            embeddings, labels, queue, queue_labels, thresholds=thresholds.to(row_dtype)
        )
        return sum(x.nan_to_num(0, 0, 0).sum() for x in row[:3])

    row_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    thresholds = thresholds.to(row_dtype)
    assert_free(forward, [embeddings], [labels, queue, queue_labels, thresholds])


class Bilinear(distances.BaseDistance):
    """x^T W y with W to be learnt."""

    def __init__(self) -> None:
        super().__init__(is_inverted=True)
        self.weight = torch.nn.Parameter(torch.eye(DIMENSION, dtype=torch.float64))

    def compute_mat(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        return query_emb @ self.weight @ ref_emb.T


@PAIRS
@pytest.mark.parametrize("has_tuple", [False, True])
def test_the_parameters_of_a_distance_are_refused(name, has_tuple) -> None:
    loss, (embeddings, labels) = make_loss(name, distance=Bilinear()), make_batch(24)
    rows = torch.arange(24)
    pairs = (rows, rows.roll(6), rows, rows.roll(1)) if has_tuple else None
    with pytest.raises(RuntimeError, match=REFUSED):
        gradients(lambda: loss(embeddings, labels, pairs), [embeddings], [loss.distance.weight])
