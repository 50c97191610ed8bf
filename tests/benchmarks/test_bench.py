"""The command line, in this process and at tiny sizes."""

from __future__ import annotations

import pytest
import torch

from benchmarks import accuracy, bench, runner, tables
from benchmarks.accuracy import AccuracyRow
from benchmarks.arguments import make_parser, make_plan
from benchmarks.cases import Case
from benchmarks.harness import relative_errors
from benchmarks.latency import PARTS, BreakdownRow
from benchmarks.memory import Usage
from benchmarks.providers import dense_autograd
from benchmarks.results import describe_machine, read_rows, write_rows
from benchmarks.suites import SUITES, powers_of_two
from tests.benchmarks import misbehaving
from tests.benchmarks.rows import row

TINY = ("--threads", "1", "--rounds", "2", "--seconds", "0.05", "--memory-limit-gb", "2")


def test_writes_a_row_for_each_provider_and_direction_and_draws(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    status = bench.main(
        [
            *TINY,
            *("--losses", "MultiSimilarityLoss", "--n", "64", "96", "128", "--d", "16"),
            *("--providers", "dense", "fusedml", "row chunks, gradient in forward"),
            *("--direction", "forward", "forward+backward", "--output", str(path)),
        ]
    )
    assert status == 0
    rows = read_rows(path)
    assert [(row.n, row.direction, row.provider) for row in rows] == [
        (n, direction, provider)
        for n in (64, 96, 128)
        for direction in ("forward", "forward+backward")
        for provider in ("fusedml", "dense", "row chunks, gradient in forward")
    ]
    assert all(row.outcome == "ok" and row.median_ms > 0 and row.rounds >= 2 for row in rows)
    assert all(row.products_ms > 0 and 0 <= row.gradient_error < 1e-5 for row in rows)
    assert tables.sizes_table(rows) in capsys.readouterr().out
    assert (tmp_path / "rows_n.png").is_file()


def test_accuracy_by_number_type(tmp_path, capsys):
    path = tmp_path / "accuracy.csv"
    arguments = ["--suite", "accuracy", "--n", "32", "--d", "8", "--threads", "1"]
    arguments += ["--losses", "SupConLoss", "--providers", "fusedml", "dense"]
    assert bench.main([*arguments, "--output", str(path)]) == 0
    rows = read_rows(path, AccuracyRow)
    worst = {(row.dtype, row.provider): row.gradient_error for row in rows}
    assert worst["float64", "fusedml"] < 1e-14 < worst["float32", "fusedml"] < 1e-5
    assert worst["float16", "dense"] > 1e-5 and worst["bfloat16", "dense"] > 1e-3
    assert {row.precision for row in rows} == {"highest"}
    assert "| float64 |" in capsys.readouterr().out
    assert (tmp_path / "accuracy_errors.png").is_file()


def test_an_accuracy_row_is_what_the_harness_finds(monkeypatch):
    case, machine = Case("SupConLoss", 32, 8, dtype="bfloat16"), describe_machine("cpu", 1)
    row = accuracy.measure(case, "dense", "high", machine)
    assert (row.value_error, row.gradient_error) == relative_errors(case, dense_autograd)
    assert (row.outcome, row.precision) == ("ok", "high")
    monkeypatch.setitem(accuracy.PROVIDERS, "dense", misbehaving.broken)
    assert accuracy.measure(case, "dense", "high", machine).outcome.startswith("failed: KeyError")
    assert torch.get_float32_matmul_precision() == "highest"  # put back


def test_latency_comes_with_its_breakdown(tmp_path, capsys):
    path = tmp_path / "latency.csv"
    arguments = ["--suite", "latency", "--n", "32", "--d", "8", "--losses", "NTXentLoss"]
    arguments += ["--providers", "fusedml", "--output", str(path)]
    assert bench.main([*TINY, *arguments]) == 0
    assert [row.outcome for row in read_rows(path)] == ["ok"]
    parts = read_rows(tmp_path / "latency_breakdown.csv", BreakdownRow)
    assert [row.part for row in parts] == list(PARTS)
    assert "| n = 32 | step, ms | checks and batch |" in capsys.readouterr().out
    assert (tmp_path / "latency_breakdown_parts.png").is_file()


@pytest.mark.parametrize(("outcome", "status"), [("failed: KeyError: 'x'", 1), ("out of time", 0)])
def test_a_failing_fusedml_is_the_status(outcome, status, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner.memory, "measure", lambda *_: Usage(outcome))
    arguments = ["--losses", "SupConLoss", "--n", "8", "--d", "2", "--providers", "fusedml"]
    assert bench.main([*TINY, *arguments, "--output", str(tmp_path / "x.csv")]) == status
    assert ("failed: KeyError" in capsys.readouterr().err) == (status == 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--n 0", "--n must be a whole number of at least 1, got 0"),
        ("--d many", "--d must be a whole number, got 'many'"),
        ("--m -1", "--m must be a whole number of at least 0, got -1"),
        ("--losses TripletLoss", "--losses must be one of '"),
        ("--providers me", "--providers must be one of 'fusedml', 'dense', 'dense, compiled', "),
        ("--direction up", "--direction must be one of 'forward', 'forward+backward', got 'up'"),
        ("--suite slow", "--suite must be one of 'quick', 'losses', 'scaling', "),
        ("--dtype float33", "dtype must be the name of a torch dtype, got 'float33'"),
        ("--device tpu", "--device must be cpu or cuda, got 'tpu'"),
        ("--threads 0", "--threads must be a whole number of at least 1, got 0"),
        ("--seconds soon", "--seconds must be a number, got 'soon'"),
        (
            "--losses ProxyAnchorLoss --n 512 --classes 100",
            "num_classes must be at least the 128 classes of the batch, got 100",
        ),
        (
            "--losses NPairsLoss --m 64",
            "num_references must be 0 for NPairsLoss, which takes no references, got 64",
        ),
        ("--compare none.csv", "the results file must exist, got none.csv"),
        ("--compare a b c", "--compare must be given one or two files, got 3"),
        ("--compare a --suite quick", "not allowed with argument --compare"),
    ],
)
def test_bad_arguments_are_one_clear_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        bench.main(arguments.split())
    assert error.value.code == 2
    text = capsys.readouterr().err
    assert message in text
    assert text.startswith("bench: ") and text.count("\n") == 1


def test_report_of_one_file_draws_it(tmp_path, capsys):
    path = tmp_path / "sizes.csv"
    write_rows(path, [row(d=d) for d in (32, 64, 128)])
    assert bench.main(["--report", str(path)]) == 0
    assert f"{tmp_path / 'sizes_d.png'}" in capsys.readouterr().out


def test_targets_of_a_file(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    write_rows(path, [row()])
    assert bench.main(["--targets", str(path)]) == 1
    assert "NOT MET MultiSimilarityLoss at n = 4096" in capsys.readouterr().out


def test_given_arguments_take_the_place_of_the_suite():
    options = make_parser("").parse_args(
        ["--suite", "scaling", "--n", "64", "--losses", "SupConLoss", "--providers", "dense"]
    )
    _, plan = make_plan(options)
    assert plan == {Case("SupConLoss", 64, d): ["dense"] for d in (128, 512)}


def test_suites_ask_what_they_promise():
    def sizes(name, field):
        return sorted({getattr(case, field) for case in SUITES[name].plan("cpu")})

    assert sizes("scaling", "n") == list(powers_of_two(256, 65536))
    assert sizes("scaling", "d") == [128, 512]
    assert sizes("proxies", "num_classes") == [100, 1000, 10_000, 100_000, 1_000_000]
    assert sizes("latency", "n") == [64, 256, 1024]
    assert sizes("accuracy", "dtype") == ["bfloat16", "float16", "float32", "float64"]
    assert SUITES["quick"].minutes < 5 and SUITES["gpu"].minutes < 4


def test_a_case_that_two_grids_ask_for_is_measured_once():
    plan = SUITES["scaling"].plan("cpu")
    providers = plan[Case("MultiSimilarityLoss", 4096, 128)]
    assert providers[:3] == ["fusedml", "dense", "dense, compiled"]
    assert len(providers) == len(set(providers))
