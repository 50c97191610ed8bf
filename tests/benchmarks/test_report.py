from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from benchmarks import pictures, report, tables
from benchmarks.fit import growths
from benchmarks.results import RESULTS, ROOT, read_rows, write_rows
from benchmarks.targets import check_targets
from tests.benchmarks.rows import row

ROWS = [
    row(),
    row(provider="dense", ms=123.0, mb=500.0),
    row(provider="pytorch-metric-learning", why="out of memory"),
]
LOSSES = report.SECTIONS[0]
EMPTY = "".join(f"{section.begin}\n{report.END}\n" for section in report.SECTIONS)


def test_table_shows_medians_peaks_and_ratios():
    head, _, line = tables.sizes_table(ROWS).splitlines()
    assert head == (
        "| loss | n | d | bare products | fusedml | dense | pytorch-metric-learning "
        "| faster than dense | smaller |"
    )
    assert line == (
        "| MultiSimilarityLoss | 4096 | 128 | 2.0 ms | 10 ms, 4.0 MB | 123 ms, 500 MB "
        "| out of memory | 12x | 125x |"
    )


def test_table_names_what_varies():
    head, _, first, second = tables.sizes_table([row(), row(direction="forward")]).splitlines()
    assert "direction" in head
    assert "| forward+backward |" in first and "| forward |" in second


def test_growth_table():
    study = [row(n=n, ms=n, mb=n**2) for n in (1024, 2048, 4096)]
    line = tables.growth_table([*study, row(n=8192, why="out of time")]).splitlines()[-1]
    assert line == (
        "| MultiSimilarityLoss | fusedml | n^1.00 | n^2.00 | 4,096 | 4.1 s | 16,777,216 MB "
        "| n = 8192: out of time |"
    )


def test_latency_table_compares_with_the_faster_of_the_others():
    names = ("fusedml", 2.0), ("dense", 5.0), ("pytorch-metric-learning", 3.0)
    rows = [row(provider=name, ms=ms, n=64) for name, ms in names]
    assert tables.latency_table(rows).splitlines()[-1] == ("| MultiSimilarityLoss | 2.0 ms, 1.5x |")


def test_retrieval_table_compares_with_the_bare_cross_entropy_or_else_dense():
    case = {"n": 128, "samples_per_class": 1, "num_references": 128}
    rows = [row("SupConLoss", name, ms, **case) for name, ms in (("fusedml", 2.0), ("dense", 8.0))]
    rows += [row("SupConLoss", "F.cross_entropy", 3.0, **case)]
    rows += [row("ClipLoss", name, ms, **case) for name, ms in (("fusedml", 2.0), ("dense", 5.0))]
    rows += [row("ClipLoss", "F.cross_entropy", why="not offered", **case)]
    head, _, sup_con, clip = tables.retrieval_table(rows).splitlines()
    assert head == "| loss | d | n = 128 |"
    assert sup_con == "| SupConLoss | 128 | 2.0 ms, 1.5x |"
    assert clip == "| ClipLoss | 128 | 2.0 ms, 2.5x |"


@pytest.mark.parametrize(("ms", "is_met"), [(1.9, False), (2.0, True)])
def test_targets_hold_losses_to_the_bare_cross_entropy(ms, is_met):
    case = {"n": 1024, "samples_per_class": 1, "num_references": 1024}
    rows = [row("SupConLoss", "fusedml", 2.0, **case)]
    rows += [row("SupConLoss", "F.cross_entropy", ms, **case)]
    promise = "SupConLoss at n = 1024, d = 128 not slower than F.cross_entropy (ratio)"
    (verdict,) = (each for each in check_targets(rows) if each.promise == promise)
    assert verdict.is_met == is_met and verdict.measured == pytest.approx(ms / 2)


@pytest.mark.parametrize(("rounds", "mark"), [(1, " (1 round)"), (2, " (2 rounds)"), (3, "")])
def test_times_of_fewer_than_three_rounds_are_marked(rounds, mark):
    (line,) = tables.sizes_table([row(rounds=rounds)]).splitlines()[2:]
    assert f"| 10 ms{mark}, 4.0 MB |" in line
    (line,) = tables.growth_table([row(rounds=rounds)]).splitlines()[2:]
    assert f"| 0.01 s{mark} |" in line
    (line,) = tables.latency_table([row(rounds=rounds)]).splitlines()[2:]
    assert f"| 10 ms{mark}, " in line


@pytest.mark.parametrize(("rounds", "count"), [(2, 1), (3, 0)])
def test_times_of_fewer_than_three_rounds_have_a_ring_in_pictures(
    rounds, count, tmp_path, monkeypatch
):
    drawn = []
    monkeypatch.setattr(pictures, "_finish", lambda figure, *_: drawn.append(figure))
    pictures.draw_costs({"loss": [row(rounds=rounds)]}, "n", lambda of: of.n, tmp_path / "x.png")
    labels = drawn[0].axes[0].get_legend_handles_labels()[1]
    assert labels.count("fewer than 3 rounds") == count


def test_ratios_are_drawn_of_losses_that_the_peers_computed(tmp_path, monkeypatch):
    def rows(provider, ms, mb, number):
        return [replace(row("NCALoss", provider, ms, mb), loss=f"Loss{i}") for i in range(number)]

    ours = [*rows("fusedml", 2, 3, 7), *rows("dense", 10, 30, 7), *rows("a peer", 1, 1, 7)]
    peers = rows("pytorch-metric-learning", 5, 6, 6)
    assert "ratios" not in pictures.pictures([*ours, *peers[:5]])
    drawn = []
    monkeypatch.setattr(pictures, "_finish", lambda figure, *_: drawn.append(figure))
    pictures.pictures([*ours, *peers])["ratios"](tmp_path / "x.png")
    time, memory = drawn[0].axes
    assert [label.get_text() for label in time.get_yticklabels()] == [f"Loss{i}" for i in range(6)]
    assert [bar.get_width() for bar in time.patches] == [5.0] * 6 + [2.5] * 6
    assert [bar.get_width() for bar in memory.patches] == [10.0] * 6 + [2.0] * 6


def test_section_is_replaced_between_its_markers():
    page = f"before\n{LOSSES.begin}\nold\n{report.END}\nafter\n"
    new = report.replace_section(page, LOSSES, "new")
    assert new == f"before\n{LOSSES.begin}\nnew\n{report.END}\nafter\n"
    assert report.replace_section(new, LOSSES, "new") == new
    with pytest.raises(ValueError, match="the page must contain <!-- table: losses"):
        report.replace_section("no markers", LOSSES, "new")


def test_report_writes_tables_and_draws(tmp_path):
    page = tmp_path / "measurements.md"
    page.write_text(EMPTY)
    study = [row(n=n, ms=n, mb=n, provider=name) for n in (1024, 2048, 4096) for name in "ab"]
    write_rows(tmp_path / "scaling_cpu.csv", study)
    written = report.write_report(page, tmp_path)
    assert written == [tmp_path / "scaling_cpu_n.png", page]
    assert written[0].read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    assert tables.growth_table(study) in text
    assert "](../benchmarks/results/scaling_cpu_n.png)" in text
    assert (
        text.count("*Not measured yet: `python -m fusedml bench --suite ")
        == len(report.SECTIONS) - 1
    )


def test_what_is_missing_names_its_command(tmp_path):
    (breakdown,) = (section for section in report.SECTIONS if section.name == "breakdown")
    assert "--suite latency --output benchmarks/results/latency_cpu.csv`" in (
        breakdown.text(tmp_path)
    )


@pytest.mark.parametrize("section", report.SECTIONS, ids=lambda section: section.name)
def test_page_and_committed_results_agree(section):
    page = report.PAGE.read_text()
    assert report.replace_section(page, section, section.text()) == page, f"run `{report.REPORT}`"


@pytest.mark.parametrize("page", [report.PAGE, ROOT / "README.md", ROOT / "docs" / "index.md"])
def test_pictures_are_there(page):
    links = re.findall(r"\]\(([^)]*benchmarks/results/[^)]*)\)", page.read_text())
    assert links and [link for link in links if not (page.parent / link).is_file()] == []


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("loss,ms\n")
    with pytest.raises(ValueError, match=r"must have the columns of a results file, got \['loss'"):
        report.read_any(path)


def test_every_machine_of_a_file_is_named():
    other = replace(row(n=512), device="cpu (another)", commit="abc", date="2026-01-02")
    origin = report.origin([row(), other])
    assert origin.startswith(row().device) and row().commit in origin
    assert origin.endswith(
        f"; cpu (another), 2 threads, torch {other.torch}, commit abc, 2026-01-02."
    )


def test_growth_is_of_one_machine():
    slow = [replace(row(n=n, ms=100.0 * n), device="cpu (another)") for n in (1024, 2048)]
    (growth,) = growths([*slow, *(row(n=n, ms=1.0 * n) for n in (4096, 8192, 16384))])
    assert growth.time_exponent == pytest.approx(1)


def test_targets():
    verdicts = {verdict.promise: verdict for verdict in check_targets(ROWS)}
    speed = verdicts["MultiSimilarityLoss at n = 4096, d = 128 at least 8x faster than dense"]
    assert speed.is_met and speed.measured == pytest.approx(12.3)
    missing = verdicts["ProxyAnchorLoss at n = 4096, d = 128 at least 3x faster than dense"]
    assert not missing.is_met and math.isnan(missing.measured)
    assert "NOT MET" in str(missing) and "not measured" in str(missing)
    assert verdicts["MultiSimilarityLoss at n = 4096, d = 128 at most 64 MB extra"].is_met


def test_the_committed_files_keep_every_promise():
    files = ("losses_cpu.csv", "latency_cpu.csv", "retrieval_cpu.csv")
    paths = [RESULTS / name for name in files if (RESULTS / name).exists()]
    verdicts = check_targets(rows := [made for path in paths for made in read_rows(path)])
    assert len(verdicts) > 70
    # a loss that came after the files were measured has no row at all, and nothing to keep yet
    measured_losses = {measured.loss for measured in rows}
    missed = [verdict for verdict in verdicts if not verdict.is_met]
    assert [str(v) for v in missed if v.promise.split()[0] in measured_losses] == []


def test_a_loss_says_from_which_size_it_is_not_slower():
    sizes = (64, 256)
    rows = [row("CenterLoss", n=n, ms=2.0) for n in sizes]
    rows += [row("CenterLoss", n=n, ms=1.0, provider="dense") for n in sizes]
    promises = [verdict.promise for verdict in check_targets(rows)]
    assert "CenterLoss at n = 256, d = 128 not slower than dense (ratio)" in promises
    assert "CenterLoss at n = 64, d = 128 not slower than dense (ratio)" not in promises


def test_a_slower_and_larger_fusedml_misses_its_targets():
    rows = [row(n=256, ms=2.0), row(n=256, ms=1.0, provider="dense"), row(mb=70.0)]
    missed = [verdict.promise for verdict in check_targets(rows) if not verdict.is_met]
    assert "MultiSimilarityLoss at n = 256, d = 128 not slower than dense (ratio)" in missed
    assert "MultiSimilarityLoss at n = 4096, d = 128 at most 64 MB extra" in missed


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.csv")), ids=lambda path: path.stem)
def test_committed_times_are_of_three_rounds_or_more(path):
    """What is within the time limit; accuracy and breakdowns count no rounds."""
    rows = [made for made in report.read_any(path) if getattr(made, "rounds", None) is not None]
    timed = [made for made in rows if made.outcome == "ok" and not math.isnan(made.median_ms)]
    assert [str(made) for made in timed if made.rounds < 3] == []
