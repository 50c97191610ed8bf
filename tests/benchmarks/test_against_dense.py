from __future__ import annotations

import pytest

from benchmarks import against_dense, report
from benchmarks.cases import Case
from benchmarks.memory import Usage
from benchmarks.results import describe_machine, read_rows
from tests.benchmarks import misbehaving

QUICK = ["--threads", "1", "--rounds", "2", "--seconds", "0.1", "--memory-limit-gb", "2"]


def test_writes_a_row_for_each_provider_and_direction(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    status = against_dense.main(
        [
            *QUICK,
            *("--losses", "MultiSimilarityLoss", "--n", "256", "--d", "16"),
            *("--directions", "forward", "forward+backward", "--output", str(path)),
        ]
    )
    assert status == 0
    rows = read_rows(path)
    assert [(row.provider, row.direction) for row in rows] == [
        (provider, direction)
        for direction in ("forward", "forward+backward")
        for provider in ("fusedml", "dense", "pytorch-metric-learning")
    ]
    assert all(row.outcome == "ok" and row.median_ms > 0 and row.rounds >= 2 for row in rows)
    assert all(row.products_ms > 0 and 0 <= row.gradient_error < 1e-5 for row in rows)
    assert report.table(rows) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("provider", "outcome"),
    [
        (misbehaving.wrong_gradient, "wrong: culprit computes MultiSimilarityLoss with"),
        (misbehaving.too_large, "out of memory"),
        (misbehaving.broken, "failed: KeyError"),
    ],
)
def test_a_bad_provider_is_a_row_without_a_time(provider, outcome):
    options = against_dense.parse_arguments(QUICK)
    case = Case("MultiSimilarityLoss", n=80, d=8)
    (row,) = against_dense.compare(case, {"culprit": provider}, options, describe_machine("cpu", 1))
    assert row.outcome.startswith(outcome)
    assert not row.median_ms > 0


def test_a_provider_that_is_wrong_at_the_full_size_only_is_caught():
    usages = {
        "dense": Usage("ok", 1, 1, 2.0),
        "same": Usage("ok", 1, 1, 2.00001),
        "other": Usage("ok", 1, 1, 2.001),
    }
    against_dense.check_agreement(usages, Case("MultiSimilarityLoss", n=8, d=2))
    assert usages["same"].outcome == "ok"
    assert usages["other"].outcome == "wrong: 2.001, dense: 2"


def test_bad_arguments_are_named(capsys):
    with pytest.raises(SystemExit):
        against_dense.parse_arguments(["--n", "0"])
    assert "n must be at least 1, got 0" in capsys.readouterr().err
