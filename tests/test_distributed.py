"""Tensors of torch.distributed.tensor: refused with what to write instead."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import fusedml
from fusedml.losses import DISTILLATION_LOSSES, LOSSES
from tests.calls import calls
from tests.losses.made import NAMES, NUM_CLASSES, PAIR_LOSSES, make_batch, make_loss


@pytest.fixture(scope="module", autouse=True)
def _process_group() -> Iterator[None]:
    if not dist.is_available():
        pytest.skip("this torch has no torch.distributed")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def distributed(x: Tensor, placement: object) -> Tensor:
    return distribute_tensor(x.detach(), init_device_mesh("cpu", (1,)), [placement])


@pytest.mark.parametrize("placement", [Shard(0), Shard(1), Replicate()], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_embeddings(name: str, placement: object) -> None:
    embeddings, labels = make_batch()
    expected = r"embeddings.*DTensor.*embeddings\.to_local\(\).*embeddings\.full_tensor\(\)"
    with pytest.raises(TypeError, match=expected):
        make_loss(name)(distributed(embeddings, placement), labels)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_labels_and_references(name: str) -> None:
    loss, (embeddings, labels) = make_loss(name), make_batch()
    with pytest.raises(TypeError, match=r"labels\.to_local\(\)"):
        loss(embeddings, distributed(labels, Shard(0)))
    with pytest.raises(TypeError, match=r"ref_emb\.to_local\(\)"):
        loss(embeddings, labels, None, distributed(embeddings, Shard(0)), labels.clone())
    with pytest.raises(TypeError, match=r"ref_labels\.full_tensor\(\)"):
        loss(embeddings, labels, None, embeddings, distributed(labels, Shard(0)))


def test_functions() -> None:
    embeddings, labels = make_batch()
    with pytest.raises(TypeError, match=r"anchors\.to_local\(\)"):
        fusedml.pair_statistics(distributed(embeddings, Shard(0)), labels)


def test_what_else_is_given_for_each_row_or_class() -> None:
    embeddings, labels = make_batch()
    of_classes = distributed(torch.ones(NUM_CLASSES), Replicate())
    reducer = fusedml.reducers.ClassWeightedReducer(of_classes)
    bounds = distributed(torch.zeros(2, len(labels)), Replicate())
    margin = fusedml.losses.MarginLoss(beta=of_classes, num_classes=NUM_CLASSES)
    for name, call in {
        "weights": lambda: make_loss("NTXentLoss", reducer=reducer)(embeddings, labels),
        "thresholds": lambda: fusedml.pair_statistics(embeddings, labels, thresholds=bounds),
        "beta": lambda: margin(embeddings, labels),
    }.items():
        with pytest.raises(TypeError, match=rf"{name}\.to_local\(\)"):
            call()


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.weights_name])
def test_vectors_of_classes(name: str) -> None:
    loss, batch = make_loss(name), make_batch()
    weights = LOSSES[name].weights_name
    setattr(loss, weights, torch.nn.Parameter(distributed(getattr(loss, weights), Shard(0))))
    with pytest.raises(TypeError, match=rf"{weights}\.full_tensor\(\)"):
        loss(*batch)


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.takes_tuples])
def test_index_tuples(name: str) -> None:
    embeddings, labels = make_batch()
    first, second = torch.arange(2), torch.arange(6, 8)
    for place in range(4):
        listed = [first, second, first, second + 1]
        listed[place] = distributed(listed[place], Replicate())
        with pytest.raises(TypeError, match=rf"indices_tuple\[{place}\]\.to_local\(\)"):
            make_loss(name)(embeddings, labels, tuple(listed))


@pytest.mark.parametrize("name", NAMES)
def test_hyperparameters(name: str) -> None:
    loss = make_loss(name)
    for key in loss.hyperparameters:
        number = torch.nn.Parameter(distributed(torch.ones(1), Replicate()))
        setattr(loss, key, number)
        with pytest.raises(TypeError, match=rf"{key}\.to_local\(\)"):
            loss.value_of(key)


@pytest.mark.parametrize("name", calls(24))
def test_other_calls(name: str) -> None:
    call = calls(24)[name]
    for key, value in call.arguments.items():
        forward = getattr(DISTILLATION_LOSSES.get(name), "forward", None)
        if key == "labels" and forward and key not in inspect.signature(forward).parameters:
            continue  # of the benchmarks, which it does not look at
        x = value if isinstance(value, Tensor) else torch.tensor([value])
        replaced = {**call.arguments, key: distributed(x, Replicate())}
        with pytest.raises(TypeError, match=r"a DTensor: pass .*\.to_local\(\)"):
            call._replace(arguments=replaced).outputs()


def test_their_local_parts_are_taken() -> None:
    embeddings, labels = make_batch()
    loss = make_loss("SupConLoss")
    local = distributed(embeddings, Shard(0)).to_local()
    assert torch.equal(loss(local, labels), loss(embeddings, labels))
