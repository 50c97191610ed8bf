"""The script of the first times on a GPU, at small sizes on a CPU."""

from __future__ import annotations

import math

import pytest

from benchmarks import gpu_goals
from benchmarks.gpu_goals import DENSE, FUSED, Goal
from benchmarks.results import read_rows


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    def run_script(*goals):
        monkeypatch.setattr(gpu_goals, "GOALS", goals)
        path = tmp_path / "goals.csv"
        status = gpu_goals.main(
            ["--output", str(path), "--device", "cpu", "--shrink", "8", "--seconds", "0.01"]
        )
        return status, read_rows(path), capsys.readouterr().out

    return run_script


def test_every_size_is_a_row_with_its_verdict(run):
    goals = Goal(512, 16, "float32", {DENSE: 1e-9}), Goal(800, 8, "bfloat16", {}, most_ms=1e-9)
    status, rows, output = run(*goals)
    assert status == 0
    assert [(row.provider, row.n, row.d) for row in rows] == [
        (FUSED, 64, 16),
        (DENSE, 64, 16),
        (FUSED, 100, 8),
    ]
    assert all(row.median_ms > 0 and row.products_ms > 0 for row in rows)
    assert "met     1e-09x faster than dense" in output
    assert "NOT MET at most 1e-09 ms" in output


def test_a_provider_that_fails_is_a_row_that_says_so(run, monkeypatch):
    def broken(case, problem):
        def loss():
            raise RuntimeError("no such kernel")

        return loss

    monkeypatch.setitem(gpu_goals.PROVIDERS, FUSED, broken)
    status, rows, output = run(Goal(512, 16, "float32", {DENSE: 1}), Goal(512, 8, "float32", {}))
    assert status == 1
    assert [row.outcome for row in rows] == [
        "failed: RuntimeError: no such kernel",
        "ok",
        "failed: RuntimeError: no such kernel",
    ]
    assert math.isnan(rows[0].median_ms)
    assert rows[1].median_ms > 0
    assert "NOT MET 1x faster than dense: nanx" in output


def test_goals_are_those_of_the_h100():
    by_size = {(goal.n, goal.d, goal.dtype): goal for goal in gpu_goals.GOALS}
    assert by_size[65536, 768, "bfloat16"].most_ms == 45
    assert by_size[16384, 512, "bfloat16"].faster_than == {DENSE: 5, gpu_goals.COMPILED: 2}
    assert all(goal.case.device == "cuda" for goal in gpu_goals.GOALS)
