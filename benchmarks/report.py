"""The tables and pictures of measurements, made from the committed results files and nothing else.

Each section stands between its own markers.  One whose file is not there says how to make it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.accuracy import AccuracyRow
from benchmarks.latency import BreakdownRow
from benchmarks.miners import MinerRow
from benchmarks.results import RESULTS, ROOT, Row, read_columns, read_rows
from benchmarks.tuples import TupleRow

PAGE = ROOT / "docs" / "measurements.md"
END = "<!-- end of table -->"
REPORT = "python -m fusedml bench --report"


@dataclass(frozen=True)
class Section:
    """A table of the page.

    file: the results file it is made from.  suite: the suite that makes the file.
    render: the table of its rows.  note: what the reader has to know of it.
    """

    name: str
    file: str
    suite: str
    kind: type
    render: Callable[[Sequence[Any]], str]
    note: str

    @property
    def begin(self) -> str:
        """The marker before the table."""
        return f"<!-- table: {self.name} -->"

    def text(self, folder: Path = RESULTS) -> str:
        """What stands between the markers, from the results in ``folder``."""
        path = folder / self.file
        if not path.exists():
            output = self.file.replace("_breakdown", "")
            return (
                f"*Not measured yet: `python -m fusedml bench --suite {self.suite} --output "
                f"benchmarks/results/{output}`, then `{REPORT}`.*"
            )
        rows: list[Any] = read_rows(path, self.kind)
        links = [
            f"![{self.name}: {name}](../benchmarks/results/{path.stem}_{name}.png)"
            for name in _pictures(rows)
        ]
        return "\n\n".join([self.render(rows), f"{self.note} {origin(rows)}", *links])


def _pictures(rows: Sequence[Any]) -> dict[str, Callable[[Path], None]]:
    # a machine that only measures may lack matplotlib
    from benchmarks.pictures import pictures  # noqa: PLC0415

    return pictures(rows)


def origin(rows: Sequence[Any]) -> str:
    # a file may hold rows of several runs, and of several machines; each row says which
    runs: dict[tuple[str, int, str], list[Any]] = {}
    for row in rows:
        runs.setdefault((row.device, row.threads, row.torch), []).append(row)
    origins = [
        f"{device}, {threads} threads, torch {torch}, commit {_each(of_run, 'commit')}, "
        f"{_each(of_run, 'date')}"
        for (device, threads, torch), of_run in runs.items()
    ]
    return "; ".join(origins) + "."


def _each(rows: Sequence[Any], name: str) -> str:
    return ", ".join(dict.fromkeys(getattr(row, name) for row in rows))


_STEP = "A step forward and backward, float32, median of interleaved rounds"
_MEMORY = "peak memory above the inputs, 1 MB = 10^6 bytes"
SECTIONS = (
    Section(
        "losses",
        "losses_cpu.csv",
        "losses",
        Row,
        tables.losses_table,
        f"{_STEP}, 4 samples a class; {_MEMORY}. Bare products are the three matrix products of "
        "the dense version.",
    ),
    Section(
        "scaling",
        "scaling_cpu.csv",
        "scaling",
        Row,
        tables.growth_table,
        f"{tables.growth_note()} A provider that takes more than a minute, or runs out of memory, "
        "is not tried at larger n. The smallest d of the file, which has more.",
    ),
    Section(
        "proxies",
        "proxies_cpu.csv",
        "proxies",
        Row,
        tables.sizes_table,
        f"{_STEP}; {_MEMORY}.",
    ),
    Section(
        "retrieval",
        "retrieval_cpu.csv",
        "retrieval",
        Row,
        tables.retrieval_table,
        "n queries and their n documents: milliseconds of a step forward and backward, and how "
        "many times longer `F.cross_entropy(scale * q @ d.T)` takes (of q and d normalised where "
        "the loss does it; in both directions for ClipLoss). float32.",
    ),
    Section(
        "memory-bank",
        "memory-bank_cpu.csv",
        "memory-bank",
        Row,
        tables.sizes_table,
        f"{_STEP}, of a full `CrossBatchMemory`; {_MEMORY}.",
    ),
    Section(
        "latency",
        "latency_cpu.csv",
        "latency",
        Row,
        tables.latency_table,
        "Milliseconds of a fusedml step, Python included, and how many times longer the faster of "
        "dense PyTorch and PML takes (below 1x it is faster than fusedml). d = 128, float32.",
    ),
    Section(
        "breakdown",
        "latency_cpu_breakdown.csv",
        "latency",
        BreakdownRow,
        tables.breakdown_table,
        "Where a fusedml step's milliseconds go: shares of a profiled step, of the time without "
        "the profiler.",
    ),
    Section(
        "triplets",
        "triplets_cpu.csv",
        "triplets",
        Row,
        tables.sizes_table,
        f"{_STEP}, 4 samples a class; {_MEMORY}. nearest_semihard: for each positive the nearest "
        "negative that is farther.",
    ),
    Section(
        "miners",
        "miners_cpu.csv",
        "miners",
        MinerRow,
        tables.miners_table,
        f"A call, float32, 4 samples a class, median of interleaved rounds; {_MEMORY}, the list "
        "among it. Listed are pairs or triplets; some miners are given other "
        "arguments than their defaults, for lists of some n entries, and both the same.",
    ),
    Section(
        "tuples",
        "tuples_cpu.csv",
        "tuples",
        TupleRow,
        tables.tuples_table,
        "Losses with an index tuple: milliseconds of a fusedml step forward and backward, and how "
        "many times longer pytorch-metric-learning takes (below 1x it is faster than fusedml). "
        "float32. Listed are so many random pairs, half of them positive where there are as many; "
        "a share of all pairs, likewise; or what a miner of default arguments finds. Losses with a "
        "vector for each class have 10,000 classes, and weigh each sample by how often it is "
        "listed. The file has the peak memory of both.",
    ),
    Section(
        "accuracy",
        "accuracy_cpu.csv",
        "accuracy",
        AccuracyRow,
        tables.accuracy_table,
        "Relative error of the value, and of the largest gradient entry, against the dense formula "
        "in float64 on the same numbers: the worst of all losses.",
    ),
)
_KINDS = (Row, AccuracyRow, BreakdownRow, MinerRow, TupleRow)


def replace_section(page: str, section: Section, text: str) -> str:
    """The page with ``text`` between the section's markers.  Raises ValueError without them."""
    before, begin, rest = page.partition(section.begin)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page must contain {section.begin} and, after it, {END}")
    return f"{before}{section.begin}\n{text}\n{END}{after}"


def with_tables(page: str, folder: Path = RESULTS) -> str:
    """The page with every section made anew from the results in ``folder``."""
    for section in SECTIONS:
        page = replace_section(page, section, section.text(folder))
    return page


def read_any(path: Path) -> list[Any]:
    """The rows of a results file of any kind.  Raises ValueError if it is none."""
    columns = read_columns(path)
    for kind in _KINDS:
        if columns == list(kind.__dataclass_fields__):
            return read_rows(path, kind)
    raise ValueError(f"{path} must have the columns of a results file, got {columns}")


def draw(path: Path) -> list[Path]:
    """Draws what there is to see in a results file, beside it; the pictures' paths.

    Nothing, after a line that says so, where matplotlib is not installed.
    """
    written = []
    try:
        found = _pictures(read_any(path))
    except ImportError as error:
        print(f"no pictures: {error}")
        return []
    for name, draw_one in found.items():
        target = path.with_name(f"{path.stem}_{name}.png")
        draw_one(target)
        written.append(target)
    return written


def write_report(page: Path = PAGE, folder: Path = RESULTS) -> list[Path]:
    """Draws every committed results file and rewrites the page's tables; the written paths."""
    files = dict.fromkeys(folder / section.file for section in SECTIONS)
    written = [picture for file in files if file.exists() for picture in draw(file)]
    page.write_text(with_tables(page.read_text(), folder))
    return [*written, page]
