from __future__ import annotations

import pytest

from benchmarks.cases import Case
from examples import limits


def test_sizes_rise_to_n():
    assert limits.sizes_up_to(65536) == [1024, 4096, 16384, 65536]
    assert limits.sizes_up_to(500) == [500]


def test_time_grows_with_the_pairs():
    small, large = (Case("MultiSimilarityLoss", n, 8) for n in (100, 200))
    assert limits.predicted_seconds(1.5, small, large) == 6


def test_prints_time_memory_and_what_dense_would_need(capsys):
    arguments = ["--n", "256", "--d", "16", "--threads", "1", "--losses", "NTXentLoss"]
    assert limits.main(arguments) == 0
    name, n, seconds, extra_mb, dense_gb = capsys.readouterr().out.splitlines()[-1].split()
    assert [name, n] == [arguments[-1], "256"]
    assert float(seconds) > 0 and float(extra_mb) < 50 and float(dense_gb) < 0.1


def test_bad_sizes_are_named(capsys):
    with pytest.raises(SystemExit):
        limits.main(["--n", "-1"])
    assert "n must be at least 1, got -1" in capsys.readouterr().err
