from __future__ import annotations

import pytest

from benchmarks.latency import PARTS, Span, break_down

STEP = Span("bench: step", 0, 100)
FORWARD = Span("bench: forward", 2, 50)
BACKWARD = Span("bench: backward", 52, 98)
NORM = Span("aten::linalg_vector_norm", 10, 11)
OPERATORS = [
    Span("fusedml::pair_statistics", 20, 30),
    Span("fusedml::inner", 22, 25),  # nested: counted once
    Span("fusedml::row_losses", 33, 40),
]
GRADIENT = Span("fusedml::pair_gradient", 60, 80)


def parts(*spans):
    return break_down(spans, STEP)


def test_a_step_is_cut_at_norms_operators_and_the_end_of_the_forward():
    found = parts(FORWARD, BACKWARD, NORM, *OPERATORS, GRADIENT, Span("fusedml::next", 110, 120))
    assert found == {
        "checks and batch": 8,
        "normalisation": 10,
        "forward operator": 17,
        "between operators": 3,
        "head and reduction": 10,
        "backward operator": 20,
        "autograd and normalisation backward": 26,
        "remaining Python": 6,
    }
    assert list(found) == list(PARTS)


@pytest.mark.parametrize(
    "spans",
    [
        (FORWARD,),
        (FORWARD, NORM),
        (FORWARD, BACKWARD, NORM),
        (FORWARD, BACKWARD, *OPERATORS, GRADIENT),
    ],
)
def test_parts_are_the_whole_step_whatever_is_missing(spans):
    assert sum(parts(*spans).values()) == STEP.end - STEP.start


def test_norms_of_the_backward_are_not_the_start_of_the_normalisation():
    late = Span(NORM.name, 70, 71)
    assert parts(FORWARD, BACKWARD, late, *OPERATORS)["normalisation"] == 0
