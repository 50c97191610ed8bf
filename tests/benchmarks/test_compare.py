from __future__ import annotations

import pytest

from benchmarks import bench
from benchmarks.compare import compare_rows
from benchmarks.results import write_rows
from tests.benchmarks.rows import row


def test_times_are_compared_in_products():
    # the other machine is three times as slow in everything
    same = compare_rows([row(ms=10, products_ms=2)], [row(ms=30, products_ms=6)])
    assert (same.worse, same.better, same.num_compared) == ([], [], 1)
    slower = compare_rows([row(ms=10, products_ms=2)], [row(ms=13, products_ms=2)])
    assert slower.worse == [
        "MultiSimilarityLoss, fusedml, n = 4096, m = 4096, d = 128, float32, forward+backward, "
        "4 a class: time 5 -> 6.5 x the products, 1.30x"
    ]


@pytest.mark.parametrize(
    ("new", "worse", "better"),
    [
        (row(mb=41), 0, 0),
        (row(mb=60), 1, 0),
        (row(mb=20), 0, 1),
        (row(ms=5, mb=40), 0, 1),
        (row(why="out of memory"), 1, 0),
    ],
)
def test_bigger_smaller_and_failed(new, worse, better):
    found = compare_rows([row(mb=40)], [new])
    assert (len(found.worse), len(found.better)) == (worse, better)


def test_tolerances_are_obeyed_and_a_megabyte_is_noise():
    assert not compare_rows([row(ms=10)], [row(ms=13)], time_tolerance=0.4).worse
    assert compare_rows([row(mb=40)], [row(mb=43)], memory_tolerance=0.05).worse
    assert not compare_rows([row(mb=0.1)], [row(mb=1.9)]).worse


def test_cases_of_one_file_only_are_named():
    found = compare_rows([row(n=256), row()], [row(), row(d=512)])
    assert [line.partition(" d =")[0] for line in found.only_in_one] == [
        "only in the old file: MultiSimilarityLoss, fusedml, n = 256, m = 256,",
        "only in the new file: MultiSimilarityLoss, fusedml, n = 4096, m = 4096,",
    ]


def test_references_and_the_batch_itself_are_different_cases():
    assert compare_rows([row()], [row(num_references=4096)]).num_compared == 0


@pytest.mark.parametrize(("ms", "status"), [(12, 0), (20, 1)])
def test_status_of_the_command(ms, status, tmp_path, capsys):
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    write_rows(old, [row(ms=10)])
    write_rows(new, [row(ms=ms)])
    assert bench.main(["--compare", str(old), str(new)]) == status
    output = capsys.readouterr().out
    assert "more than 25% of time, 10% of memory" in output
    assert f"slower or bigger: {'1' if status else 'none'}" in output
