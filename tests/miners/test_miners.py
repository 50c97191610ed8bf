"""What all miners share: constructor, call, errors, statistics, number types, sizes of lists."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
import torch
from pytorch_metric_learning import distances as pml_distances
from pytorch_metric_learning import miners as pml
from torch import Tensor

from fusedml import distances, losses, miners
from fusedml.engine import pair_lists
from fusedml.engine.routes import choice
from fusedml.errors import DistanceError, TupleError
from fusedml.miners import angular
from tests.miners.made import LABELS, Batch, both, entries, gaussian, references

MINERS = {
    name: getattr(miners, name)
    for name in miners.__all__
    if name not in ("BaseMiner", "MaximumLossMiner")
}
EVERY = pytest.mark.parametrize("name", MINERS)
MINING = tuple(name for name in MINERS if name != "EmbeddingsAlreadyPackagedAsTriplets")
EVERY_MINING = pytest.mark.parametrize("name", MINING)
NUM_TENSORS = {
    "AngularMiner": 3,
    "BatchEasyHardMiner": 4,
    "BatchHardMiner": 3,
    "DistanceWeightedMiner": 3,
    "EmbeddingsAlreadyPackagedAsTriplets": 3,
    "HDCMiner": 4,
    "MultiSimilarityMiner": 4,
    "PairMarginMiner": 4,
    "TripletMarginMiner": 3,
    "UniformHistogramMiner": 4,
}


def mine(name: str, *args: Any, **arguments: Any) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    return MINERS[name](**arguments)(*args)


def test_all_of_theirs_are_here() -> None:
    names = {name for name, value in vars(pml).items() if isinstance(value, type)}
    assert names | {"MaximumLossMiner"} == set(miners.__all__)


@EVERY
def test_constructor_is_theirs(name: str) -> None:
    ours, theirs = both(name, {})
    shown = [key for key in vars(theirs) if not key.startswith("_") and key != "training"]
    kept_by_hdc = {"a1", "p", "a2", "n"}
    for key in set(shown) - kept_by_hdc:
        assert getattr(ours, key) == getattr(theirs, key), key
    assert type(ours.distance).__name__ == type(theirs.distance).__name__


@EVERY
def test_unknown_keyword(name: str) -> None:
    with pytest.raises(TypeError, match=rf"{name} got an unexpected keyword argument 'distnace'"):
        MINERS[name](distnace=distances.LpDistance())


@EVERY
def test_no_distance(name: str) -> None:
    with pytest.raises(TypeError, match="distance must be an object that can be called"):
        MINERS[name](distance="cosine")


@pytest.mark.parametrize("name", ["AngularMiner", "DistanceWeightedMiner"])
@pytest.mark.parametrize(
    ("distance", "got"),
    [
        (distances.CosineSimilarity(), "CosineSimilarity"),
        (distances.LpDistance(p=1), "p=1, power=1, normalize_embeddings=True"),
        (pml_distances.LpDistance(power=2), "p=2, power=2, normalize_embeddings=True"),
        (distances.LpDistance(normalize_embeddings=False), "normalize_embeddings=False"),
    ],
)
def test_distances_that_are_refused(name: str, distance: Any, got: str) -> None:
    with pytest.raises(DistanceError, match=f"LpDistance.* for {name}, got .*{got}"):
        MINERS[name](distance=distance)
    with pytest.raises(AssertionError):
        getattr(pml, name)(distance=distance)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("BatchEasyHardMiner", {"pos_strategy": "hrad"}, "pos_strategy must be one of .*'hrad'"),
        ("BatchEasyHardMiner", {"neg_strategy": 3}, "neg_strategy must be one of .*got 3"),
        ("BatchEasyHardMiner", {"pos_strategy": "semihard"}, "cannot both be"),
        ("BatchEasyHardMiner", {"pos_strategy": "all"}, "in combination with"),
        ("TripletMarginMiner", {"type_of_triplets": "esay"}, "type_of_triplets must.*'esay'"),
        ("HDCMiner", {"filter_percentage": 1.5}, "filter_percentage must be in .*got 1.5"),
        ("HDCMiner", {"filter_percentage": 0}, "filter_percentage must be in .*got 0"),
        ("UniformHistogramMiner", {"num_bins": 0}, "num_bins must be at least 1, got 0"),
        ("UniformHistogramMiner", {"neg_per_bin": 0}, "neg_per_bin must be at least 1, got 0"),
        ("PairMarginMiner", {"max_listed": -1}, "max_listed must be at least 0.*got -1"),
    ],
)
def test_arguments_that_are_refused(name: str, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MINERS[name](**arguments)


@EVERY_MINING
def test_calls_that_are_refused(name: str) -> None:
    miner, x, labels = MINERS[name](), gaussian(6), torch.arange(6) // 2
    with pytest.raises(ValueError, match=f"labels are required for {name}, got None"):
        miner(x)
    with pytest.raises(ValueError, match="Number of embeddings must equal number of labels"):
        miner(x, labels[:5])
    with pytest.raises(ValueError, match="labels must be a 1D tensor"):
        miner(x, labels[:, None])
    with pytest.raises(ValueError, match="ref_emb must have the embedding size of embeddings"):
        miner(x, labels, x[:, :2], labels)
    with pytest.raises(ValueError, match=r"Number of embeddings .* ref_labels has shape"):
        miner(x, labels, x[:4], labels)
    with pytest.raises(TypeError, match="swapped"):
        miner(labels, x)


def test_triplets_that_do_not_come_out_even() -> None:
    with pytest.raises(TupleError, match=r"3 rows for each triplet, got shape \(7, 5\)"):
        miners.EmbeddingsAlreadyPackagedAsTriplets()(gaussian(7), torch.zeros(7))
    with pytest.raises(AssertionError):
        pml.EmbeddingsAlreadyPackagedAsTriplets()(gaussian(7), torch.zeros(7))


@EVERY
@pytest.mark.parametrize("n", [0, 1])
def test_no_and_one_embedding(name: str, n: int) -> None:
    if n == 1 and name not in MINING:
        pytest.skip("takes three at a time")
    mined = mine(name, gaussian(n), torch.zeros(n))
    assert len(mined) == NUM_TENSORS[name]
    assert all(index.dtype == torch.int64 and index.shape == (0,) for index in mined)


@EVERY_MINING
def test_no_references(name: str) -> None:
    mined = mine(name, gaussian(4), torch.arange(4), gaussian(0), torch.arange(0))
    assert [index.shape for index in mined] == [(0,)] * NUM_TENSORS[name]


@EVERY
def test_losses_take_what_is_mined(name: str) -> None:
    x, labels = gaussian(36).requires_grad_(), LABELS["three a class"]
    mined = mine(name, x, labels)
    assert not any(index.requires_grad for index in mined)
    loss = losses.SupConLoss()(x, labels, mined)
    theirs = pml_loss(x, labels, mined)
    torch.testing.assert_close(loss, theirs)
    loss.backward()


def pml_loss(x: Tensor, labels: Tensor, mined: tuple[Tensor, ...]) -> Tensor:
    from pytorch_metric_learning.losses import SupConLoss  # noqa: PLC0415

    return SupConLoss()(x, labels, mined)


@EVERY_MINING
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("is_autocast", [False, True])
def test_half_precision_is_measured_in_float32(name: str, dtype, is_autocast: bool) -> None:
    """Rows are normalised in float32 and rounded once, as for the losses."""
    labels = LABELS["some alone"]
    x = gaussian(26, dtype=torch.float32)
    given = x if is_autocast else x.to(dtype)
    with torch.autocast("cpu", dtype, enabled=is_autocast):
        mined = mine(name, given, labels)
    if name == "AngularMiner":  # as given, whatever they are
        rounded, distance = given.float(), None
    else:
        rounded = torch.nn.functional.normalize(given.float()).to(dtype).float()
        of_miner = type(MINERS[name]().distance)
        distance = (
            of_miner(normalize_embeddings=False)
            if of_miner is distances.LpDistance
            else (distances.DotProductSimilarity(normalize_embeddings=False))
        )
    miner = MINERS[name]()
    if distance is not None:
        miner.distance = distance
    torch.manual_seed(0)
    assert entries(mined) == entries(miner(rounded, labels))


@EVERY_MINING
def test_float32_finds_what_float64_finds(name: str) -> None:
    labels = LABELS["two large classes"]
    narrow, wide = (entries(mine(name, x, labels)) for x in (gaussian(34).float(), gaussian(34)))
    if name == "HDCMiner":  # rounding decides which of (i, j) and (j, i) comes first
        narrow, wide = ([[sorted(pair) for pair in kind] for kind in x] for x in (narrow, wide))
    assert narrow == wide


@EVERY_MINING
def test_their_distances_and_layouts(name: str) -> None:
    labels = LABELS["some alone"]
    x = gaussian(26)
    miner = MINERS[name]()
    theirs = getattr(pml_distances, type(miner.distance).__name__)()
    expected = mine(name, x, labels)
    assert entries(mine(name, x, labels, distance=theirs)) == entries(expected)
    strided = torch.stack([x, x], 2)[:, :, 0]
    other = torch.stack([labels, labels], 1)[:, 0]
    assert entries(mine(name, strided, other)) == entries(expected)


@pytest.mark.parametrize("name", ["BatchHardMiner", "HDCMiner", "MultiSimilarityMiner"])
def test_one_warning_for_a_distance_that_is_not_fused(name: str, monkeypatch) -> None:
    monkeypatch.setattr(choice, "_WARNED", set())
    batch = gaussian(26), LABELS["some alone"]
    miner = MINERS[name](distance=distances.LpDistance(p=1))
    with pytest.warns(UserWarning, match=f"{name}: LpDistance .* not a distance that fusedml"):
        miner(*batch)
    miner(*batch)  # a second warning were an error


@EVERY_MINING
def test_nan_is_no_crash(name: str) -> None:
    x, labels = gaussian(26), LABELS["some alone"]
    x[3, 0] = torch.nan
    n = len(x)
    assert all(bool(((index >= 0) & (index < n)).all()) for index in mine(name, x, labels))


# ------------------------------------------------------------------------------- statistics

WITH_STATS: list[tuple[str, dict[str, Any]]] = [
    ("MultiSimilarityMiner", {}),
    ("TripletMarginMiner", {"margin": 0.1}),
    ("AngularMiner", {"angle": 30}),
    ("AngularMiner", {"angle": 90}),
    ("PairMarginMiner", {}),
    ("HDCMiner", {}),
    ("DistanceWeightedMiner", {}),
    ("UniformHistogramMiner", {}),
    ("BatchHardMiner", {}),
    *(
        ("BatchEasyHardMiner", {"pos_strategy": positive, "neg_strategy": negative})
        for positive, negative in [("easy", "semihard"), ("all", "hard"), ("easy", "all")]
    ),
    ("BatchEasyHardMiner", {"pos_strategy": "all", "neg_strategy": "all"}),
]


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize(("name", "arguments"), WITH_STATS)
@pytest.mark.parametrize("distance", [None, "cosine"])
def test_statistics_are_theirs(name: str, arguments: dict, distance: str | None) -> None:
    if distance and name in ("AngularMiner", "DistanceWeightedMiner"):
        pytest.skip("takes one distance only")
    ours, theirs = both(name, arguments, distance, collect_stats=True)
    for pattern in ("some alone", "two large classes", "all alone", "one class"):
        labels = LABELS[pattern]
        for kind in ("none", "others"):
            batch = references(kind, gaussian(len(labels)), labels)
            ours(*batch)
            theirs(*batch)
            assert ours._record_these_stats == theirs._record_these_stats
            assert getattr(ours, "_record_these", []) == getattr(theirs, "_record_these", [])
            for key in ours._record_these_stats:
                # theirs shifts each difference by 1e-6 to take an angle
                near = {"rel": 1e-5} if name == "AngularMiner" else {"rel": 1e-9, "abs": 1e-9}
                expected = pytest.approx(getattr(theirs, key), nan_ok=True, **near)
                assert getattr(ours, key) == expected, key


@EVERY_MINING
def test_nothing_is_recorded_unasked(name: str) -> None:
    ours, theirs = both(name, {})
    x, labels = gaussian(26), LABELS["some alone"]
    ours(x, labels)
    theirs(x, labels)
    assert not hasattr(ours, "_record_these_stats")
    counted = "num_triplets" if NUM_TENSORS[name] == 3 else "num_pos_pairs"
    assert getattr(ours, counted) == getattr(theirs, counted)


def test_copies_have_statistics_of_their_own() -> None:
    miner = miners.PairMarginMiner(collect_stats=True)
    other = copy.deepcopy(miner)
    miner(gaussian(26), LABELS["some alone"])
    assert miner.pos_pair_dist > 0
    assert other.pos_pair_dist == 0


# ------------------------------------------------------------------------------- one's own


class FirstPairs(miners.BaseMiner):
    """As for pytorch-metric-learning's base: only the name of the package differs."""

    output: Any = (torch.zeros(1), torch.ones(1), torch.zeros(1), torch.ones(1))

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_to_recordable_attributes(name="seen", is_stat=True)

    def mine(self, embeddings, labels, ref_emb, ref_labels):
        self.seen = embeddings is ref_emb, labels is ref_labels
        return self.output


def test_a_miner_of_ones_own() -> None:
    x, labels = gaussian(4), torch.arange(4)
    miner = FirstPairs(collect_stats=True)
    miner(x, labels)
    assert (miner.seen, miner.num_pos_pairs, miner.num_neg_pairs) == ((True, True), 1, 1)
    miner(x, labels, x.clone(), labels)
    assert miner.seen == (False, True)
    assert miner._record_these_stats[-1] == "seen"


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        ((torch.zeros(1),) * 2, TypeError, "must return 3 tensors .* got 2"),
        (None, TypeError, "got NoneType"),
        ((torch.zeros(1), torch.zeros(2), torch.zeros(1)), TupleError, r"lengths \(1, 2, 1\)"),
        ((torch.zeros(1), torch.zeros(1), torch.zeros(2), torch.zeros(1)), TupleError, "lengths"),
    ],
)
def test_a_tuple_that_is_none(output: Any, error: type, message: str) -> None:
    miner = FirstPairs()
    miner.output = output
    with pytest.raises(error, match=message):
        miner(gaussian(4), torch.arange(4))


def test_a_distance_that_is_never_the_same(monkeypatch) -> None:
    """The list is written by a second sweep, which has to find what the first has counted."""
    monkeypatch.setattr(pair_lists, "FEW_ENTRIES", -1)

    class Noisy(distances.LpDistance):
        def compute_mat(self, query_emb, ref_emb):
            return torch.rand(len(query_emb), len(ref_emb))

    miner = miners.PairMarginMiner(0.5, 0.5, distance=Noisy())
    with pytest.warns(UserWarning), pytest.raises(RuntimeError, match="measured twice"):
        miner(gaussian(34), LABELS["two large classes"])


# ------------------------------------------------------------------------------- sizes


@EVERY_MINING
@pytest.mark.usefixtures("strips")
def test_a_list_that_is_too_long(name: str) -> None:
    x, labels = gaussian(34), LABELS["two large classes"]
    arguments: dict[str, Any] = {}
    if name.startswith("Batch"):
        if name == "BatchHardMiner":
            pytest.skip("lists one triplet for each anchor")
        arguments = {"pos_strategy": "hard", "neg_strategy": "all"}
    mined = mine(name, x, labels, **arguments)
    lists = mined[:1] if len(mined) == 3 else mined[::2]
    size = sum(map(len, lists))
    if name == "BatchEasyHardMiner":
        size = len(mined[2])  # those of the other side are one for each anchor
    if name == "UniformHistogramMiner":
        size = 100 * (10 + 10)  # known before the bins that are empty
    mine(name, x, labels, max_listed=size, **arguments)
    with pytest.raises(ValueError, match=f"{name} would list {size:,} .* max_listed={size - 1:,}"):
        mine(name, x, labels, max_listed=size - 1, **arguments)


@pytest.mark.parametrize("kind", miners.TripletMarginMiner.types_of_triplets)
@pytest.mark.parametrize("pattern", ["some alone", "two large classes", "one class"])
@pytest.mark.usefixtures("strips")
def test_triplets_are_counted_by_rank(kind: str, pattern: str) -> None:
    labels = LABELS[pattern]
    for distance in (None, distances.CosineSimilarity()):
        miner = miners.TripletMarginMiner(0.1, kind, distance=distance)
        x = gaussian(len(labels))
        pairs = miner.pairs_of(x, labels, x, labels)
        assert miner._count(pairs) == len(miner(x, labels)[0])


@pytest.mark.parametrize(
    ("name", "arguments", "instead"),
    [
        ("MultiSimilarityMiner", {}, "MultiSimilarityLoss(mining_epsilon=0.1)"),
        ("TripletMarginMiner", {}, 'TripletMarginLoss(margin=0.2, mining="all")'),
        (
            "TripletMarginMiner",
            {"type_of_triplets": "semihard"},
            'TripletMarginLoss(margin=0.2, mining="semihard")',
        ),
        ("AngularMiner", {}, "AngularLoss() has all triplets"),
    ],
)
def test_what_needs_no_list(name: str, arguments: dict, instead: str) -> None:
    with pytest.raises(ValueError, match=re.escape(instead)):
        mine(name, gaussian(34), LABELS["two large classes"], max_listed=3, **arguments)


def test_two_large_classes_are_counted_not_listed(monkeypatch) -> None:
    """2 billion triplets: each would be compared, before the list is found to be too long."""
    n = 2048
    batch = Batch(gaussian(n, dtype=torch.float32), torch.arange(n) % 2)
    miner = miners.TripletMarginMiner(10.0, "all")
    monkeypatch.setattr(miner, "listed", None)
    with pytest.raises(ValueError, match=f"{n * (n // 2 - 1) * (n // 2):,} pairs or triplets"):
        miner(*batch)


@pytest.mark.parametrize("degrees", [-1, 0, 20, 45, 89, 90, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distances_of_an_angle(degrees: int, dtype: torch.dtype) -> None:
    """What kernels are asked for, to the last bit; equal rows have an angle away from them."""
    angle = math.radians(degrees)
    generator = torch.Generator().manual_seed(1)
    lengths = torch.cat([torch.zeros(3), torch.rand(60, generator=generator)]).to(dtype)
    window = angular._distances(lengths, angle)
    d = (torch.rand(63, 40, generator=generator) * 3).to(dtype)
    d[:, 0], d[:, 1] = 0, 1e-30
    if window.high is not None:
        d[:, 2] = window.high
        d[:, 3] = torch.nextafter(window.high, torch.full_like(window.high, math.inf))
    angles = torch.div(lengths[:, None], 2 * d).atan()
    assert torch.equal(window.holds(d), angles > angle)
