from __future__ import annotations

import math
import time

import pytest

from benchmarks.cases import Case
from benchmarks.harness import (
    PRODUCTS,
    WrongResultError,
    check,
    interleave,
    relative_errors,
    summarise,
    timed_steps,
)
from benchmarks.providers import dense_autograd, fused
from tests.benchmarks import misbehaving

CASE = Case("MultiSimilarityLoss", n=80, d=16)


def test_a_right_provider_passes_with_its_errors():
    errors = check(CASE, fused, "fusedml")
    assert 0 <= errors.value < 1e-5 and 0 < errors.gradient < 1e-5


def test_float64_dense_has_no_error_in_float64():
    case = Case("MultiSimilarityLoss", n=80, d=16, dtype="float64")
    assert relative_errors(case, dense_autograd) == (0, 0)


@pytest.mark.parametrize(
    ("provider", "kind"),
    [
        (misbehaving.wrong_value, "value"),
        (misbehaving.wrong_gradient, "gradient"),
        (misbehaving.not_a_number, "value"),
    ],
)
def test_a_wrong_provider_is_caught(provider, kind):
    message = f"culprit computes MultiSimilarityLoss with a relative {kind} error of "
    with pytest.raises(WrongResultError, match=message):
        check(CASE, provider, "culprit")


def test_a_wrong_gradient_of_a_single_proxy_is_caught():
    case = Case("ProxyAnchorLoss", n=80, d=16, num_classes=30)
    with pytest.raises(WrongResultError):
        check(case, misbehaving.wrong_at_one_proxy)


def test_a_slow_provider_is_ranked_slower():
    steps = dict(timed_steps(CASE, {"slow": misbehaving.slow, "fusedml": fused}))
    timings = interleave(steps, min_rounds=3, max_rounds=3)
    assert set(timings) == {"slow", "fusedml", PRODUCTS}
    assert timings["slow"].median_ms >= 20
    assert timings["slow"].median_ms > timings["fusedml"].median_ms > timings[PRODUCTS].median_ms


def test_rounds_begin_with_another_step_each():
    calls = []
    steps = {
        name: lambda name=name: (calls.append(name), time.sleep(0.011))  # one call a round
        for name in ("first", "second")
    }
    timings = interleave(steps, min_rounds=2, max_rounds=2)
    assert calls[4:] == ["first", "second", "second", "first"]  # after two calls of each
    assert timings["first"].rounds == 2


def test_each_step_follows_every_other():
    calls = []
    steps = {name: lambda name=name: (calls.append(name), time.sleep(0.011)) for name in "abc"}
    interleave(steps, min_rounds=6, max_rounds=6)
    rounds = ["".join(calls[k : k + 3]) for k in range(6, len(calls), 3)]
    assert sorted(rounds) == ["abc", "acb", "bac", "bca", "cab", "cba"]


def test_what_the_step_before_has_left_behind_is_not_timed():
    before = []

    def short():
        time.sleep(0.2 if before[-1] == "large" else 0.001)
        before.append("short")

    steps = {"large": lambda: before.append("large") or time.sleep(0.02), "short": short}
    assert interleave(steps, min_rounds=4, max_rounds=4)["short"].p80_ms < 10


def test_a_step_longer_than_the_budget_is_timed_three_times():
    steps = {"long": lambda: time.sleep(0.1), "short": lambda: None}
    timings = interleave(steps, min_rounds=5, max_rounds=6, seconds=0.05)
    assert timings["long"].rounds == 3 and timings["long"].median_ms >= 100
    assert timings["short"].rounds >= 5
    assert interleave({"long": steps["long"]}, seconds=0.05)["long"].rounds == 3


def test_the_first_call_of_a_long_step_does_not_count():
    pauses = iter([1.0, *[0.1] * 4])
    timings = interleave({"cold": lambda: time.sleep(next(pauses))}, seconds=0.05)
    assert timings["cold"].rounds == 3 and 100 <= timings["cold"].p80_ms < 900


def test_nothing_to_time():
    assert interleave({}) == {}


def test_summary():
    timing = summarise([5.0, 1.0, 2.0, 4.0, 3.0, 6.0])
    assert (timing.median_ms, timing.p20_ms, timing.p80_ms, timing.rounds) == (3.5, 2, 5, 6)
    assert summarise([7.0]).p80_ms == 7 and not math.isnan(summarise([1.0, 2.0]).p20_ms)
