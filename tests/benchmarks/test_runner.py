from __future__ import annotations

import pytest

from benchmarks import runner
from benchmarks.cases import Case
from benchmarks.memory import Usage
from benchmarks.providers import PROVIDERS
from benchmarks.results import describe_machine
from benchmarks.runner import Limits, Stops
from tests.benchmarks import misbehaving

LIMITS = Limits(threads=1, seconds=0.1, rounds=2, memory_gb=2)
CASE = Case("MultiSimilarityLoss", n=80, d=8)


@pytest.mark.parametrize(
    ("provider", "outcome"),
    [
        (misbehaving.wrong_gradient, "wrong: culprit computes MultiSimilarityLoss with"),
        (misbehaving.too_large, "out of memory"),
        (misbehaving.broken, "failed: KeyError"),
        (PROVIDERS["cut-cross-entropy"], "needs a GPU"),
    ],
)
def test_a_bad_provider_is_a_row_without_a_time(provider, outcome):
    (row,) = runner.compare(CASE, {"culprit": provider}, LIMITS, describe_machine("cpu", 1))
    assert row.outcome.startswith(outcome)
    assert not row.median_ms > 0


def test_a_provider_that_is_wrong_at_the_full_size_only_is_caught():
    usages = {
        "dense": Usage("ok", 1, 1, 2.0),
        "same": Usage("ok", 1, 1, 2.00001),
        "other": Usage("ok", 1, 1, 2.001),
    }
    runner.check_agreement(usages, Case("MultiSimilarityLoss", n=8, d=2))
    assert usages["same"].outcome == "ok"
    assert usages["other"].outcome == "wrong: 2.001, dense: 2"


@pytest.mark.parametrize(("loss", "outcome"), [(0.0, "ok"), (0.1, "wrong: 0.1, dense: 0")])
def test_a_loss_of_zero_is_compared_too(loss, outcome):
    usages = {"dense": Usage("ok", 1, 1, 0.0), "other": Usage("ok", 1, 1, loss)}
    runner.check_agreement(usages, Case("MultiSimilarityLoss", n=8, d=2))
    assert usages["other"].outcome == outcome


def size(n, d=128):
    return Case("MultiSimilarityLoss", n, d)


@pytest.mark.parametrize("outcome", ["out of memory", "out of time"])
def test_who_stopped_is_not_tried_at_larger_sizes(outcome):
    stops = Stops(60)
    stops.note(size(2048), "dense", Usage(outcome))
    assert stops.reason(size(4096), "dense") == f"not tried: {outcome} at n = 2048"
    assert stops.reason(size(1024), "dense") is None
    assert stops.reason(size(4096), "fusedml") is None
    assert stops.reason(size(4096, d=512), "dense") is None


def test_who_would_take_too_long_is_not_tried():
    stops = Stops(60)
    stops.note(size(8192), "dense", Usage("ok", 1, 14.0, 1))
    assert stops.reason(size(16384), "dense") is None  # 56 s
    assert stops.reason(size(32768), "dense") == (
        "not tried: took 14 s at n = 8192, would take about 224 s, more than 60 s"
    )
    # a small step is all overhead and says nothing of larger ones
    stops.note(size(64), "fusedml", Usage("ok", 1, 1.0, 1))
    assert stops.reason(size(65536), "fusedml") is None


def test_classes_are_the_size_of_proxy_losses():
    stops = Stops(60)
    cases = [Case("ProxyAnchorLoss", 512, 128, 8, classes) for classes in (10_000, 100_000)]
    stops.note(cases[0], "dense", Usage("out of memory"))
    assert stops.reason(cases[1], "dense") == "not tried: out of memory at 10000 classes"


def test_a_long_step_is_timed_again_however_long_the_first_call_was(monkeypatch):
    monkeypatch.setattr(runner.memory, "measure", lambda *_: Usage("ok", 5.0, 46.0, 1.0))
    monkeypatch.setattr(runner, "check", lambda *_: runner.Errors(0, 0))
    (row,) = runner.compare(CASE, {"dense": PROVIDERS["dense"]}, LIMITS, describe_machine("cpu", 1))
    assert row.outcome == "ok" and row.median_ms < 46_000 and row.rounds >= LIMITS.rounds
    assert row.products_ms > 0


def test_run_hands_over_the_rows_after_each_case(monkeypatch):
    monkeypatch.setattr(runner.memory, "measure", lambda *_: Usage("out of memory"))
    handed = []
    plan = {size(64): ["fusedml", "dense"], size(128): ["fusedml"]}
    rows = runner.run(
        plan, LIMITS, describe_machine("cpu", 1), lambda rows: handed.append(len(rows))
    )
    assert handed == [2, 3]
    assert [row.outcome for row in rows] == [
        "out of memory",
        "out of memory",
        "not tried: out of memory at n = 64",
    ]
