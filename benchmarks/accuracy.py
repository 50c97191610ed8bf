"""How far each provider is from the dense formula in float64, by number type and precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

from benchmarks.cases import Case
from benchmarks.harness import relative_errors
from benchmarks.memory import outcome_of
from benchmarks.progress import Progress
from benchmarks.providers import PROVIDERS
from benchmarks.results import NAN, Machine

# of torch.set_float32_matmul_precision, which changes float32 products on a GPU alone
PRECISIONS = ("highest", "high", "medium")


@dataclass(frozen=True)
class AccuracyRow:
    """Errors of one provider, relative: of the value, and of the largest entry of a gradient.

    precision: the setting of ``torch.set_float32_matmul_precision``.
    """

    loss: str
    provider: str
    n: int
    m: int
    d: int
    references: int
    dtype: str
    precision: str
    outcome: str
    value_error: float
    gradient_error: float
    device: str
    threads: int
    torch: str
    cuda: str
    commit: str
    date: str


def measure(case: Case, name: str, precision: str, machine: Machine) -> AccuracyRow:
    """The errors of one provider, under a precision setting that is put back afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    outcome, value_error, gradient_error = "ok", NAN, NAN
    try:
        value_error, gradient_error = relative_errors(case, PROVIDERS[name])
    except Exception as error:
        outcome = outcome_of(error)
    finally:
        torch.set_float32_matmul_precision(before)
    return AccuracyRow(
        case.loss,
        name,
        case.n,
        case.num_others,
        case.d,
        case.num_references,
        case.dtype,
        precision,
        outcome,
        value_error,
        gradient_error,
        **asdict(machine),
    )


def run(
    plan: dict[Case, list[str]],
    machine: Machine,
    on_rows: Callable[[Sequence[AccuracyRow]], None],
) -> list[AccuracyRow]:
    """All rows of a plan, under a progress bar.  on_rows: is given those so far, after each."""
    wanted = [
        (case, name, precision)
        for case, names in plan.items()
        for name in names
        for precision in (PRECISIONS if _has_precisions(case) else PRECISIONS[:1])
    ]
    rows: list[AccuracyRow] = []
    with Progress(len(wanted)) as progress:
        for case, name, precision in wanted:
            progress.describe(f"{case.loss} {case.dtype}")
            rows.append(measure(case, name, precision, machine))
            on_rows(rows)
            progress.advance()
    return rows


def _has_precisions(case: Case) -> bool:
    return case.dtype == "float32" and torch.device(case.device).type == "cuda"
