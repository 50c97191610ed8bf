"""Memory of mining large batches, in a process of its own."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from torch import Tensor

from benchmarks.memory import fresh_processes, measure_peak
from fusedml import miners

# megabytes by rows: less than half a matrix of float32, and at the larger size less than a mask
MOST_MB = {8192: 128, 16384: 200}


def batch(n: int) -> tuple[Tensor, Tensor]:
    """Four samples a class, near their centres: what is listed grows with n."""
    torch.manual_seed(0)
    centers = torch.randn(n // 4, 64).repeat(4, 1)
    return centers + 0.1 * torch.randn(n, 64), torch.arange(n // 4).repeat(4)


def measured_here(miner: str, n: int) -> tuple[float, int]:
    torch.set_num_threads(1)
    made = eval(miner, {"miners": miners, "torch": torch})
    made(*batch(64))  # code is loaded
    x, labels = batch(n)
    mined: list[tuple[Tensor, ...]] = []
    peak = measure_peak(lambda: mined.append(made(x, labels)))
    return peak / 1e6, sum(map(len, mined[0]))


LINEAR = [
    "miners.MultiSimilarityMiner(0.45)",
    "miners.BatchHardMiner()",
    "miners.BatchEasyHardMiner()",
    "miners.BatchEasyHardMiner('all', 'hard', (0, 1), (0, 1))",
    "miners.DistanceWeightedMiner()",
    "miners.UniformHistogramMiner()",
    "miners.PairMarginMiner(0.1, 0.5)",
    "miners.TripletMarginMiner(0.75, 'semihard')",
    "miners.AngularMiner(4.8)",
    "miners.HDCMiner(0.0005)",
]


# the larger size takes minutes for all of them: one that ranks and one that lists
AT_LARGER_SIZE = ("miners.MultiSimilarityMiner", "miners.PairMarginMiner")
CASES = [(8192, miner) for miner in LINEAR if not miner.startswith(AT_LARGER_SIZE)]
CASES += [(16384, miner) for miner in LINEAR if miner.startswith(AT_LARGER_SIZE)]


def measured(miner: str, n: int) -> tuple[float, int]:
    """MB above what was there before, and how many numbers were listed."""
    with ProcessPoolExecutor(1, fresh_processes()) as pool:
        return pool.submit(measured_here, miner, n).result()


# where the heap's free space lies differs from process to process, and with it the peak (of one
# miner 64 to 133 MB); what a miner needs is what it gets by in one of these
PROCESSES = 3


@pytest.mark.parametrize(("n", "miner"), CASES)
def test_lists_that_grow_with_n(n: int, miner: str) -> None:
    peaks: list[float] = []
    while len(peaks) < PROCESSES and not any(peak < MOST_MB[n] for peak in peaks):
        megabytes, listed = measured(miner, n)
        assert 0 < listed < 64 * n
        peaks.append(megabytes)
    assert min(peaks) < MOST_MB[n]


@pytest.mark.parametrize("n", MOST_MB)
def test_half_a_matrix_would_be_seen(n: int) -> None:
    half = "lambda x, labels: (torch.ones(len(x), len(x) // 2)[:, :1],)"
    assert min(measured(half, n)[0] for _ in range(PROCESSES)) > MOST_MB[n]
