"""Our losses beside pytorch-metric-learning's on the same random batches."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from pytorch_metric_learning import distances as pml_distances
from pytorch_metric_learning import losses as pml_losses
from torch import Tensor, nn

from fusedml import losses
from fusedml.engine.arguments import constructor_parameters
from fusedml.engine.foreign import is_a
from fusedml.errors import DistanceError

# For the proxy loss: more classes than most batches have, so that some proxies have no positive.
NUM_CLASSES = 65
DIMENSION = 6


class Batch(NamedTuple):
    """Arguments of a call, embeddings in float64."""

    embeddings: Tensor
    labels: Tensor | None
    indices_tuple: tuple[Tensor, ...] | None = None
    ref_emb: Tensor | None = None
    ref_labels: Tensor | None = None


def _grouped(n: int) -> Tensor:
    return torch.arange(n) % max(1, -(-n // 4))


def _random(n: int) -> Tensor:
    return torch.randint(max(1, n // 3), (n,), generator=torch.Generator().manual_seed(n))


LABEL_PATTERNS: dict[str, Callable[[int], Tensor]] = {
    "four samples a class": _grouped,
    "all one class": lambda n: torch.full((n,), 7),
    "all different": torch.arange,
    "rows without positives": _random,
    "negative": lambda n: _random(n) - 5,
    "huge": lambda n: _random(n) * (2**61 // max(1, n)) - 2**62,
    "int32": lambda n: _random(n).int(),
    "uint8": lambda n: _random(n).to(torch.uint8),
    "float": lambda n: _random(n).float() * 0.3 - 1,
    "half": lambda n: _random(n).half() * 0.5 - 1,
}
# what one_hot takes
CLASS_PATTERNS = ("four samples a class", "all one class", "rows without positives")


def _arguments(loss: type[losses.BaseLoss]) -> tuple[dict[str, Any], ...]:
    """Constructor arguments beside those of sizes: the defaults, and two sets of others."""
    parameters = inspect.signature(loss.__init__).parameters
    theirs = constructor_parameters(getattr(pml_losses, loss.__name__))
    names = [name for name in (*loss.hyperparameters, *loss.switches) if name in theirs]
    needed = loss.example_arguments
    defaults = {name: needed.get(name, parameters[name].default) for name in names}
    defaults = {name: x for name, x in defaults.items() if not isinstance(x, bool | str | None)}
    if not defaults:
        return ({},)

    def changed(factor: float, step: float) -> dict[str, Any]:
        values = {name: factor * value + step for name, value in defaults.items()}
        # numbers of vectors stay whole
        is_whole = {name: name in loss.switches and type(x) is int for name, x in defaults.items()}
        return {name: int(x) if is_whole[name] else x for name, x in values.items()}

    return {}, changed(0.6, 0.1), changed(1.5, 0.2)


# The losses that pytorch-metric-learning has, too.
ARGUMENTS = {
    name: _arguments(loss)
    for name, loss in losses.LOSSES.items()
    if hasattr(pml_losses, name) and loss.agrees_with_pml
}
PAIR_LOSSES = tuple(name for name in ARGUMENTS if losses.LOSSES[name].takes_references)
# whose index tuples need no labels
TUPLE_LOSSES = tuple(name for name in PAIR_LOSSES if not losses.LOSSES[name].needs_labels)
# whose value with references is theirs, too
REFERENCE_LOSSES = tuple(
    name for name in PAIR_LOSSES if losses.LOSSES[name].agrees_with_pml_on_references
)


def make_embeddings(n: int, seed: int = 0, dimension: int = DIMENSION) -> Tensor:
    """Gaussian rows with norms that differ, float64."""
    generator = torch.Generator().manual_seed(1000 * seed + n)
    x = torch.randn(n, dimension, generator=generator, dtype=torch.float64)
    return x * (0.5 + torch.rand(n, 1, generator=generator, dtype=torch.float64))


def make_ours(name: str, **arguments: Any) -> nn.Module:
    """Our loss.  Skips the test if it does not take the distance."""
    try:
        return losses.LOSSES[name].of_sizes(NUM_CLASSES, DIMENSION, **arguments)
    except DistanceError as error:
        pytest.skip(str(error))


class HalvedCosine(pml_distances.CosineSimilarity):
    """Not fused, for the losses that take cosine similarities only."""

    def compute_mat(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        return super().compute_mat(query_emb, ref_emb) / 2


def takes_distance(name: str, distance: nn.Module) -> bool:
    """Whether the loss is defined for distances of that kind."""
    required = losses.LOSSES[name].required_distance
    return required is None or is_a(distance, "distances", required.__name__)


def require_other_distances(name: str) -> None:
    """Skips the test if theirs does not ask the distance that it is given."""
    if not losses.LOSSES[name].agrees_with_pml_on_other_distances:
        pytest.skip(f"their {name} does not ask the distance")


def make_losses(name: str, **arguments: Any) -> tuple[nn.Module, nn.Module]:
    """Our loss and pytorch-metric-learning's, with the same proxies where there are any."""
    ours = make_ours(name, **arguments)
    needed = losses.LOSSES[name].needed_arguments(NUM_CLASSES, DIMENSION)
    theirs = getattr(pml_losses, name)(**{**needed, **arguments})
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def value_and_gradients(loss: nn.Module, batch: Batch, dtype: torch.dtype) -> list[Tensor]:
    """The loss and its gradients (embeddings, references, parameters), computed in ``dtype``."""
    loss = copy.deepcopy(loss).to(dtype)
    embeddings = batch.embeddings.to(dtype).requires_grad_()
    inputs = [embeddings]
    ref_emb = batch.ref_emb
    if ref_emb is not None:
        ref_emb = ref_emb.to(dtype).requires_grad_()
        inputs.append(ref_emb)
    inputs.extend(loss.parameters())
    value = loss(embeddings, batch.labels, batch.indices_tuple, ref_emb, batch.ref_labels)
    assert value.shape == ()
    assert value.dtype == dtype
    gradients = torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True)
    return [x.detach().double() for x in (value, *gradients)]


def assert_parity(
    ours: nn.Module,
    theirs: nn.Module,
    batch: Batch,
    dtypes: tuple[torch.dtype, ...] = (torch.float64, torch.float32),
    floor: float = 2e-6,
) -> None:
    """Values and gradients agree, relative to the largest entry.

    float64: up to 1e-10 (sums in another order, distances by another formula).
    float32: the error against their float64 is at most twice theirs, plus ``floor``.

    Where theirs is the mean of no losses at all, NaN, ours is 0 and so are its gradients.
    """
    exact = value_and_gradients(theirs, batch, torch.float64)
    if exact[0].isnan() and batch.embeddings.isfinite().all():
        for dtype in dtypes:
            assert not any(x.any() for x in value_and_gradients(ours, batch, dtype))
        return
    for dtype in dtypes:
        actual = value_and_gradients(ours, batch, dtype)
        plain = value_and_gradients(theirs, batch, dtype)
        for output, (a, e, p) in enumerate(zip(actual, exact, plain, strict=True)):
            assert a.shape == e.shape
            if e.numel() == 0:
                continue
            error = (a - e).abs().max().item()
            relative = (1e-10 if dtype == torch.float64 else floor) * (1 + e.abs().max().item())
            limit = 2 * (p - e).abs().max().item() + relative
            assert error <= limit, (
                f"{type(ours).__name__} in {dtype}, output {output}: {error:.3g} > {limit:.3g}"
            )
