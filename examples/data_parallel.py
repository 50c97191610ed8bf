"""DistributedDataParallel: the loss of the global batch on every rank, no gradients on the wire.

Each rank embeds its own samples, receives the embeddings of the others as plain numbers, and
computes the loss of the whole batch, whose gradient at its own rows is complete.  DDP averages the
parameters' gradients over the ranks, where they have to be added: hence the factor ``ranks``.  (A
loss with parameters of its own, such as proxies, has their whole gradient on every rank: it needs
no factor there.)

    python examples/data_parallel.py        # two processes on this machine, over gloo
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from examples.plain_loop import made_data, made_network
from fusedml.losses import SupConLoss


def global_batch(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of all ranks, which must have equally many; only this rank's have a graph."""
    ranks = dist.get_world_size()
    rows = [torch.empty_like(embeddings) for _ in range(ranks)]
    gathered_labels = [torch.empty_like(labels) for _ in range(ranks)]
    dist.all_gather(rows, embeddings.detach())
    dist.all_gather(gathered_labels, labels)
    rows[dist.get_rank()] = embeddings
    return torch.cat(rows), torch.cat(gathered_labels)


def made_training(steps: int, share: slice) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """The network and, for each step, the part ``share`` of its batch of 64."""
    torch.manual_seed(0)
    network = made_network()
    samples, labels = made_data()
    batches = [torch.randperm(len(labels))[:64][share] for _ in range(steps)]
    return network, [(samples[batch], labels[batch]) for batch in batches]


def train_one_process(steps: int) -> nn.Module:
    """The same training with the whole batch in one process, to compare with."""
    network, batches = made_training(steps, slice(None))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for samples, labels in batches:
        optimizer.zero_grad()
        SupConLoss()(network(samples), labels).backward()
        optimizer.step()
    return network


def train_rank(rank: int, ranks: int, steps: int, folder: str) -> None:
    """The training of one rank, which leaves the parameters in ``folder``."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    network, batches = made_training(steps, slice(rank, None, ranks))
    parallel = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
    for samples, labels in batches:
        optimizer.zero_grad()
        loss = SupConLoss()(*global_batch(parallel(samples), labels))
        (loss * ranks).backward()
        optimizer.step()
    torch.save(network.state_dict(), Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


def train(ranks: int = 2, steps: int = 5) -> list[dict[str, Tensor]]:
    """The parameters that each rank ends with."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(train_rank, (ranks, steps, folder), nprocs=ranks)
        return [torch.load(Path(folder) / f"rank{rank}.pt") for rank in range(ranks)]


if __name__ == "__main__":
    expected = train_one_process(5).state_dict()
    worst = max((each[k] - expected[k]).abs().max().item() for each in train() for k in expected)
    print(f"largest difference from one process: {worst:.1e}")
