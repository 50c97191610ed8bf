"""The script of the first times on a GPU, at small sizes on a CPU."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks import gpu_goals
from benchmarks.gpu_goals import COMPILED, DENSE, FUSED, Goal
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


def test_after_a_fault_a_new_process_goes_on(run, monkeypatch):
    lost, started = [], []

    def faulting(case, problem):
        def loss():
            lost.append(True)
            raise RuntimeError("an illegal memory access was encountered")

        return loss

    def after_a_fault(case, problem):  # nothing runs on a lost GPU
        if lost:
            raise RuntimeError("an illegal memory access was encountered")
        return bare_products(case, problem)

    bare_products = gpu_goals.bare_products
    monkeypatch.setitem(gpu_goals.PROVIDERS, FUSED, faulting)
    monkeypatch.setattr(gpu_goals, "bare_products", after_a_fault)
    monkeypatch.setattr(gpu_goals, "is_lost", lambda device: bool(lost))

    class ReplacedError(Exception):
        pass

    def execv(program, command):
        started.append(command)
        raise ReplacedError

    monkeypatch.setattr(gpu_goals.os, "execv", execv)
    goals = Goal(512, 16, "float32", {DENSE: 1}), Goal(512, 8, "float32", {DENSE: 1})
    with pytest.raises(ReplacedError):
        run(*goals)
    (command,) = started
    assert command[-2:] == ["--first", "1"]
    # the new process, whose GPU works, adds its rows to those of this one
    lost.clear()
    monkeypatch.undo()
    monkeypatch.setattr(gpu_goals, "GOALS", goals)
    assert gpu_goals.main(command[3:]) == 1
    rows = read_rows(Path(command[command.index("--output") + 1]))
    assert [(row.d, row.outcome[:6]) for row in rows] == [
        (16, "failed"),
        (16, "failed"),
        (8, "ok"),
        (8, "ok"),
    ]


def test_goals_are_those_of_the_h100():
    most_ms = {(goal.n, goal.d, goal.dtype): goal.most_ms for goal in gpu_goals.GOALS}
    assert most_ms[65536, 768, "bfloat16"] == 45
    faster = [(name, least) for goal in gpu_goals.GOALS for name, least in goal.faster_than.items()]
    assert (DENSE, 5) in faster
    # compiling takes long: an interrupted run has all the rest
    assert faster[-1] == (COMPILED, 2)
    assert COMPILED not in dict(faster[:-1])
    assert all(goal.case.device == "cuda" for goal in gpu_goals.GOALS)
