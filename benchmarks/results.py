"""Rows of results: what was measured, on what, with what; as CSV."""

from __future__ import annotations

import csv
import datetime
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch

from benchmarks.cases import Case
from benchmarks.commit import current_commit
from benchmarks.harness import Errors, Timing
from benchmarks.memory import Usage

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
NAN = float("nan")
AnyRow = TypeVar("AnyRow")


@dataclass(frozen=True)
class Row:
    """One line of a results file.

    m: columns of the similarity matrix; its rows are n, or m too for N-pair (one pair a class), or
    the m = num_classes vectors of the losses that learn one for each class.
    references: how many other embeddings the batch is compared with; 0: with itself.
    *_ms: milliseconds a step.  products_ms: the bare matrix products in the same rounds.
    peak_extra_mb: 10^6 bytes above the inputs.  *_error: relative, against float64.
    """

    loss: str
    provider: str
    n: int
    m: int
    d: int
    references: int
    samples_per_class: int
    dtype: str
    direction: str
    outcome: str
    median_ms: float
    p20_ms: float
    p80_ms: float
    products_ms: float
    rounds: int
    peak_extra_mb: float
    value_error: float
    gradient_error: float
    device: str
    threads: int
    torch: str
    cuda: str
    commit: str
    date: str


@dataclass(frozen=True)
class Machine:
    """On what and with what a run was made."""

    device: str
    threads: int
    torch: str
    cuda: str
    commit: str
    date: str


def describe_machine(device: str, threads: int) -> Machine:
    """The machine, the versions and the commit of this run."""
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return Machine(
        _device_name(device),
        threads,
        torch.__version__,
        torch.version.cuda or "",
        current_commit(),
        today,
    )


def _device_name(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        for line in cpu_info.read_text().splitlines():
            if line.startswith("model name"):
                return f"cpu ({line.partition(':')[2].strip()})"
    return f"cpu ({platform.processor() or platform.machine()})"


def make_row(
    case: Case,
    provider: str,
    machine: Machine,
    usage: Usage,
    timing: Timing | None = None,
    products_ms: float = NAN,
    errors: Errors | None = None,
) -> Row:
    """The row of one case and provider; what was not measured is NaN."""
    timing = timing or Timing(NAN, NAN, NAN, 0)
    errors = errors or Errors(NAN, NAN)
    return Row(
        case.loss,
        provider,
        case.n,
        case.num_others,
        case.d,
        case.num_references,
        case.samples_per_class,
        case.dtype,
        case.direction,
        usage.outcome,
        timing.median_ms,
        timing.p20_ms,
        timing.p80_ms,
        products_ms,
        timing.rounds,
        usage.peak_extra_mb,
        *errors,
        **asdict(machine),
    )


def write_rows(path: Path, rows: Sequence[Any]) -> None:
    """Writes a results file anew, four significant digits a measurement.

    rows: instances of one dataclass, at least one; its fields are the columns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # as a whole, so that an interruption leaves the old file or the new one
    draft = path.with_name(f"{path.name}.part")
    with draft.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(rows[0])])
        for row in rows:
            writer.writerow(
                f"{value:.4g}" if isinstance(value, float) else value
                for value in asdict(row).values()
            )
    draft.replace(path)


def read_columns(path: Path) -> list[str]:
    """The names in the first line of a results file."""
    with path.open(newline="") as file:
        return next(csv.reader(file), [])


def read_rows(path: Path, kind: type[AnyRow] = Row) -> list[AnyRow]:  # type: ignore[assignment]
    """The rows of a results file, of dataclass ``kind``.

    Raises ValueError if the file has other columns than ``kind`` or a cell of another type.
    """
    columns = {field.name: str(field.type) for field in fields(kind)}  # type: ignore[arg-type]
    convert = {"int": int, "float": float, "str": str}
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != list(columns):
            raise ValueError(
                f"{path} must have the columns {list(columns)}, got {reader.fieldnames}"
            )
        rows = []
        for line in reader:
            try:
                cells = {name: convert[type_](line[name]) for name, type_ in columns.items()}
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
            rows.append(kind(**cells))
    return rows
