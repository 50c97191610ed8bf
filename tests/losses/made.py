"""Losses of the registry and batches, as the tests of all losses make them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusedml.losses import LOSSES, BaseLoss

NUM_CLASSES = 6
DIMENSION = 8
NAMES = tuple(LOSSES)
# those that take an index tuple without labels, and references
PAIR_LOSSES = tuple(
    name for name, loss in LOSSES.items() if loss.takes_references and not loss.needs_labels
)


def make_loss(name: str, **arguments: Any) -> BaseLoss:
    """A loss of the registry; vectors of classes are drawn from the current seed."""
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
