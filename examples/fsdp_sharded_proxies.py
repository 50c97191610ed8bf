"""FSDP2 with sharded proxies: no rank has the whole network, nor the proxies of all classes.

``fully_shard`` cuts the parameters of the network.  Each rank's ProxyAnchorLoss has the proxies of
its own classes; ``DistributedLoss`` with ``num_classes`` merges what they make of the embeddings of
all ranks.  Two groups of the optimiser: the network's parameters are DTensors, the proxies are the
rank's own tensors, whose gradient nobody averages.  On a CPU PyTorch 2.6 has no FSDP2 yet.

    python examples/fsdp_sharded_proxies.py        # two processes on this machine, over gloo
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import spawn

from examples.data_parallel import made_training
from examples.plain_loop import CLASSES
from fusedml.distributed import DistributedLoss, own_classes
from fusedml.losses import ProxyAnchorLoss

# the ranks have different numbers of classes, one of which has no samples
NUM_CLASSES, EMBEDDING_SIZE = CLASSES + 1, 8


def made_loss(classes: range) -> ProxyAnchorLoss:
    """With the proxies of some classes; here all are drawn, so that any number of ranks agrees."""
    torch.manual_seed(1)
    whole = ProxyAnchorLoss(NUM_CLASSES, EMBEDDING_SIZE)
    loss = ProxyAnchorLoss(len(classes), EMBEDDING_SIZE)
    with torch.no_grad():
        proxies_of(loss).copy_(proxies_of(whole)[classes.start : classes.stop])
    return loss


def proxies_of(loss: nn.Module) -> Tensor:
    """The one parameter of a loss."""
    (proxies,) = loss.parameters()
    return proxies


def made_optimizer(network: nn.Module, loss: nn.Module) -> torch.optim.Optimizer:
    """As the authors of Proxy-Anchor train: the proxies 100 times faster."""
    groups: list[dict[str, Any]] = [
        {"params": [*network.parameters()], "lr": 1e-3},
        {"params": [*loss.parameters()], "lr": 0.1},
    ]
    return torch.optim.AdamW(groups)


def train_one_process(steps: int) -> dict[str, Tensor]:
    """The same training with the whole batch and all proxies in one process, to compare with."""
    network, batches = made_training(steps, slice(None))
    loss_function = made_loss(range(NUM_CLASSES))
    optimizer = made_optimizer(network, loss_function)
    for samples, labels in batches:
        optimizer.zero_grad()
        loss_function(network(samples), labels).backward()
        optimizer.step()
    return network.state_dict() | {"proxies": proxies_of(loss_function).detach()}


def train_rank(rank: int, ranks: int, steps: int, folder: str) -> None:
    """The training of one rank, which leaves its proxies, and the network, in ``folder``."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    network, batches = made_training(steps, slice(rank, None, ranks))
    fully_shard(network, mesh=init_device_mesh("cpu", (ranks,)))
    own = made_loss(own_classes(NUM_CLASSES))
    loss_function = DistributedLoss(own, num_classes=NUM_CLASSES)
    optimizer = made_optimizer(network, loss_function)
    for samples, labels in batches:
        optimizer.zero_grad()
        loss_function(network(samples), labels).backward()
        optimizer.step()
    whole = {name: x.full_tensor() for name, x in network.state_dict().items()}
    torch.save(whole | {"proxies": proxies_of(own).detach()}, Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


def train(ranks: int = 2, steps: int = 5) -> list[dict[str, Tensor]]:
    """The network's parameters, and the proxies that each rank ends with."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(train_rank, (ranks, steps, folder), nprocs=ranks)
        return [torch.load(Path(folder) / f"rank{rank}.pt") for rank in range(ranks)]


if __name__ == "__main__":
    expected, trained = train_one_process(5), train()
    proxies = torch.cat([of_rank["proxies"] for of_rank in trained])
    worst = max(
        (found - expected[name]).abs().max().item()
        for name, found in (trained[0] | {"proxies": proxies}).items()
    )
    print(f"largest difference from one process: {worst:.1e}")
