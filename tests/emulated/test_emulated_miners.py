"""Miners whose lists the emulated kernels write: pytorch-metric-learning's tuples."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from fusedml import miners
from fusedml.distances import DotProductSimilarity
from fusedml.engine import ops
from fusedml.engine.routes import window_lists
from fusedml.engine.routes.row_strips import RowStrips
from fusedml.miners import hdc
from tests.miners.made import (
    EUCLIDEAN_ONLY,
    LABELS,
    REFERENCES,
    SETTINGS,
    Batch,
    both,
    entries,
    gaussian,
    references,
    whole_numbers,
)
from tests.miners.test_parity import check_equal, check_equally_hard, lists_the_diagonal

# extreme pairs alone make the lists of the other strategies
LISTED = [
    (name, arguments)
    for name, arguments in SETTINGS
    if name not in ("BatchHardMiner", "BatchEasyHardMiner") or "all" in arguments.values()
]
WITHOUT_RANGES = [setting for setting in LISTED if "allowed_pos_range" not in setting[1]]
PATTERNS = tuple(LABELS)


def id_of(value: Any) -> str | None:
    return "-".join(map(str, value.values())) if isinstance(value, dict) else None


@pytest.fixture(autouse=True, params=["at once", "in parts"])
def _kernels(request, emulated, monkeypatch):
    """No strip is measured; lines by some at a time, and the hardest found by halves."""
    monkeypatch.setitem(ops.BACKENDS, "auto", emulated.NAMESPACE)

    def strips(*_: Any) -> None:
        pytest.fail("a strip was measured")

    monkeypatch.setattr(RowStrips, "strips", strips)
    if request.param == "in parts":
        monkeypatch.setattr(window_lists, "_LINE_ELEMENTS", 100)
        monkeypatch.setattr(hdc, "FEW_ENTRIES", -1)


@pytest.mark.parametrize(("number", "name", "arguments"), [(k, *s) for k, s in enumerate(LISTED)])
def test_tuples_of_pml(number: int, name: str, arguments: dict) -> None:
    """A pattern of labels and a kind of references for each, of which all occur."""
    ours, theirs = both(name, arguments)
    for shift in range(2):
        labels = LABELS[PATTERNS[(number + 4 * shift) % len(PATTERNS)]]
        kind = REFERENCES[(number // 2 + shift) % len(REFERENCES)]
        if not lists_the_diagonal(name, kind):
            check_equal(ours, theirs, references(kind, gaussian(len(labels)), labels))


@pytest.mark.parametrize(("name", "arguments"), WITHOUT_RANGES, ids=id_of)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_equal_measures(name: str, arguments: dict, dtype: torch.dtype) -> None:
    """Dot products of whole numbers, and margins that are met exactly, in every number type."""
    if name in EUCLIDEAN_ONLY:
        pytest.skip("takes one distance only")
    numbers = {k: round(5 * v) if isinstance(v, float) else v for k, v in arguments.items()}
    ours, theirs = both(name, numbers, "dot")
    x, labels = whole_numbers(30), torch.arange(30) * 7 % 6
    expected = [sorted(kind) for kind in entries(theirs(x, labels))]
    found = entries(ours(x.to(dtype), labels))
    if name != "MultiSimilarityMiner":  # in which theirs are sorted, but not stably
        assert found == [[*kind] for kind in entries(theirs(x, labels))]
    assert [sorted(kind) for kind in found] == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_ascending_measures_and_columns(dtype: torch.dtype) -> None:
    distance = DotProductSimilarity(normalize_embeddings=False)
    x, labels = whole_numbers(30, 1), torch.arange(30) % 6
    mined = miners.MultiSimilarityMiner(2, distance=distance)(x.to(dtype), labels)
    matrix = x @ x.T
    for rows, columns in (mined[:2], mined[2:]):
        keys = list(
            zip(rows.tolist(), matrix[rows, columns].tolist(), columns.tolist(), strict=True)
        )
        assert len(keys) > 30 and keys == sorted(keys)


@pytest.mark.parametrize("kind", REFERENCES)
def test_hdc(kind: str) -> None:
    for share, distance in ((0.3, None), (1, "cosine")):
        ours, theirs = both("HDCMiner", {"filter_percentage": share}, distance)
        for pattern in ("some alone", "two large classes", "one class", "all alone"):
            labels = LABELS[pattern]
            batch = references(kind, gaussian(len(labels)), labels)
            (check_equally_hard if kind == "none" else check_equal)(ours, theirs, batch)


@pytest.mark.parametrize("share", [0.05, 0.77])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_hdc_takes_the_first_of_equally_hard_pairs(share: float, dtype: torch.dtype) -> None:
    embeddings, labels = whole_numbers(30), torch.arange(30) % 7
    distance = DotProductSimilarity(normalize_embeddings=False)
    mined = miners.HDCMiner(share, distance=distance)(embeddings.to(dtype), labels)
    matrix = embeddings @ embeddings.T
    same = labels[:, None] == labels
    for k, (mask, sign) in enumerate([(same & ~torch.eye(30, dtype=torch.bool), -1), (~same, 1)]):
        i, j = torch.where(mask)
        order = torch.argsort(sign * matrix[i, j], descending=True, stable=True)
        order = order[: -int(-share * len(i) // 1)]
        assert torch.equal(mined[2 * k], i[order])
        assert torch.equal(mined[2 * k + 1], j[order])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("MultiSimilarityMiner", {"epsilon": 5}),
        ("PairMarginMiner", {}),
        ("TripletMarginMiner", {"margin": 9}),
        ("AngularMiner", {"angle": -1}),
        ("BatchEasyHardMiner", {"pos_strategy": "all", "neg_strategy": "all"}),
    ],
)
def test_lists_that_are_too_long(name: str, arguments: dict) -> None:
    x, labels = gaussian(36), LABELS["three a class"]
    ours, theirs = both(name, arguments)
    listed = theirs(x, labels)
    size = len(listed[0]) + (len(listed[2]) if len(listed) == 4 else 0)
    ours.max_listed = size
    check_equal(ours, theirs, Batch(x, labels))
    if name in ("TripletMarginMiner", "BatchEasyHardMiner"):
        return  # those are counted by ranks, or by labels, before
    ours.max_listed = size - 1
    message = f"{name} would list {size:,} pairs or triplets, more than max_listed={size - 1:,}"
    with pytest.raises(ValueError, match=re.escape(message)):
        ours(x, labels)
