from __future__ import annotations

import math

import pytest

from benchmarks.fit import fit_exponent, growths
from tests.benchmarks.rows import row


def test_exponent_of_a_power():
    sizes = [1024, 2048, 8192]
    assert fit_exponent(sizes, [3 * n**1.7 for n in sizes]) == pytest.approx(1.7)


def test_exponent_of_noisy_values_is_the_least_squares_one():
    # logarithms 0, 1, 2 and 0, 2, 1 (of base e): slope 1/2
    assert fit_exponent([1, math.e, math.e**2], [1, math.e**2, math.e]) == pytest.approx(0.5)


@pytest.mark.parametrize("values", [[1, 2], [1, 2, math.nan], [1, 2, 0]])
def test_too_few_values_have_no_exponent(values):
    assert math.isnan(fit_exponent([1, 2, 4][: len(values)], values))


def test_growth_leaves_out_small_batches_and_names_the_stop():
    study = [
        row(provider="dense", n=n, ms=0.001 * n**2 if n >= 1024 else 7, mb=n, d=64)
        for n in (256, 1024, 2048, 4096)
    ]
    study += [
        row(provider="dense", n=8192, why="out of memory", d=64),
        row(provider="dense", n=16384, why="not tried: out of memory at n = 8192", d=64),
    ]
    (growth,) = growths(study)
    assert growth.time_exponent == pytest.approx(2)
    assert growth.memory_exponent == pytest.approx(1)
    assert (growth.largest_n, growth.stops_at, growth.stop) == (4096, 8192, "out of memory")


def test_who_did_everything_has_no_stop_and_who_did_nothing_no_size():
    done, failed = growths([row(), row(provider="dense", why="out of time")])
    assert (done.largest_n, done.stops_at, done.stop) == (4096, 0, "")
    assert (failed.largest_n, failed.stops_at) == (0, 4096)
