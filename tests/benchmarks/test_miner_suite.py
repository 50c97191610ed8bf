"""The suite of miners, at tiny sizes."""

from __future__ import annotations

import pytest
from pytorch_metric_learning import miners as pml

from benchmarks import bench, miners, report, runner, tables
from benchmarks.memory import Usage
from benchmarks.miners import MINERS, MinerCase, MinerRow
from benchmarks.providers import FUSED, PML
from benchmarks.results import describe_machine, read_rows, write_rows
from benchmarks.targets import check_miner_targets
from fusedml.miners import __all__ as names

LIMITS = runner.Limits(threads=1, seconds=0.05, rounds=2)


def row(miner: str, provider: str = FUSED, n: int = 16384, mb: float = 100.0) -> MinerRow:
    case = MinerCase(miner, n, 128)
    usage = Usage("ok", mb, 0.1, 12.0)
    return miners._row(case, describe_machine("cpu", 1), provider, usage, None)


def test_rows_and_table(tmp_path, capsys) -> None:
    path = tmp_path / "miners.csv"
    chosen = ["BatchHardMiner", "HDCMiner"]
    arguments = [
        "--suite",
        "miners",
        "--miners",
        *chosen,
        "--n",
        "64",
        "--d",
        "16",
        "--threads",
        "1",
        "--rounds",
        "1",
    ]
    arguments += ["--seconds", "0.01", "--memory-limit-gb", "2", "--output", str(path)]
    assert bench.main(arguments) == 0
    rows = read_rows(path, MinerRow)
    assert [(made.miner, made.provider) for made in rows] == [
        (miner, provider) for miner in chosen for provider in (FUSED, PML)
    ]
    assert all(made.outcome == "ok" and made.median_ms > 0 and made.rounds == 1 for made in rows)
    assert [made.listed for made in rows] == [64, 64, 3, 3]
    assert report.read_any(path) == rows
    table = tables.miners_table(rows)
    assert table in capsys.readouterr().out
    assert table.splitlines()[0] == f"| miner | n | d | listed | {FUSED} | {PML} |"


def test_all_but_the_abstract_and_those_that_look_at_no_pairs_are_measured() -> None:
    assert set(MINERS) < set(names) and len(names) - len(MINERS) == 3
    assert all(hasattr(pml, miner) for miner in MINERS)


def test_a_list_of_another_length_is_wrong(monkeypatch) -> None:
    case = MinerCase("BatchHardMiner", 64, 8)

    def found(listed: float) -> str:
        def measured(case, name, *_):
            return Usage("ok", 1.0, 0.1, 5000.0 if name == PML else listed)

        monkeypatch.setattr(runner, "measured", measured)
        stops = runner.Stops(60)
        providers = miners.MINER_PROVIDERS
        return runner.beside_pml(case, providers, LIMITS, stops, miners._differs)[0][1].outcome

    assert found(5004.0) == "ok"
    assert found(5010.0) == f"wrong: lists 5010, {PML} 5000"


def test_promises(tmp_path, capsys) -> None:
    rows = [row(miner) for miner in MINERS]
    assert all(verdict.is_met for verdict in check_miner_targets(rows))
    missed = [row("HDCMiner", mb=201.0), row("AngularMiner", n=4096), row("HDCMiner", PML, mb=1.0)]
    verdicts = check_miner_targets(missed)
    assert not any(verdict.is_met for verdict in verdicts)
    assert [str(verdict) for verdict in verdicts if verdict.promise.startswith("HDCMiner")] == [
        "NOT MET HDCMiner at n = 16384, d = 128 at most 200 MB extra: 201"
    ]
    path = tmp_path / "rows.csv"
    write_rows(path, missed)
    assert bench.main(["--targets", str(path)]) == 1
    assert "NOT MET AngularMiner" in capsys.readouterr().out
    write_rows(path, rows)
    assert bench.main(["--targets", str(path)]) == 0


def test_bad_arguments(capsys) -> None:
    with pytest.raises(ValueError, match=r"miner must be one of AngularMiner, .* got 'NoMiner'"):
        MinerCase("NoMiner", 8, 2)
    for suite, other in (
        ("miners", ("--losses", "SupConLoss")),
        ("quick", ("--miners", "HDCMiner")),
    ):
        with pytest.raises(SystemExit):
            bench.main(["--suite", suite, *other])
        assert f"{other[0][2:]} must not be given for this suite" in capsys.readouterr().err
