"""Tensors of torch.distributed.tensor: refused with what to write instead."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import fusedml
from tests.losses.made import NAMES, PAIR_LOSSES, make_batch, make_loss


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


def test_functions_and_proxies() -> None:
    embeddings, labels = make_batch()
    with pytest.raises(TypeError, match=r"anchors\.to_local\(\)"):
        fusedml.pair_statistics(distributed(embeddings, Shard(0)), labels)
    loss = make_loss("ProxyAnchorLoss")
    loss.proxies = torch.nn.Parameter(distributed(loss.proxies, Shard(0)))
    with pytest.raises(TypeError, match=r"proxies\.full_tensor\(\)"):
        loss(embeddings, labels)


def test_their_local_parts_are_taken() -> None:
    embeddings, labels = make_batch()
    loss = make_loss("SupConLoss")
    local = distributed(embeddings, Shard(0)).to_local()
    assert torch.equal(loss(local, labels), loss(embeddings, labels))
