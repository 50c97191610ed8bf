from __future__ import annotations

import dataclasses
import math

import pytest

from benchmarks.cases import Case
from benchmarks.harness import Errors, Timing
from benchmarks.memory import Usage
from benchmarks.results import Row, describe_machine, make_row, read_rows, write_rows

MACHINE = describe_machine("cpu", 2)


def test_rows_survive_the_file(tmp_path):
    measured = make_row(
        Case("ProxyAnchorLoss", n=64, d=8, num_classes=100),
        "fusedml",
        MACHINE,
        Usage("ok", 1.25, 0.5, 3.0),
        Timing(2.0, 1.5, 2.5, 7),
        0.25,
        Errors(1e-7, 2e-7),
    )
    failed = make_row(Case("NPairsLoss", n=64, d=8), "dense", MACHINE, Usage("out of memory"))
    write_rows(tmp_path / "new" / "rows.csv", [measured, failed])
    first, second = read_rows(tmp_path / "new" / "rows.csv")
    assert first == measured
    assert (first.m, first.references, second.m) == (100, 0, 16)
    assert second.outcome == "out of memory" and math.isnan(second.median_ms)


def test_a_row_names_everything():
    names = {field.name for field in dataclasses.fields(Row)}
    assert names >= {"loss", "provider", "n", "m", "d", "dtype", "direction", "device"}
    assert names >= {"threads", "torch", "cuda", "commit", "date"}
    assert MACHINE.device.startswith("cpu (")
    assert MACHINE.date.count("-") == 2


def test_other_columns_are_refused(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("loss,ms\nMultiSimilarityLoss,3\n")
    with pytest.raises(ValueError, match=r"must have the columns \['loss', 'provider'"):
        read_rows(path)
