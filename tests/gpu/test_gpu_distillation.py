"""Losses with a teacher by the CUDA kernels, against the dense formula in float64."""

from __future__ import annotations

import pytest
import torch

from fusedml.losses import DISTILLATION_LOSSES
from tests.gpu.device import BACKEND, DEVICE, IS_EMULATED, needs_gpu
from tests.loss_accuracy import check_distillation
from tests.number_types import NumberType, all_number_types


@all_number_types
@pytest.mark.parametrize("name", DISTILLATION_LOSSES)
@pytest.mark.parametrize("n", [66, 130 if IS_EMULATED else 1500])  # two tiles, and many
def test_value_and_gradients(name: str, n: int, number_type: NumberType) -> None:
    with torch.device(DEVICE):
        check_distillation(name, n, number_type, BACKEND)


@needs_gpu
@pytest.mark.parametrize("name", DISTILLATION_LOSSES)
@pytest.mark.parametrize("backend", ["cuda", "torch"])
def test_the_numbers_of_the_cpu(name: str, backend: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, t = (torch.randn(1500, d, generator=generator, dtype=torch.float64) for d in (16, 24))
    labels = torch.arange(1500) // 3
    found = []
    for device, of in (("cpu", "torch"), (DEVICE, backend), (DEVICE, backend)):
        loss = DISTILLATION_LOSSES[name].of_weights(None, backend=of)
        rows = x.to(device).requires_grad_()
        value = loss.of_teacher(rows, labels.to(device), t.to(device))
        found.append([value.cpu(), torch.autograd.grad(value, rows)[0].cpu()])
    torch.testing.assert_close(found[0], found[1])
    assert all(map(torch.equal, *found[1:]))
