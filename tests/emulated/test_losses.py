"""Every loss by the emulated kernels against the tiled pure-PyTorch kernels."""

from __future__ import annotations

import inspect
from functools import partial

import pytest
import torch

from fusedml import functional

LOSSES = {
    name: loss
    for name, loss in vars(functional).items()
    if name.endswith("_loss")
    and not name.startswith("_")
    and {"backend", "labels"} <= inspect.signature(loss).parameters.keys()
}
# of value and gradients: largest error against float64, relative to the largest entry
TOLERANCES = {
    torch.float64: (1e-12, 1e-11),
    torch.float32: (2e-5, 5e-4),
    torch.bfloat16: (4e-2, 1e-1),
}


def run(loss, backend, dtype):
    """Value, and gradients of embeddings and proxies, in float64."""
    generator = torch.Generator().manual_seed(0)

    def leaf(rows):
        x = torch.randn(rows, 20, generator=generator, dtype=torch.float64)
        return x.to(dtype).clone().requires_grad_()

    leaves = [leaf(70)]
    labels = torch.randint(8, (70,), generator=generator)
    options = {}
    if "proxies" in inspect.signature(loss).parameters:
        leaves.append(leaf(8))
        options["proxies"] = leaves[1]
    value = loss(leaves[0], labels, backend=backend, **options)
    value.sum().backward()
    return [value.detach().double(), *(x.grad.double() for x in leaves)]


def test_losses_are_found():
    assert len(LOSSES) >= 7


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", LOSSES)
def test_emulated_equals_torch(emulated, route, name, dtype):
    exact = run(LOSSES[name], "torch", torch.float64)
    ours = run(LOSSES[name], "emulated", dtype)
    value_tolerance, gradient_tolerance = TOLERANCES[dtype]
    for k, (actual, expected) in enumerate(zip(ours, exact, strict=True)):
        error = (actual - expected).abs().max() / expected.abs().max()
        assert error <= (gradient_tolerance if k else value_tolerance)


def test_mining(emulated, route):
    # in float64 only: elsewhere rounding may move a pair across its row's threshold
    loss = partial(functional.multi_similarity_loss, mining_epsilon=0.1)
    ours, exact = run(loss, "emulated", torch.float64), run(loss, "torch", torch.float64)
    for actual, expected in zip(ours, exact, strict=True):
        assert (actual - expected).abs().max() <= 1e-11 * expected.abs().max()
