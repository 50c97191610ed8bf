"""Losses of the registry and batches, as the tests of all losses make them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fusedml.losses import LOSSES, BaseLoss

NUM_CLASSES = 6
DIMENSION = 8
NAMES = tuple(LOSSES)
# those that take an index tuple without labels, and references
PAIR_LOSSES = tuple(
    name for name, loss in LOSSES.items() if loss.takes_references and not loss.needs_labels
)


def require_distance(loss: type[BaseLoss], distance: nn.Module | type | None) -> None:
    """Skips the test if the loss takes no distance of that class."""
    required = loss.required_distance
    if distance is None or required is None:
        return
    kinds = (distance if isinstance(distance, type) else type(distance)).__mro__
    if required.__name__ not in [kind.__name__ for kind in kinds]:
        pytest.skip(f"{loss.__name__} takes a {required.__name__} only")


def require_tuples(loss: type[BaseLoss]) -> None:
    """Skips the test if the loss takes no index tuple."""
    if not loss.takes_tuples:
        pytest.skip(f"{loss.__name__} takes no index tuple")


def make_loss(name: str, **arguments: Any) -> BaseLoss:
    """A loss of the registry; vectors of classes are drawn from the current seed.

    Skips the test if the loss does not take the distance.
    """
    require_distance(LOSSES[name], arguments.get("distance"))
    return LOSSES[name].of_sizes(NUM_CLASSES, DIMENSION, **arguments)


def make_batch(
    n: int = 20, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Gaussian embeddings that require a gradient, and labels 0, 1, ..., 5, 0, ..."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(n, DIMENSION, generator=generator, dtype=torch.float64)
    return embeddings.to(dtype).requires_grad_(), torch.arange(n) % NUM_CLASSES


def gradient(loss: BaseLoss, embeddings: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    """Value and gradient of the embeddings."""
    value = loss(embeddings, *args)
    return value.detach(), torch.autograd.grad(value, embeddings)[0]
