"""What a backward has used is freed by it, however long the value of the loss is kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from fusedml import distances
from tests.losses.made import DIMENSION, NAMES, PAIR_LOSSES, make_batch, make_loss

# on both sides of what is held whole
SIZES = [64, 810]
EVERY = pytest.mark.parametrize("name", NAMES)
SIZE = pytest.mark.parametrize("n", SIZES)
BLOCKED = distances.LpDistance(p=1)
pytestmark = pytest.mark.filterwarnings("ignore:.*not a distance that fusedml")


def allocated_by(step: Callable[[], Tensor]) -> int:
    """Bytes on the CPU that a step leaves allocated while its result is alive."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = step()
    assert result.numel()  # alive
    events = profiler.profiler.kineto_results.events()
    return sum(event.nbytes() for event in events if event.name() == "[memory]")


def pairs_of(labels: Tensor) -> tuple[Tensor, ...]:
    """An index tuple of some pairs by label."""
    rows = torch.arange(len(labels))
    positives, negatives = rows.roll(6), rows.roll(1)
    return rows, positives, rows, negatives


def check_freed(name: str, n: int, *, has_tuple: bool = False, **arguments: object) -> None:
    loss = make_loss(name, **arguments)
    embeddings, labels = make_batch(n, torch.float32)
    indices = pairs_of(labels) if has_tuple else None

    def step() -> Tensor:
        value = loss(embeddings, labels, indices)
        value.backward()
        return value

    step()  # the gradients have their memory now
    # more than once: the profiler of PyTorch 2.6 misses some of what a step frees at first
    assert any(allocated_by(step) == 4 for _ in range(3))


@EVERY
@SIZE
def test_labels(name: str, n: int) -> None:
    check_freed(name, n)


@EVERY
@SIZE
def test_other_distances(name: str, n: int) -> None:
    check_freed(name, n, distance=BLOCKED)


@pytest.mark.parametrize("name", PAIR_LOSSES)
@SIZE
@pytest.mark.parametrize("distance", [None, BLOCKED], ids=["fused", "not fused"])
def test_tuples(name: str, n: int, distance: distances.BaseDistance | None) -> None:
    check_freed(name, n, has_tuple=True, distance=distance)


@SIZE
def test_the_test_can_fail(n: int) -> None:
    embeddings = torch.randn(n, DIMENSION, requires_grad=True)

    def step() -> Tensor:
        value = (embeddings @ embeddings.T).exp().sum()
        value.backward(retain_graph=True)
        return value

    step()
    assert allocated_by(step) >= 4 * n * n


# a loss has one of the distances with either size, its neighbour the other
@pytest.mark.parametrize(
    ("name", "n", "distance"),
    [
        (name, n, (None, BLOCKED)[(i + k) % 2])
        for i, name in enumerate(NAMES)
        for k, n in enumerate(SIZES)
    ],
)
def test_a_second_backward_is_refused_as_everywhere(
    name: str, n: int, distance: distances.BaseDistance | None
) -> None:
    embeddings, labels = make_batch(n)
    value = make_loss(name, distance=distance)(embeddings, labels)
    first = torch.autograd.grad(value, embeddings, retain_graph=True)[0]
    second = torch.autograd.grad(value, embeddings)[0]
    assert torch.equal(first, second)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(value, embeddings)
