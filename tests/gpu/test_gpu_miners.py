"""Miners on the GPU: the tuples of the CPU, drawn ones too; kernels find and list them."""

from __future__ import annotations

import pytest
import torch

from fusedml import miners
from fusedml.losses import SupConLoss
from tests.gpu.device import DEVICE, needs_gpu

MINERS = [name for name in miners.__all__ if name not in ("BaseMiner", "MaximumLossMiner")]


@needs_gpu
@pytest.mark.parametrize("name", MINERS)
@pytest.mark.parametrize("n", [66, 1500])  # one strip, and several
def test_the_tuples_of_the_cpu(name: str, n: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 16, generator=generator, dtype=torch.float64)
    # near their centres, so that a share of HDC's size and triplets of large margin stay short
    x += 2 * torch.randn(n // 3, 16, generator=generator, dtype=torch.float64).repeat(3, 1)
    labels = torch.arange(n // 3).repeat(3)
    miner = getattr(miners, name)()
    mined = []
    for device in ("cpu", DEVICE):
        torch.manual_seed(3)
        mined.append(miner(x.to(device), labels.to(device)))
    assert all(index.device.type == DEVICE for index in mined[1])
    pairs = [[torch.stack(t[k : k + 2]) for k in range(0, len(t) - 1, 2)] for t in mined]
    for on_cpu, on_gpu in zip(*pairs, strict=True):
        found = [on_cpu, on_gpu.cpu()]
        if name == "HDCMiner":  # rounding decides which of (i, j) and (j, i) comes first
            found = [index.sort(0).values for index in found]
        assert torch.equal(*found)


@needs_gpu
def test_the_subset_of_the_cpu() -> None:
    x, labels = torch.randn(40, 8, dtype=torch.float64), torch.arange(40) % 10
    miner = miners.MaximumLossMiner(SupConLoss())
    mined = []
    for device in ("cpu", DEVICE):
        torch.manual_seed(3)
        mined.append(miner(x.to(device), labels.to(device)))
    assert torch.equal(mined[0], mined[1].cpu())
