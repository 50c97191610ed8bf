"""What the ranks of the tests compute, each case against one process on the global batch.

Every rank runs every case and writes down what went wrong: one start of processes serves them all.
"""

from __future__ import annotations

import copy
import pickle
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fusedml import CrossBatchMemory, distances, reducers
from fusedml.distributed import DistributedLoss
from fusedml.losses import LOSSES, TWO_TOWER_LOSSES, BaseLoss
from fusedml.losses.formula_loss import RowwiseLoss
from tests.distributed import shards, wrapper
from tests.distributed.counted import CountedBytes
from tests.distributed.problem import (
    DIMENSION,
    NUM_CLASSES,
    SIZES,
    TOLERANCES,
    WIDTH,
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
    several,
    tuple_of,
    weights,
    with_learnt,
)

RING = tuple(
    name
    for name, loss in LOSSES.items()
    if issubclass(loss, RowwiseLoss) and loss.pairs_equal_labels
)


def compare(
    loss: BaseLoss,
    exchange: str = "gather",
    dtype: torch.dtype = torch.float64,
    change_labels: Callable[[Tensor], Tensor] = lambda labels: labels,
) -> None:
    """Value and gradients of a model and of the loss, against one process; equal bits on ranks."""
    inputs, labels = global_batch(dist.get_world_size(), dtype)
    labels = change_labels(labels)
    alone, model = copy.deepcopy(loss), model_of(dtype)
    expected = alone(model(inputs), labels)
    expected.backward()
    modules: list[nn.Module] = [model, alone]
    right = [
        torch.zeros_like(p) if p.grad is None else p.grad for m in modules for p in m.parameters()
    ]
    shared, own = DistributedLoss(copy.deepcopy(loss), exchange=exchange), model_of(dtype)
    value = shared(own(own_part(inputs)), own_part(labels))
    value.backward()
    close = TOLERANCES[dtype]
    torch.testing.assert_close(value, expected, **close)
    for actual, gradient in zip(averaged([own, shared]), right, strict=True):
        torch.testing.assert_close(actual, gradient, **close)
    check_equal_on_ranks(value)


def with_references(needs_gradient: bool) -> None:
    """Each rank has references of its own."""
    inputs, labels = global_batch(dist.get_world_size())
    loss, models = make("SupConLoss"), [model_of(), model_of()]
    values = []
    for model, shared in zip(models, (loss, DistributedLoss(loss)), strict=True):
        part = own_part if shared is not loss else lambda x: x
        refs = model(part(inputs.flip(1) + 1))
        refs = refs if needs_gradient else refs.detach()
        given = model(part(inputs)), part(labels), None, refs, part(labels.flip(0))
        values.append(shared(*given))
        values[-1].backward()
    torch.testing.assert_close(*values, rtol=1e-9, atol=1e-11)
    (actual,) = averaged([models[1]])
    torch.testing.assert_close(actual, models[0].weight.grad, rtol=1e-9, atol=1e-11)


def of_two_sets(name: str, exchange: str, spare: bool = False, **arguments: Any) -> None:
    """spare: whether each rank has others that belong to no row."""
    loss = TWO_TOWER_LOSSES[name](**arguments)
    num_scales = len(loss.example_arguments)  # a scale, and perhaps a bias
    num_ranks, sizes = dist.get_world_size(), SIZES[dist.get_world_size()]
    inputs = global_batch(num_ranks)[0]
    more = [size + 2 * spare * (rank + 1) for rank, size in enumerate(sizes)]
    others = torch.randn(sum(more), WIDTH, generator=torch.Generator().manual_seed(7))
    others = others.double().to(device())
    towers = [[model_of(), model_of()] for _ in range(2)]
    scales = [learnt(3.0) for _ in range(2)]
    parts = others.split(more)
    belong = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
    rest = torch.cat([part[size:] for part, size in zip(parts, sizes, strict=True)])
    calls = (
        (loss, inputs, torch.cat([belong, rest])),
        (DistributedLoss(loss, exchange=exchange), own_part(inputs), parts[dist.get_rank()]),
    )
    values = []
    for (called, x, y), (one, other), scale in zip(calls, towers, scales, strict=True):
        more_arguments = (scale, 0.1)[:num_scales]
        values.append(called(one(x), other(y), *more_arguments))
        values[-1].backward()
    torch.testing.assert_close(*values, rtol=1e-9, atol=1e-11)
    right = [towers[0][0].weight.grad, towers[0][1].weight.grad]
    actual = averaged(towers[1])
    if num_scales:
        right.append(scales[0].grad)
        grad = scales[1].grad
        dist.all_reduce(grad)
        actual.append(grad / num_ranks)
    torch.testing.assert_close(actual, right, rtol=1e-9, atol=1e-11)


def with_a_memory(masked: bool) -> None:
    """Two steps of a queue that all ranks fill."""
    inputs, labels = global_batch(dist.get_world_size())
    mask = (torch.arange(len(labels)) % 3 == 0).to(device()) if masked else None
    own_mask = own_part(mask) if mask is not None else None
    alone, inner = (CrossBatchMemory(make("MultiSimilarityLoss"), DIMENSION, 30) for _ in range(2))
    shared, models = DistributedLoss(inner), [model_of(), model_of()]
    for step in range(2):
        expected = alone(models[0](inputs + step), labels, None, mask)
        value = shared(models[1](own_part(inputs) + step), own_part(labels), None, own_mask)
        for x in (expected, value):
            x.backward()
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-11)
        (actual,) = averaged([models[1]])
        torch.testing.assert_close(actual, models[0].weight.grad, rtol=1e-9, atol=1e-11)
        for model in models:
            model.zero_grad()
    torch.testing.assert_close(inner.embedding_memory, alone.embedding_memory)
    assert torch.equal(inner.label_memory, alone.label_memory)
    assert (len(inner), inner.queue_idx) == (len(alone), alone.queue_idx)


def with_a_tuple() -> None:
    inputs, labels = global_batch(dist.get_world_size())
    pairs = tuple_of(labels)
    loss, models = make("NTXentLoss"), [model_of(), model_of()]
    expected = loss(models[0](inputs), labels, pairs)
    value = DistributedLoss(loss)(models[1](own_part(inputs)), own_part(labels), pairs)
    for x in (expected, value):
        x.backward()
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-11)
    (actual,) = averaged([models[1]])
    torch.testing.assert_close(actual, models[0].weight.grad, rtol=1e-9, atol=1e-11)


def in_data_parallel() -> None:
    """DistributedDataParallel itself, two steps of an optimiser."""
    inputs, labels = global_batch(dist.get_world_size())
    loss = make("MultiSimilarityLoss")
    alone, parallel = model_of(), DistributedDataParallel(model_of())
    steps = [torch.optim.SGD(m.parameters(), lr=0.5) for m in (alone, parallel)]
    shared = DistributedLoss(loss)
    for _ in range(2):
        loss(alone(inputs), labels).backward()
        shared(parallel(own_part(inputs)), own_part(labels)).backward()
        for step in steps:
            step.step()
            step.zero_grad()
    torch.testing.assert_close(parallel.module.weight, alone.weight, rtol=1e-9, atol=1e-11)


def in_a_smaller_group() -> None:
    """Ranks of a group of their own, whose numbers differ from the world's."""
    ranks = [dist.get_world_size() - 2, dist.get_world_size() - 1]
    group = dist.new_group(ranks)
    if dist.get_rank() not in ranks:
        return
    x, labels = torch.randn(12, 4, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 3
    x, labels = x.to(device()), labels.to(device())
    own = slice(0, 5) if dist.get_rank(group) == 0 else slice(5, 12)
    loss = LOSSES["SupConLoss"]()
    for exchange in ("gather", "ring"):
        value = DistributedLoss(loss, group, exchange)(x[own], labels[own])
        torch.testing.assert_close(value, loss(x, labels))


def bytes_received(exchange: str, name: str, epsilon: float | None = None) -> None:
    """The formula of the docstring, and 24 bytes of each other rank about its sizes."""
    ranks, rank = dist.get_world_size(), dist.get_rank()
    inputs, labels = global_batch(ranks, torch.float32)
    embeddings = model_of(torch.float32)(own_part(inputs))
    arguments = {} if epsilon is None else {"mining_epsilon": epsilon}
    loss = LOSSES[name].of_sizes(NUM_CLASSES, DIMENSION, **arguments).to(device())
    with CountedBytes() as counted:
        DistributedLoss(loss, exchange=exchange)(embeddings, own_part(labels)).backward()
    most, others = max(SIZES[ranks]), sum(SIZES[ranks]) - SIZES[ranks][rank]
    sweeps = 2 if epsilon is None else 3
    rows = most * (ranks - 1)
    if LOSSES[name].weights_name is not None:  # of classes: the rows are shared, only losses travel
        expected = rows * (8 + 4)
    else:
        width = DIMENSION * 4
        expected = others * width * sweeps if exchange == "ring" else rows * width
        expected += rows * (8 + 28 + (0 if epsilon is None else 8))
    assert counted.received == expected + 24 * (ranks - 1), (counted.received, expected)


def widths_that_differ() -> None:
    x, labels = torch.randn(4, 3 + dist.get_rank()).to(device()), torch.arange(4).to(device())
    check_raises(
        lambda: DistributedLoss(LOSSES["SupConLoss"]())(x, labels),
        "embeddings must have one width and dtype on all ranks, got [4, 3]",
    )


def all_cases() -> dict[str, Callable[[], None]]:
    cases: dict[str, Callable[[], None]] = {}
    for name in LOSSES:
        cases[name] = lambda name=name: compare(make(name))
        cases[f"{name}, tiles"] = lambda name=name: by_tiles(lambda: compare(make(name)))
    for name in RING:
        cases[f"{name}, ring"] = lambda name=name: compare(make(name), "ring")
    for reducer in (
        reducers.SumReducer(),
        reducers.AvgNonZeroReducer(),
        reducers.ThresholdReducer(low=0.3, high=3),
        reducers.ClassWeightedReducer(weights()),
        reducers.PerAnchorReducer(),
    ):
        for name in ("MultiSimilarityLoss", "NTXentLoss", "ArcFaceLoss", "ContrastiveLoss"):
            cases[f"{name}, {type(reducer).__name__}"] = lambda name=name, reducer=reducer: compare(
                make(name, reducer=reducer)
            )
    for exchange in ("gather", "ring"):
        cases[f"mining, {exchange}"] = lambda exchange=exchange: compare(
            make("MultiSimilarityLoss", mining_epsilon=0.1), exchange
        )
        cases[f"learnt, {exchange}"] = lambda exchange=exchange: compare(
            with_learnt("MultiSimilarityLoss", alpha=2.0, base=0.4), exchange
        )
        cases[f"float32, {exchange}"] = lambda exchange=exchange: compare(
            make("SupConLoss").float(), exchange, torch.float32
        )
        cases[f"floats and NaN, {exchange}"] = lambda exchange=exchange: compare(
            make("SupConLoss"),
            exchange,
            change_labels=lambda y: torch.where(y == 2, torch.nan, y * 0.5),
        )
        cases[f"several labels, {exchange}"] = lambda exchange=exchange: compare(
            make("MultiSimilarityLoss", mining_epsilon=0.1), exchange, change_labels=several
        )
        cases[f"CLIP, {exchange}"] = lambda exchange=exchange: of_two_sets("ClipLoss", exchange)
        cases[f"InfoNCE, {exchange}"] = lambda exchange=exchange: of_two_sets(
            "InfoNCELoss", exchange, True
        )
        cases[f"InfoNCE of both directions, {exchange}"] = lambda exchange=exchange: of_two_sets(
            "InfoNCELoss", exchange, True, symmetric=True
        )
        cases[f"bytes, {exchange}"] = lambda exchange=exchange: bytes_received(
            exchange, "SupConLoss"
        )
        cases[f"bytes, mining, {exchange}"] = lambda exchange=exchange: bytes_received(
            exchange, "MultiSimilarityLoss", 0.1
        )
    return (
        cases
        | shards.all_cases()
        | wrapper.all_cases()
        | {
            "learnt temperature of pairs": lambda: compare(
                with_learnt("NTXentLoss", temperature=0.2)
            ),
            "learnt scale of classes": lambda: compare(with_learnt("CosFaceLoss", scale=4.0)),
            "regulariser": lambda: compare(
                make("SupConLoss", embedding_regularizer=lengths, embedding_reg_weight=0.3)
            ),
            "regularisers of classes": lambda: compare(
                make("ArcFaceLoss", embedding_regularizer=lengths, weight_regularizer=lengths)
            ),
            "another distance": lambda: compare(
                make("MultiSimilarityLoss", distance=distances.LpDistance(p=1))
            ),
            "euclidean": lambda: compare(
                make(
                    "MultiSimilarityLoss",
                    alpha=0.1,
                    beta=0.2,
                    distance=distances.LpDistance(power=2),
                )
            ),
            "SigLIP": lambda: of_two_sets("SigLipLoss", "gather"),
            "VSE": lambda: of_two_sets("VSELoss", "gather"),
            "CLIP, dense": lambda: of_two_sets("ClipLoss", "gather", backend="dense"),
            "InfoNCE, dense": lambda: of_two_sets("InfoNCELoss", "gather", True, backend="dense"),
            "dense": lambda: compare(make("SupConLoss", backend="dense")),
            "moving centres": lambda: compare(make("CenterLoss", update_rate=0.5)),
            "equal sets of labels": lambda: compare(
                make("NTXentLoss", label_rule="all"), change_labels=several
            ),
            "proxies of several labels": lambda: compare(
                make("ProxyAnchorLoss"), change_labels=several
            ),
            "references": lambda: with_references(False),
            "references that learn": lambda: with_references(True),
            "memory": lambda: with_a_memory(False),
            "memory of some rows": lambda: with_a_memory(True),
            "index tuple": with_a_tuple,
            "data parallel": in_data_parallel,
            "group": in_a_smaller_group,
            "bytes, classes": lambda: bytes_received("gather", "ArcFaceLoss"),
            "widths": widths_that_differ,
        }
    )


def run(rank: int, num_ranks: int, folder: str, backend: str) -> None:
    """Every case on this rank; what went wrong is a file."""
    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    store = dist.FileStore(f"{folder}/store", num_ranks)
    # what goes wrong on one rank must not keep the others waiting
    patience = timedelta(seconds=60)
    dist.init_process_group(backend, store=store, rank=rank, world_size=num_ranks, timeout=patience)
    failures = {}
    for name, case in all_cases().items():
        try:
            case()
        except Exception:
            failures[name] = traceback.format_exc()
    Path(folder, f"failures {rank}").write_bytes(pickle.dumps(failures))
    dist.destroy_process_group()
