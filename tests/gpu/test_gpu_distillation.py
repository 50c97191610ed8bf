"""Losses with a teacher on the GPU: pure PyTorch there as well, and the numbers of the CPU."""

from __future__ import annotations

import pytest
import torch

from fusedml.losses import DISTILLATION_LOSSES
from tests.gpu.device import DEVICE, needs_gpu


@needs_gpu
@pytest.mark.parametrize("name", DISTILLATION_LOSSES)
@pytest.mark.parametrize("n", [66, 1500])  # one tile, and several
def test_the_numbers_of_the_cpu(name: str, n: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, t = (torch.randn(n, d, generator=generator, dtype=torch.float64) for d in (16, 24))
    labels = torch.arange(n) // 3
    loss = DISTILLATION_LOSSES[name].of_weights(None)
    found = []
    for device in ("cpu", DEVICE, DEVICE):
        rows = x.to(device).requires_grad_()
        value = loss.of_teacher(rows, labels.to(device), t.to(device))
        found.append([value.cpu(), torch.autograd.grad(value, rows)[0].cpu()])
    torch.testing.assert_close(found[0], found[1])
    assert all(map(torch.equal, *found[1:]))
