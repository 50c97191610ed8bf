"""The problem that the ranks of the tests share: sizes, data, a model, and what DDP would do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fusedml.engine import few_positives, group_losses, whole
from fusedml.losses import LOSSES, BaseLoss

NUM_CLASSES, WIDTH, DIMENSION = 6, 5, 8
# uneven; with three ranks one has none
SIZES = {2: (9, 14), 3: (9, 0, 14)}
TOLERANCES = {
    torch.float64: {"rtol": 1e-9, "atol": 1e-11},
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
}


def device() -> torch.device:
    """Where this rank computes: on its GPU with nccl."""
    is_on_gpu = dist.is_initialized() and dist.get_backend() == "nccl"
    return torch.device("cuda", dist.get_rank()) if is_on_gpu else torch.device("cpu")


def make(name: str, **arguments: Any) -> BaseLoss:
    torch.manual_seed(5)
    return LOSSES[name].of_sizes(NUM_CLASSES, DIMENSION, **arguments).double().to(device())


def global_batch(num_ranks: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Inputs [N, WIDTH] and labels, rank 0 without positives of its own."""
    sizes = SIZES[num_ranks]
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(sum(sizes), WIDTH, generator=generator, dtype=dtype)
    labels = torch.arange(sum(sizes)) % NUM_CLASSES
    labels[: sizes[0]] = torch.arange(sizes[0]) % NUM_CLASSES
    labels[:3] = torch.tensor([0, 3, 1])
    return inputs.to(device()), labels.to(device())


def own_part(x: Tensor) -> Tensor:
    return x.split(SIZES[dist.get_world_size()])[dist.get_rank()]


def model_of(dtype: torch.dtype = torch.float64) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(WIDTH, DIMENSION, bias=False, dtype=dtype).to(device())


def averaged(modules: list[nn.Module]) -> list[Tensor]:
    """The gradients as DistributedDataParallel leaves them."""
    grads = []
    for parameter in (p for module in modules for p in module.parameters()):
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        dist.all_reduce(grad)
        grads.append(grad / dist.get_world_size())
    return grads


def check_raises(case: Callable[[], Any], message: str) -> None:
    """Whether a rank says so; all ranks must."""
    try:
        case()
    except ValueError as error:
        assert message in str(error), error
    else:
        raise AssertionError("did not raise")


def check_equal_on_ranks(value: Tensor) -> None:
    """All ranks must have the same bits."""
    values = [torch.zeros_like(value) for _ in range(dist.get_world_size())]
    dist.all_gather(values, value.detach())
    assert len({x.item() for x in values}) == 1


def learnt(value: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(value, dtype=torch.float64, device=device()))


def with_learnt(name: str, **numbers: float) -> BaseLoss:
    loss = make(name)
    for key, value in numbers.items():
        setattr(loss, key, learnt(value))
    return loss


def weights() -> Tensor:
    return torch.arange(1.0, 1 + NUM_CLASSES, dtype=torch.float64)


def several(labels: Tensor) -> Tensor:
    """Two classes a row, one for every third; none for the last."""
    both = nn.functional.one_hot(labels, NUM_CLASSES).bool()
    both[::3] |= both.roll(1, 1)[::3]
    both[-1] = False
    return both


def lengths(embeddings: Tensor) -> Tensor:
    return embeddings.norm(dim=1).mean()


def tuple_of(labels: Tensor) -> tuple[Tensor, ...]:
    """Half of all pairs."""
    is_same = labels[:, None] == labels
    keep = torch.rand(is_same.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    keep, different = keep.to(labels.device), ~torch.eye(len(labels)).bool().to(labels.device)
    return (*(is_same & keep & different).nonzero().T, *(~is_same & keep).nonzero().T)


def by_tiles(case: Callable[[], None]) -> None:
    with (
        mock.patch.object(whole, "MOST_PAIRS", -1),
        mock.patch.object(few_positives, "MOST_PER_ROW", -1),
        mock.patch.object(group_losses, "STRIP_ELEMENTS", -1),
    ):
        case()
