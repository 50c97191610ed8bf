"""The suite of index tuples, at tiny sizes."""

from __future__ import annotations

import pytest
import torch

from benchmarks import bench, report, runner, tables, tuples
from benchmarks.cases import make_problem
from benchmarks.memory import Usage
from benchmarks.providers import PML
from benchmarks.results import read_rows
from benchmarks.suites import SUITES
from benchmarks.tuples import TUPLE_LOSSES, TupleCase, TupleRow, make_tuple
from fusedml.miners import MultiSimilarityMiner

LIMITS = runner.Limits(threads=1, seconds=0.05, rounds=2)


def test_rows_and_table(tmp_path, capsys) -> None:
    path = tmp_path / "tuples.csv"
    arguments = ["--suite", "tuples", "--losses", "ContrastiveLoss", "--n", "24", "--d", "8"]
    arguments += ["--listing", "16", "1/4", "MultiSimilarityMiner", "--threads", "1"]
    arguments += ["--rounds", "1", "--seconds", "0.01", "--memory-limit-gb", "2"]
    assert bench.main([*arguments, "--output", str(path)]) == 0
    rows = read_rows(path, TupleRow)
    assert len(rows) == 2 * 3 * 2
    assert all(row.outcome == "ok" and row.median_ms > 0 and row.rounds == 1 for row in rows)
    assert {row.references for row in rows} == {0, 24}
    assert {row.listed for row in rows if row.listing == "16"} == {16}
    assert {row.listed for row in rows if row.listing == "1/4"} == {144}
    assert report.read_any(path) == rows
    table = tables.tuples_table(rows)
    assert table in capsys.readouterr().out
    head, _, own, _ = table.splitlines()
    assert head == "| loss | n | d | references | 16 | 1/4 | MultiSimilarityMiner |"
    assert own.startswith("| ContrastiveLoss | 24 | 8 | - | ") and own.count("x |") == 3


@pytest.mark.parametrize("references", [0, 12])
@pytest.mark.parametrize("listing", ["9", "1/3", "1/1"])
def test_pairs_are_of_their_kinds_and_by_rows(listing: str, references: int) -> None:
    case = TupleCase("SupConLoss", 12, 4, num_references=references, listing=listing)
    problem = make_problem(case)
    rows, columns, negative_rows, negative_columns = indices = make_tuple(case, problem)
    labels = problem.labels
    others = problem.reference_labels if references else labels
    assert (labels[rows] == others[columns]).all()
    assert (labels[negative_rows] != others[negative_columns]).all()
    assert references or (rows != columns).all()
    assert (rows.diff() >= 0).all() and (negative_rows.diff() >= 0).all()
    num_pairs = 144 if references else 144 - 12
    assert sum(map(len, indices)) == 2 * min({"9": 9, "1/3": 48, "1/1": 144}[listing], num_pairs)


def test_a_miners_list_is_that_of_its_defaults() -> None:
    case = TupleCase("SupConLoss", 16, 4, listing="MultiSimilarityMiner")
    problem = make_problem(case)
    expected = MultiSimilarityMiner()(problem.embeddings, problem.labels)
    for mine, theirs in zip(make_tuple(case, problem), expected, strict=True):
        assert torch.equal(mine, theirs)


def test_the_suite_has_every_loss_of_pairs_and_no_number_beyond_half_of_them() -> None:
    cases = SUITES["tuples"].plan("cpu")
    assert {case.loss for case in cases} == set(TUPLE_LOSSES)
    assert {"ContrastiveLoss", "NPairsLoss", "MultiSimilarityLoss"} < set(TUPLE_LOSSES)
    for case in cases:
        assert isinstance(case, TupleCase)
        if case.listing.isdecimal():
            assert 2 * int(case.listing) <= case.n * (case.num_references or case.n)


def test_another_loss_is_wrong(monkeypatch) -> None:
    case = TupleCase("SupConLoss", 64, 8)

    def found(loss: float) -> str:
        def measured(case, name, *_):
            return Usage("ok", 1.0, 0.1, 0.5 if name == PML else loss)

        monkeypatch.setattr(runner, "measured", measured)
        providers, stops = tuples.TUPLE_PROVIDERS, runner.Stops(60)
        return runner.beside_pml(case, providers, LIMITS, stops, tuples._differs)[0][1].outcome

    assert found(0.50001) == "ok"
    assert found(0.5002) == f"wrong: 0.5002, {PML} 0.5"


@pytest.mark.parametrize("listing", ["", "many", "1/0", "-3", "NoMiner"])
def test_bad_listings(listing: str) -> None:
    with pytest.raises(ValueError, match="listing must be a number of pairs, a share like '1/4'"):
        TupleCase("SupConLoss", 8, 2, listing=listing)
