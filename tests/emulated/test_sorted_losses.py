"""Every loss by the emulated kernels on sorted rows, against the tiles on rows as given."""

from __future__ import annotations

import pytest
import torch

from fusedml import functional
from fusedml.engine.routes import label_order
from fusedml.losses import LOSSES as KINDS

LOSSES = {name: functional.FUNCTIONS[name] for name in KINDS}

# two tiles and a ragged one
N = 300
NUM_CLASSES = 70


def run(name, kind, backend, reduction):
    """Losses, and the gradients of all embeddings by a random combination of them."""
    generator = torch.Generator().manual_seed(0)

    def leaf(rows):
        x = torch.randn(rows, 20, generator=generator, dtype=torch.float64)
        return x.requires_grad_()

    embeddings, others = leaf(N), leaf(N)
    labels, other_labels = torch.randint(NUM_CLASSES, (2, N), generator=generator)
    leaves, options = [embeddings], dict(KINDS[name].example_arguments)
    if kind == "class vectors":
        shape = KINDS[name].weights_shape(NUM_CLASSES, embeddings.shape[1])
        weights = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        leaves.append(weights)
        options[KINDS[name].weights_name] = weights
    elif kind != "self":
        leaves.append(others)
        options["ref_emb"] = others
        options["ref_labels"] = labels if kind == "shared labels" else other_labels
    losses = LOSSES[name](embeddings, labels, backend=backend, reduction=reduction, **options)
    weights = torch.rand(losses.shape, generator=generator, dtype=torch.float64)
    return [losses, *torch.autograd.grad(losses, leaves, weights)]


def kinds_of(name):
    if KINDS[name].weights_name:
        return ["class vectors"]
    if KINDS[name].takes_references:
        return ["self", "references", "shared labels"]
    return ["self"]


CASES = [(name, kind) for name in LOSSES for kind in kinds_of(name)]


@pytest.mark.parametrize(
    ("name", "kind", "reduction"),
    [(*case, ("none", "mean")[i % 2]) for i, case in enumerate(CASES)],
)
def test_sorted_equals_tiles(emulated, monkeypatch, name, kind, reduction):
    monkeypatch.setattr(label_order, "LEAST_ROWS", 1)
    exact = run(name, kind, "torch", reduction)
    ours = run(name, kind, "emulated", reduction)
    for actual, expected in zip(ours, exact, strict=True):
        assert actual.shape == expected.shape
        assert (actual - expected).abs().max() <= 1e-11 * expected.abs().max()


def test_all_losses_and_kinds():
    with_references = [name for name, loss in KINDS.items() if loss.takes_references]
    assert len(CASES) == len(KINDS) + 2 * len(with_references)
    assert len(with_references) >= 5
