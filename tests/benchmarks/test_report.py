from __future__ import annotations

import math

import pytest

from benchmarks import report
from benchmarks.cases import Case
from benchmarks.harness import Timing
from benchmarks.memory import Usage
from benchmarks.results import describe_machine, make_row, read_rows, write_rows
from benchmarks.targets import check_targets


def row(loss="MultiSimilarityLoss", provider="fusedml", ms=10.0, mb=4.0, n=4096, d=128, why="ok"):
    timing = Timing(ms, ms, ms, 5) if why == "ok" else None
    usage = Usage(why, mb) if why == "ok" else Usage(why)
    return make_row(Case(loss, n, d), provider, describe_machine("cpu", 2), usage, timing, 2.0)


ROWS = [
    row(),
    row(provider="dense", ms=123.0, mb=500.0),
    row(provider="pytorch-metric-learning", why="out of memory"),
]


def test_table_shows_medians_peaks_and_ratios():
    line = report.table(ROWS).splitlines()[-1]
    assert line == (
        "| MultiSimilarityLoss | 4096 | 128 | 10 | 123 | out of memory | 2.0 "
        "| 4.0 | 500 | out of memory | 12x | 125x |"
    )


def test_section_is_replaced_between_the_markers():
    readme = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    new = report.replace_section(readme, "new")
    assert new == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"
    assert report.replace_section(new, "new") == new
    with pytest.raises(ValueError, match="the README must contain <!-- table: against_dense"):
        report.replace_section("no markers", "new")


def test_command_writes_the_readme(tmp_path):
    results, readme = tmp_path / "rows.csv", tmp_path / "README.md"
    write_rows(results, ROWS)
    readme.write_text(f"{report.BEGIN}{report.END}")
    assert report.main(["--csv", str(results), "--readme", str(readme), "--write-readme"]) == 0
    assert report.table(ROWS) in readme.read_text()


def test_readme_and_committed_results_agree():
    if not report.COMMITTED.exists():
        pytest.skip("no results are committed yet")
    section = report.readme_section(read_rows(report.COMMITTED))
    readme = report.README.read_text()
    assert report.replace_section(readme, section) == readme, (
        "run `python -m benchmarks.report --write-readme`"
    )


def test_targets():
    verdicts = {verdict.promise: verdict for verdict in check_targets(ROWS)}
    speed = verdicts["MultiSimilarityLoss at n = 4096, d = 128 at least 8x faster than dense"]
    assert speed.is_met and speed.measured == pytest.approx(12.3)
    missing = verdicts["ProxyAnchorLoss at n = 4096, d = 128 at least 3x faster than dense"]
    assert not missing.is_met and math.isnan(missing.measured)
    assert "NOT MET" in str(missing) and "not measured" in str(missing)
    assert verdicts["MultiSimilarityLoss at n = 4096, d = 128 at most 64 MB extra"].is_met


def test_a_slower_and_larger_fusedml_misses_its_targets():
    rows = [row(n=256, ms=2.0), row(n=256, ms=1.0, provider="dense"), row(mb=70.0)]
    missed = [verdict.promise for verdict in check_targets(rows) if not verdict.is_met]
    assert "MultiSimilarityLoss at n = 256, d = 128 not slower than dense (ratio)" in missed
    assert "MultiSimilarityLoss at n = 4096, d = 128 at most 64 MB extra" in missed
