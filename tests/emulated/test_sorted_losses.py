"""Every loss by the emulated kernels on sorted rows, against the tiles on rows as given."""

from __future__ import annotations

import inspect

import pytest
import torch

from fusedml import functional
from fusedml.routes import label_order

LOSSES = {
    name: loss
    for name, loss in vars(functional).items()
    if name.endswith("_loss")
    and not name.startswith("_")
    and {"backend", "labels"} <= inspect.signature(loss).parameters.keys()
}

# two tiles and a ragged one
N = 300
NUM_CLASSES = 70


def run(loss, kind, backend, reduction):
    """Losses, and the gradients of all embeddings by a random combination of them."""
    generator = torch.Generator().manual_seed(0)

    def leaf(rows):
        x = torch.randn(rows, 20, generator=generator, dtype=torch.float64)
        return x.requires_grad_()

    embeddings, others = leaf(N), leaf(N)
    labels, other_labels = torch.randint(NUM_CLASSES, (2, N), generator=generator)
    leaves, options = [embeddings], {}
    if kind == "proxies":
        leaves.append(leaf(NUM_CLASSES))
        options["proxies"] = leaves[1]
    elif kind != "self":
        leaves.append(others)
        options["ref_emb"] = others
        options["ref_labels"] = labels if kind == "shared labels" else other_labels
    losses = loss(embeddings, labels, backend=backend, reduction=reduction, **options)
    weights = torch.rand(losses.shape, generator=generator, dtype=torch.float64)
    return [losses, *torch.autograd.grad(losses, leaves, weights)]


def kinds_of(loss):
    parameters = inspect.signature(loss).parameters
    if "proxies" in parameters:
        return ["proxies"]
    if "ref_emb" in parameters:
        return ["self", "references", "shared labels"]
    return ["self"]


CASES = [(name, kind) for name, loss in LOSSES.items() for kind in kinds_of(loss)]


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_sorted_equals_tiles(emulated, monkeypatch, name, kind, reduction):
    monkeypatch.setattr(label_order, "LEAST_ROWS", 1)
    exact = run(LOSSES[name], kind, "torch", reduction)
    ours = run(LOSSES[name], kind, "emulated", reduction)
    for actual, expected in zip(ours, exact, strict=True):
        assert actual.shape == expected.shape
        assert (actual - expected).abs().max() <= 1e-11 * expected.abs().max()


def test_all_losses_and_kinds():
    assert len(CASES) == 5 * 3 + 2
