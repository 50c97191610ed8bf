"""The tuples of pytorch-metric-learning: the same, and in the same order where nothing is equal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytorch_metric_learning import miners as pml

from fusedml import distances, miners
from fusedml.miners.hdc import among_hardest
from tests.miners.made import (
    EUCLIDEAN_ONLY,
    IDS,
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

EVERY = pytest.mark.parametrize(("name", "arguments"), SETTINGS, ids=IDS)
pytestmark = [
    pytest.mark.usefixtures("strips"),
    pytest.mark.filterwarnings("ignore:.*not a distance that fusedml"),
]


def check_equal(ours: Any, theirs: Any, batch: Batch, *, ordered: bool = True) -> None:
    actual, expected = entries(ours(*batch)), entries(theirs(*batch))
    if not ordered:
        actual, expected = map(sorted, actual), map(sorted, expected)
    assert list(actual) == list(expected)


def lists_the_diagonal(name: str, kind: str) -> bool:
    """PML's miner then lists the diagonal, as positive and as negative."""
    return name == "MultiSimilarityMiner" and kind == "same labels"


@EVERY
@pytest.mark.parametrize("kind", REFERENCES)
def test_own_distance(name: str, arguments: dict, kind: str) -> None:
    ours, theirs = both(name, arguments)
    for labels in LABELS.values():
        batch = references(kind, gaussian(len(labels)), labels)
        if not lists_the_diagonal(name, kind):
            check_equal(ours, theirs, batch)


@EVERY
@pytest.mark.parametrize("distance", ["cosine", "euclidean", "squared", "cubed", "manhattan"])
def test_other_distances(name: str, arguments: dict, distance: str) -> None:
    if name in EUCLIDEAN_ONLY:
        pytest.skip("takes one distance only")
    ours, theirs = both(name, arguments, distance)
    for pattern in ("three a class", "some alone", "two large classes"):
        labels = LABELS[pattern]
        for kind in ("none", "others"):
            check_equal(ours, theirs, references(kind, gaussian(len(labels)), labels))


@EVERY
def test_equal_measures(name: str, arguments: dict) -> None:
    """Dot products of whole numbers, and margins that are met exactly."""
    if name in EUCLIDEAN_ONLY:
        pytest.skip("takes one distance only")
    if name != "BatchEasyHardMiner":
        arguments = {
            key: round(5 * value) if isinstance(value, float) else value
            for key, value in arguments.items()
        }
    elif len(arguments) > 2:
        arguments = {**arguments, "allowed_pos_range": (1, 4), "allowed_neg_range": (1, 5)}
    ours, theirs = both(name, arguments, "dot")
    # within a row of equal measures their order is that of an unstable sort
    ordered = name != "MultiSimilarityMiner"
    for seed in range(6):
        labels = torch.randint(0, 6, (30,), generator=torch.Generator().manual_seed(seed))
        check_equal(ours, theirs, Batch(whole_numbers(30, seed), labels), ordered=ordered)


@pytest.mark.parametrize("kind", REFERENCES)
@pytest.mark.parametrize("share", [0.5, 0.3, 1])
@pytest.mark.parametrize("distance", [None, "cosine", "cubed"])
def test_hdc(kind: str, share: float, distance: str | None) -> None:
    ours, theirs = both("HDCMiner", {"filter_percentage": share}, distance)
    for labels in LABELS.values():
        batch = references(kind, gaussian(len(labels)), labels)
        if kind == "none":
            check_equally_hard(ours, theirs, batch)
        else:
            check_equal(ours, theirs, batch)


def check_equally_hard(ours: Any, theirs: Any, batch: Batch) -> None:
    """(i, j) and (j, i) are equally hard: theirs come in any order."""
    matrix = theirs.distance(batch.embeddings)
    actual, expected = ours(*batch), theirs(*batch)
    for k in (0, 2):
        hardness = matrix[actual[k], actual[k + 1]]
        torch.testing.assert_close(hardness, matrix[expected[k], expected[k + 1]])
    for pairs in entries(actual):
        assert len(set(pairs)) == len(pairs)


@pytest.mark.parametrize("share", [0.005, 0.015, 0.05, 0.3, 0.77])
def test_hdc_takes_the_first_of_equally_hard_pairs(share: float) -> None:
    embeddings, labels = whole_numbers(30), torch.arange(30) % 7
    distance = distances.DotProductSimilarity(normalize_embeddings=False)
    mined = miners.HDCMiner(share, distance=distance)(embeddings, labels)
    matrix = embeddings @ embeddings.T
    same = labels[:, None] == labels
    for k, (mask, sign) in enumerate([(same & ~torch.eye(30, dtype=torch.bool), -1), (~same, 1)]):
        i, j = torch.where(mask)
        order = torch.argsort(sign * matrix[i, j], descending=True, stable=True)
        order = order[: -int(-share * len(i) // 1)]
        assert torch.equal(mined[2 * k], i[order])
        assert torch.equal(mined[2 * k + 1], j[order])


@pytest.mark.parametrize("is_largest", [True, False])
def test_some_entries_with_the_hardest_among_them(is_largest: bool) -> None:
    for seed in range(8):
        x = torch.randn(23, 29, generator=torch.Generator().manual_seed(seed)).round(decimals=1)
        if seed % 2:
            x[-1, -2:] = x.max() if is_largest else x.min()
        for size in (1, 3, 10, 60):
            rows, columns = among_hardest(x, size, is_largest)
            numbers = (rows * 29 + columns).tolist()
            assert numbers == sorted(set(numbers))
            bound = x.view(-1).topk(size, largest=is_largest).values[-1]
            hard = (x >= bound) if is_largest else (x <= bound)
            assert set(hard.view(-1).nonzero()[:, 0].tolist()) <= set(numbers)
            assert len(numbers) < x.numel()
    assert among_hardest(x, 84, is_largest) is None
    x[3, 4] = torch.nan
    assert among_hardest(x, 1, is_largest) is None


@pytest.mark.parametrize("as_triplets", [True, False])
def test_hdc_of_an_index_tuple(as_triplets: bool) -> None:
    embeddings, labels = gaussian(36), LABELS["three a class"]
    first = pml.TripletMarginMiner() if as_triplets else pml.PairMarginMiner(0.4, 1.2)
    given = first(embeddings, labels)
    ours, theirs = both("HDCMiner", {"filter_percentage": 0.4}, "cosine")
    for miner in (ours, theirs):
        miner.set_idx_externally(given, labels)
    for _ in range(2):  # each call filters what the one before it has left
        measured = []
        for miner in (ours, theirs):
            mined = miner(embeddings, labels)
            matrix = miner.distance(embeddings)
            measured.append([matrix[mined[k], mined[k + 1]].sort().values for k in (0, 2)])
        torch.testing.assert_close(*measured)
    ours.reset_idx()
    theirs.reset_idx()
    assert [len(index) for index in ours(embeddings, labels)] == [
        len(index) for index in theirs(embeddings, labels)
    ]


def test_multi_similarity_of_others_with_the_same_labels_leaves_out_the_diagonal() -> None:
    labels = LABELS["some alone"]
    batch = references("same labels", gaussian(len(labels)), labels)
    ours, theirs = both("MultiSimilarityMiner", {"epsilon": 10})
    actual, expected = (set(map(tuple, entries(miner(*batch))[1])) for miner in (ours, theirs))
    assert expected - actual == {(i, i) for i in range(len(labels))}
    assert all(i != j for kind in entries(ours(*batch)) for i, j in kind)


@pytest.mark.parametrize("name", ["MultiSimilarityMiner", "BatchHardMiner"])
def test_the_embeddings_as_references_with_other_labels(name: str) -> None:
    labels, embeddings = LABELS["some alone"], gaussian(26)
    ours, theirs = both(name, {})
    for others in (labels.clone(), labels.roll(3)):
        check_equal(ours, theirs, Batch(embeddings, labels, embeddings, others))


def test_packaged_triplets() -> None:
    ours, theirs = both("EmbeddingsAlreadyPackagedAsTriplets", {})
    for n in (3, 12):
        check_equal(ours, theirs, Batch(gaussian(n), torch.zeros(n)))
    assert [len(index) for index in ours(gaussian(6))] == [2, 2, 2]
    assert [len(index) for index in ours(gaussian(0))] == [0, 0, 0]  # theirs fails
