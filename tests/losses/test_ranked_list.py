"""Ranked list loss: what is its own, beside pytorch-metric-learning's."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning import distances as pml_distances
from pytorch_metric_learning import losses as pml_losses

from fusedml.distances import LpDistance
from fusedml.losses import RankedListLoss

ARGUMENTS = [
    {"margin": 1, "Tn": 0, "alpha": 3},
    {"margin": 1, "Tn": 2, "alpha": 3, "Tp": 1.5, "imbalance": 0.2},
    {"margin": 4, "Tn": 0.5, "alpha": 2, "Tp": -1},  # distances of 0 are left out
    {"margin": 0.4, "Tn": 1},
]


@pytest.mark.usefixtures("whole_or_tiles")
@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("n", [1, 2, 40, 120, 820])
def test_whole_numbers(n: int, arguments: dict[str, float]) -> None:
    """On a line: distances at both ends of the intervals, and of 0, everywhere."""
    generator = torch.Generator().manual_seed(n)
    x = torch.randint(0, 5, (n, 1), generator=generator).double().requires_grad_()
    labels = torch.randint(0, max(1, n // 4), (n,), generator=generator)
    given = {"normalize_embeddings": False}
    ours = RankedListLoss(distance=LpDistance(**given), **arguments)(x, labels)
    theirs = pml_losses.RankedListLoss(distance=pml_distances.LpDistance(**given), **arguments)
    expected = theirs(x, labels)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    grads = (torch.autograd.grad(loss, x)[0] for loss in (ours, expected))
    torch.testing.assert_close(*grads, rtol=1e-11, atol=1e-12)


def test_arguments() -> None:
    assert RankedListLoss(0.4, 1).alpha == 1.2
    with pytest.raises(ValueError, match=r"imbalance must be in \[0, 1\], got 1.5"):
        RankedListLoss(0.4, 1, imbalance=1.5)
    with pytest.raises(ValueError, match="margin must be a number, got nan"):
        RankedListLoss(float("nan"), 1)
    with pytest.warns(UserWarning, match="Tp and Tn above 5 may overflow, got 0 and 6"):
        RankedListLoss(0.4, 6)


def test_imbalance_is_learnt() -> None:
    x, labels = torch.randn(40, 4, dtype=torch.float64), torch.arange(40) % 10
    imbalance = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    grads = [
        torch.autograd.grad(RankedListLoss(1, 1, imbalance, backend=kind)(x, labels), imbalance)
        for kind in ("auto", "dense")
    ]
    torch.testing.assert_close(*grads)
    assert grads[0][0] != 0


def test_numbers_that_change_compile_again() -> None:
    x, labels = torch.randn(40, 4), torch.arange(40) % 10
    loss = RankedListLoss(0.4, 1)
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    for margin in (0.4, 1.0):
        loss.margin = margin
        torch.testing.assert_close(compiled(x, labels), loss(x, labels))
