"""Rows of results with chosen figures."""

from __future__ import annotations

from benchmarks.cases import Case
from benchmarks.harness import Timing
from benchmarks.memory import Usage
from benchmarks.results import describe_machine, make_row


def row(
    loss="MultiSimilarityLoss",
    provider="fusedml",
    ms=10.0,
    mb=4.0,
    n=4096,
    d=128,
    why="ok",
    products_ms=2.0,
    rounds=5,
    **case,
):
    timing = Timing(ms, ms, ms, rounds) if why == "ok" else None
    usage = Usage(why, mb) if why == "ok" else Usage(why)
    machine = describe_machine("cpu", 2)
    return make_row(Case(loss, n, d, **case), provider, machine, usage, timing, products_ms)
