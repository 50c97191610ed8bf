"""Losses whose ranks have the vectors of some classes each, against one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fusedml import distances, reducers
from fusedml.distributed import DistributedLoss
from fusedml.losses import LOSSES, BaseLoss
from fusedml.losses.class_weights import ClassWeightsLoss
from tests.distributed.counted import CountedBytes
from tests.distributed.problem import (
    DIMENSION,
    NUM_CLASSES,
    SIZES,
    TOLERANCES,
    averaged,
    by_tiles,
    check_equal_on_ranks,
    check_raises,
    device,
    global_batch,
    learnt,
    lengths,
    make,
    model_of,
    own_part,
    tuple_of,
    weights,
)

CLASS_SIZES = {2: (2, 4), 3: (1, 3, 2)}
SHARDED = tuple(
    name
    for name, loss in LOSSES.items()
    if issubclass(loss, ClassWeightsLoss) and loss.takes_shards
)


def make_shard(name: str, full: BaseLoss, **arguments: Any) -> BaseLoss:
    """The loss of this rank's classes, with its part of the full loss's vectors."""
    sizes = CLASS_SIZES[dist.get_world_size()]
    own = (
        LOSSES[name].of_sizes(sizes[dist.get_rank()], DIMENSION, **arguments).double().to(device())
    )
    with torch.no_grad():
        for parameter, whole in class_parameters(own, full):
            parameter.copy_(own_classes_of(whole, own))
    return own


def class_parameters(*losses: BaseLoss) -> Iterator[tuple[nn.Parameter, ...]]:
    """Their parameters that have entries for the classes."""
    for name in dict(losses[0].named_parameters()):
        if name in (losses[0].weights_name, "bias"):
            yield tuple(getattr(loss, name) for loss in losses)


def own_classes_of(x: Tensor, loss: BaseLoss) -> Tensor:
    """Of a parameter of all classes, or its gradient, what is of this rank's."""
    dim = 1 if loss.weights_are_columns and x.ndim == 2 else 0
    of_each = x.shape[dim] // NUM_CLASSES
    sizes = [of_each * size for size in CLASS_SIZES[dist.get_world_size()]]
    return x.split(sizes, dim)[dist.get_rank()]


def of_shards(
    name: str,
    dtype: torch.dtype = torch.float64,
    learns: dict[str, float] | None = None,
    with_tuple: bool = False,
    **arguments: Any,
) -> None:
    """Value and gradients, against one process: means over the ranks but for the vectors'."""
    alone, inputs, labels = make(name, **arguments), *global_batch(dist.get_world_size(), dtype)
    own, model, right = make_shard(name, alone, **arguments), model_of(dtype), model_of(dtype)
    for loss in (alone, own):
        for key, value in (learns or {}).items():
            setattr(loss, key, learnt(value))
        loss.to(dtype)
    indices = tuple_of(labels) if with_tuple else None
    expected = alone(right(inputs), labels, indices)
    shared = DistributedLoss(own, num_classes=NUM_CLASSES)
    value = shared(model(own_part(inputs)), own_part(labels), indices)
    for x in (expected, value):
        x.backward()
    close = TOLERANCES[dtype]
    torch.testing.assert_close(value, expected, **close)
    for parameter, whole in class_parameters(own, alone):
        torch.testing.assert_close(parameter.grad, own_classes_of(whole.grad, own), **close)
    rest = [
        [p for key, p in loss.named_parameters() if key not in (loss.weights_name, "bias")]
        for loss in (own, alone)
    ]
    actual = averaged([model, nn.ParameterList(rest[0])])
    for one, other in zip(actual, [right.weight, *rest[1]], strict=True):
        torch.testing.assert_close(one, other.grad, **close)
    check_equal_on_ranks(value)


def shard_sizes_that_differ() -> None:
    inputs, labels = global_batch(dist.get_world_size())
    shared = DistributedLoss(make("ArcFaceLoss"), num_classes=NUM_CLASSES)
    check_raises(
        lambda: shared(model_of()(own_part(inputs)), own_part(labels)),
        f"num_classes = {NUM_CLASSES}, got [{NUM_CLASSES}, ",
    )


def bytes_of_shards(name: str, has_terms_of_classes: bool = False) -> None:
    """The formula of the docstring, and 24 bytes of each other rank about sizes, twice."""
    ranks, rank = dist.get_world_size(), dist.get_rank()
    inputs, labels = global_batch(ranks, torch.float32)
    embeddings = model_of(torch.float32)(own_part(inputs))
    loss = LOSSES[name].of_sizes(CLASS_SIZES[ranks][rank], DIMENSION).to(device())
    shared = DistributedLoss(loss, num_classes=NUM_CLASSES)
    with CountedBytes() as counted:
        shared(embeddings, own_part(labels)).backward()
    most, own, width = max(SIZES[ranks]), SIZES[ranks][rank], DIMENSION * 4
    numbers = 8 * (most + own)
    if has_terms_of_classes:
        numbers = 8 * max(CLASS_SIZES[ranks])
    expected = (ranks - 1) * (most * (width + 8) + own * width + numbers + 2 * 24)
    assert counted.received == expected, (counted.received, expected)


def all_cases() -> dict[str, Callable[[], None]]:
    cases: dict[str, Callable[[], None]] = {
        f"{name}, shards": lambda name=name: of_shards(name) for name in SHARDED
    }
    return cases | {
        "shards, tiles": lambda: by_tiles(lambda: of_shards("CosFaceLoss")),
        "shards of groups, tiles": lambda: by_tiles(lambda: of_shards("SubCenterArcFaceLoss")),
        "shards, float32": lambda: of_shards("ArcFaceLoss", torch.float32),
        "shards, without the positive": lambda: of_shards("ProxyNCALoss", exclude_positive=True),
        "shards, dense": lambda: of_shards("CosFaceLoss", backend="dense"),
        "shards of groups, dense": lambda: of_shards("SoftTripleLoss", backend="dense"),
        "shards, another distance": lambda: of_shards(
            "NormalizedSoftmaxLoss", distance=distances.SNRDistance()
        ),
        "shards, learnt": lambda: of_shards("CosFaceLoss", learns={"scale": 4.0, "margin": 0.3}),
        "shards of proxies, learnt": lambda: of_shards(
            "ProxyAnchorLoss", learns={"alpha": 4.0, "margin": 0.3}
        ),
        "shards of groups, learnt": lambda: of_shards("SoftTripleLoss", learns={"gamma": 0.3}),
        "shards, tuple": lambda: of_shards("ArcFaceLoss", with_tuple=True),
        "shards of proxies, tuple": lambda: of_shards("ProxyAnchorLoss", with_tuple=True),
        "shards, reducer": lambda: of_shards(
            "ArcFaceLoss", reducer=reducers.ClassWeightedReducer(weights())
        ),
        "shards of proxies, reducer": lambda: of_shards(
            "ProxyAnchorLoss", reducer=reducers.AvgNonZeroReducer()
        ),
        "shards, regulariser": lambda: of_shards(
            "NormFaceLoss", embedding_regularizer=lengths, embedding_reg_weight=0.3
        ),
        "shards that are no parts": shard_sizes_that_differ,
        "bytes, shards": lambda: bytes_of_shards("ArcFaceLoss"),
        "bytes, shards of proxies": lambda: bytes_of_shards("ProxyAnchorLoss", True),
    }
