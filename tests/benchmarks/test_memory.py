from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks import memory
from benchmarks.cases import Case
from benchmarks.providers import dense_autograd, fused
from tests.benchmarks import misbehaving

CASE = Case("MultiSimilarityLoss", n=512, d=16)
LIMIT_GB = 2.0


def test_peak_is_seen_although_it_is_freed():
    peak = memory.measure_peak(lambda: torch.ones(12_500_000).add_(1))
    assert 45e6 < peak < 70e6


def test_the_full_matrix_takes_several_times_its_size():
    case = replace(CASE, n=1024)
    matrix_mb = 4 * case.n**2 / 1e6
    dense = memory.measure(dense_autograd, case, 1, LIMIT_GB)
    ours = memory.measure(fused, case, 1, LIMIT_GB)
    assert dense.outcome == ours.outcome == "ok"
    assert dense.peak_extra_mb > 5 * matrix_mb
    assert ours.peak_extra_mb < 3 * matrix_mb
    assert ours.loss == pytest.approx(dense.loss, rel=1e-5)


def test_a_memory_hog_is_seen():
    usage = memory.measure(misbehaving.memory_hog, CASE, 1, LIMIT_GB)
    assert usage.outcome == "ok"
    assert usage.peak_extra_mb >= misbehaving.HOG_BYTES / 1e6 - 1  # counters of threads lag behind


def test_what_does_not_fit_says_so():
    assert memory.measure(misbehaving.too_large, CASE, 1, LIMIT_GB).outcome == "out of memory"


def test_what_takes_too_long_says_so():
    usage = memory.measure(misbehaving.never_ready, CASE, 1, LIMIT_GB, limit_s=1)
    assert usage.outcome == "out of time"


def test_what_fails_says_how():
    usage = memory.measure(misbehaving.broken, CASE, 1, LIMIT_GB)
    assert usage.outcome == "failed: KeyError: 'no such loss'"
