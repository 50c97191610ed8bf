"""Losses of the registry and batches, as the tests of all losses make them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fusedml.errors import DistanceError
from fusedml.losses import LOSSES, BaseLoss
from fusedml.reducers import MeanReducer

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


def _kind_of(loss: type[BaseLoss]) -> tuple[object, ...]:
    """What the code of a call depends on, but for the formula."""
    base = next(base for base in loss.__mro__ if base.__dict__.get("__abstractmethods__"))
    return base, loss.default_reducer, getattr(loss, "form", None) is None


# for what takes seconds a loss and has nothing to do with the formula, such as compiling
ONE_OF_EACH_KIND = tuple({_kind_of(loss): name for name, loss in LOSSES.items()}.values())


def make_loss(name: str, **arguments: Any) -> BaseLoss:
    """A loss of the registry; vectors of classes are drawn from the current seed.

    The test is skipped for a distance that the loss does not take.
    """
    try:
        return LOSSES[name].of_sizes(NUM_CLASSES, DIMENSION, **arguments)
    except DistanceError as error:
        pytest.skip(str(error))


def without_jumps(name: str) -> dict[str, Any]:
    """Arguments of a loss whose value is continuous: for pairs at the very margin, or of equal
    embeddings, where rounding decides whether a loss is above 0.
    """
    return {"reducer": MeanReducer()} if LOSSES[name].value_jumps else {}


def ignores_length(name: str) -> bool:
    """Whether the lengths of the embeddings, and of the vectors of classes, do not matter to it."""
    embeddings, labels = make_batch()
    loss = make_loss(name).double()
    value = loss(embeddings, labels)
    longer = copy.deepcopy(loss)
    if longer.weights_name is not None:
        getattr(longer, longer.weights_name).data *= 3
    return bool(torch.isclose(longer(2 * embeddings, labels), value, rtol=1e-9))


def is_differentiable_twice(name: str) -> bool:
    """Whether the gradient of a small batch is made of PyTorch's own operations."""
    embeddings, labels = make_batch()
    value = make_loss(name)(embeddings, labels)
    (grad,) = torch.autograd.grad(value, embeddings, create_graph=True)
    try:
        torch.autograd.grad(grad.sum(), embeddings)
    except NotImplementedError as error:
        assert "can be differentiated once" in str(error)
        return False
    return True


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
