"""DistributedDataParallel: the loss of the global batch on every rank, no gradients on the wire.

Each rank embeds its own samples; ``DistributedLoss`` gives it the loss of all of them, and a
gradient whose mean over the ranks, which DDP takes, is that of one process with the whole batch.

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
from fusedml.distributed import DistributedLoss
from fusedml.losses import SupConLoss


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
    parallel, loss_function = DistributedDataParallel(network), DistributedLoss(SupConLoss())
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
    for samples, labels in batches:
        optimizer.zero_grad()
        loss_function(parallel(samples), labels).backward()
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
