"""What fusedml promises on a CPU, and whether a results file shows it.

Float32, 2 threads, 4 samples a class, forward and backward, medians of interleaved rounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.cases import FORWARD_BACKWARD, MEASURED
from benchmarks.miners import MINERS, MinerRow
from benchmarks.providers import CROSS_ENTROPY, FUSED
from benchmarks.results import Row

# times faster than dense at n = 4096, and times as slow as Multi-Similarity: each loss says it
SPEED = {
    (name, d): least
    for name, loss in MEASURED.items()
    for d, least in loss.promises.speedup.items()
}
RELATIVES = {
    (name, d): most for name, loss in MEASURED.items() for d, most in loss.promises.relative.items()
}


@dataclass(frozen=True)
class Verdict:
    """One promise, what was measured and whether it is kept; nothing measured is not kept."""

    promise: str
    measured: float
    is_met: bool

    def __str__(self) -> str:
        measured = "not measured" if math.isnan(self.measured) else f"{self.measured:.3g}"
        return f"{'met   ' if self.is_met else 'NOT MET'} {self.promise}: {measured}"


def _most_extra_mb(loss: str, n: int, d: int) -> float | None:
    of_loss = MEASURED[loss].promises.extra_mb
    return {(4096, 128): of_loss, (65536, 128): 300.0}.get((n, d))


def _not_slower_from(loss: str) -> int | None:
    return MEASURED[loss].promises.not_slower_from


def check_targets(rows: list[Row]) -> list[Verdict]:
    """All promises against the rows, in the order above."""
    found = {
        (row.loss, row.provider, row.n, row.d): row
        for row in rows
        if row.direction == FORWARD_BACKWARD and row.dtype == "float32"
    }

    def milliseconds(loss: str, provider: str, n: int, d: int) -> float:
        row = found.get((loss, provider, n, d))
        return row.median_ms if row else math.nan

    verdicts = []
    for (loss, d), least in SPEED.items():
        ratio = milliseconds(loss, "dense", 4096, d) / milliseconds(loss, "fusedml", 4096, d)
        promise = f"{loss} at n = 4096, d = {d} at least {least:g}x faster than dense"
        verdicts.append(Verdict(promise, ratio, ratio >= least))
    for (loss, d), most in RELATIVES.items():
        base = milliseconds("MultiSimilarityLoss", "fusedml", 4096, d)
        ratio = milliseconds(loss, "fusedml", 4096, d) / base
        promise = f"{loss} at n = 4096, d = {d} at most {most:g}x the time of Multi-Similarity"
        verdicts.append(Verdict(promise, ratio, ratio <= most))
    for (loss, provider, n, d), row in found.items():
        if provider != FUSED or loss not in MEASURED:  # a variant promises nothing
            continue
        most_mb = _most_extra_mb(loss, n, d)
        if most_mb is not None:
            promise = f"{loss} at n = {n}, d = {d} at most {most_mb:g} MB extra"
            verdicts.append(Verdict(promise, row.peak_extra_mb, row.peak_extra_mb <= most_mb))
        dense_ms, least_n = milliseconds(loss, "dense", n, d), _not_slower_from(loss)
        if not math.isnan(dense_ms) and least_n is not None and n >= least_n:
            ratio = dense_ms / row.median_ms
            promise = f"{loss} at n = {n}, d = {d} not slower than dense (ratio)"
            verdicts.append(Verdict(promise, ratio, ratio >= 1))
        # the files that hold this provider hold queries and their documents
        bare_ms = milliseconds(loss, CROSS_ENTROPY, n, d)
        least_n = MEASURED[loss].promises.not_slower_in_retrieval_from
        if not math.isnan(bare_ms) and least_n is not None and n >= least_n:
            ratio = bare_ms / row.median_ms
            promise = f"{loss} at n = {n}, d = {d} not slower than F.cross_entropy (ratio)"
            verdicts.append(Verdict(promise, ratio, ratio >= 1))
    return verdicts


# at which a miner's memory is promised
_MINED_N, _MINED_D = 16384, 128


def check_miner_targets(rows: list[MinerRow]) -> list[Verdict]:
    """What each miner's class promises, against the rows."""
    found = {
        row.miner: row
        for row in rows
        if (row.provider, row.n, row.d) == (FUSED, _MINED_N, _MINED_D)
    }
    verdicts = []
    for name, miner in MINERS.items():
        most_mb = miner.most_extra_mb
        measured = found[name].peak_extra_mb if name in found else math.nan
        promise = f"{name} at n = {_MINED_N}, d = {_MINED_D} at most {most_mb:g} MB extra"
        verdicts.append(Verdict(promise, measured, measured <= most_mb))
    return verdicts
