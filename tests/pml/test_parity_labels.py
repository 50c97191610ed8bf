"""Parity with pytorch-metric-learning on labels: arguments, label patterns, sizes, distances."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning import distances as pml_distances
from pytorch_metric_learning import miners
from pytorch_metric_learning.losses import MultiSimilarityLoss as PmlMultiSimilarityLoss

from fusedml import distances
from fusedml.engine.routes import choice
from fusedml.losses import LOSSES, MultiSimilarityLoss
from tests.pml.parity import (
    ARGUMENTS,
    CLASS_PATTERNS,
    LABEL_PATTERNS,
    PAIR_LOSSES,
    Batch,
    HalvedCosine,
    assert_parity,
    make_embeddings,
    make_losses,
    make_ours,
    require_other_distances,
    takes_distance,
)

# No row, one, few, and more than fit a vector of anything.
SIZES = (0, 1, 2, 3, 8, 33, 129)
# The single-tile limit of 384 rows; theirs needs cubic memory for the two others.
LARGE = (
    *("MultiSimilarityLoss", "GeneralizedLiftedStructureLoss", "SupConLoss"),
    *(name for name in ARGUMENTS if LOSSES[name].weights_name),
)
DISTANCES = {
    "CosineSimilarity": {},
    "DotProductSimilarity": {"normalize_embeddings": False},
    "LpDistance": {},
    "LpDistance, not normalised": {"normalize_embeddings": False},
    "LpDistance, squared": {"power": 2},
}


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("n", SIZES)
def test_sizes(name: str, n: int) -> None:
    # two samples a class where four would cost theirs 500 million elements
    labels = torch.arange(n) // 2 % 63 if n > 100 else LABEL_PATTERNS["four samples a class"](n)
    batch = Batch(make_embeddings(n), labels)
    for arguments in ARGUMENTS[name][: 1 if n > 100 else None]:
        assert_parity(*make_losses(name, **arguments), batch)


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("n", [800, 801])
def test_sizes_around_the_whole_matrix(name: str, n: int) -> None:
    batch = Batch(make_embeddings(n), torch.arange(n) % 37)
    assert_parity(*make_losses(name), batch)


@pytest.mark.also_emulated
@pytest.mark.usefixtures("whole_or_tiles")
@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("pattern", LABEL_PATTERNS)
def test_label_patterns(name: str, pattern: str) -> None:
    if LOSSES[name].weights_name and pattern not in CLASS_PATTERNS:
        pytest.skip("proxy losses take class numbers only")
    n = 30
    assert_parity(*make_losses(name), Batch(make_embeddings(n), LABEL_PATTERNS[pattern](n)))


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("package", [distances, pml_distances], ids=["ours", "theirs"])
def test_distances(name: str, distance: str, package) -> None:
    n = 24
    batch = Batch(0.7 * make_embeddings(n), LABEL_PATTERNS["rows without positives"](n))
    class_name = distance.split(",", maxsplit=1)[0]
    ours = make_ours(name, distance=getattr(package, class_name)(**DISTANCES[distance]))
    _, theirs = make_losses(
        name, distance=getattr(pml_distances, class_name)(**DISTANCES[distance])
    )
    theirs.load_state_dict(ours.state_dict())
    # cdist by matrix products: about sqrt(eps) where two points nearly coincide
    assert_parity(ours, theirs, batch, floor=1e-5)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("pattern", ["four samples a class", "all one class", "all different"])
@pytest.mark.parametrize("n", [2, 30, 129])
def test_mining_is_their_miner(epsilon: float, pattern: str, n: int) -> None:
    class Mined(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loss = PmlMultiSimilarityLoss()
            self.miner = miners.MultiSimilarityMiner(epsilon)

        def forward(self, embeddings, labels, *_):
            return self.loss(embeddings, labels, self.miner(embeddings, labels))

    batch = Batch(make_embeddings(n), LABEL_PATTERNS[pattern](n))
    assert_parity(MultiSimilarityLoss(mining_epsilon=epsilon), Mined(), batch)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_any_other_distance_is_computed_by_blocks(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_other_distances(name)
    monkeypatch.setattr(choice, "_WARNED", set())  # it warns once in a process

    class Manhattan(pml_distances.BaseDistance):
        def compute_mat(self, query_emb, ref_emb):
            return (query_emb[:, None] - ref_emb[None]).abs().sum(2)

    n = 33
    batch = Batch(make_embeddings(n), LABEL_PATTERNS["rows without positives"](n))
    distance = Manhattan() if takes_distance(name, Manhattan()) else HalvedCosine()
    with pytest.warns(UserWarning, match=type(distance).__name__):
        ours, theirs = make_losses(name, distance=distance)
        assert_parity(ours, theirs, batch)


def test_distance_of_another_power_is_computed_by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_WARNED", set())  # it warns once in a process
    n = 20
    batch = Batch(make_embeddings(n), LABEL_PATTERNS["four samples a class"](n))
    with pytest.warns(UserWarning, match=r"LpDistance \(power 3\)"):
        assert_parity(
            *make_losses("MultiSimilarityLoss", distance=pml_distances.LpDistance(power=3)), batch
        )


def test_the_test_can_fail() -> None:
    batch = Batch(make_embeddings(20), LABEL_PATTERNS["four samples a class"](20))
    ours, theirs = make_losses("MultiSimilarityLoss")
    ours.base = 0.5000001
    with pytest.raises(AssertionError, match="output 0"):
        assert_parity(ours, theirs, batch)
