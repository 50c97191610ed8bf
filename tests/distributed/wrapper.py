"""pytorch-metric-learning's DistributedLossWrapper and ours, on ranks of equal batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import fusedml
from tests.distributed.problem import DIMENSION, averaged, device, global_batch, model_of

PER_RANK = 6


def equal_parts() -> tuple[Tensor, Tensor]:
    """This rank's inputs and labels: theirs takes equal batches."""
    inputs, labels = global_batch(dist.get_world_size())
    own = slice(PER_RANK * dist.get_rank(), PER_RANK * (dist.get_rank() + 1))
    return inputs[own], labels[own]


def compare(make: Callable[[Any], Any], *rest: Tensor | None) -> None:
    """make: the loss from their package or from ours."""
    import pytorch_metric_learning  # noqa: PLC0415  # by the one case that needs it
    from pytorch_metric_learning.utils import distributed  # noqa: PLC0415

    inputs, labels = equal_parts()
    models, values = [model_of(), model_of()], []
    packages = pytorch_metric_learning, fusedml
    for package, model in zip(packages, models, strict=True):
        wrap = distributed if package is pytorch_metric_learning else fusedml.distributed
        loss = wrap.DistributedLossWrapper(make(package))
        values.append(loss(model(inputs), labels, *rest))
        values[-1].backward()
    torch.testing.assert_close(*values[::-1], rtol=1e-9, atol=1e-11)
    theirs, ours = (averaged([model])[0] for model in models)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def of_a_memory() -> None:
    mask = (torch.arange(PER_RANK) % 2 == 0).to(device())
    compare(
        lambda package: package.losses.CrossBatchMemory(
            package.losses.MultiSimilarityLoss(), DIMENSION, 40
        ),
        None,
        None,
        None,
        mask,
    )


def all_cases() -> dict[str, Callable[[], None]]:
    return {
        "wrapper": lambda: compare(lambda package: package.losses.SupConLoss()),
        "wrapper of pairs": lambda: compare(lambda package: package.losses.ContrastiveLoss()),
        "wrapper of a memory": of_a_memory,
    }
