"""Parity with pytorch-metric-learning on explicit index tuples."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from pytorch_metric_learning import miners
from pytorch_metric_learning.distances import DotProductSimilarity, SNRDistance
from pytorch_metric_learning.utils import loss_and_miner_utils
from torch import Tensor

from fusedml.distances import LpDistance
from fusedml.engine.routes import choice
from fusedml.losses import LOSSES
from tests.losses.made import require_tuples
from tests.pml.parity import (
    ARGUMENTS,
    REFERENCE_LOSSES,
    TUPLE_LOSSES,
    Batch,
    HalvedCosine,
    assert_parity,
    make_embeddings,
    make_losses,
    require_other_distances,
    takes_distance,
)

N = 26
_SIZES = "fusedml.engine.list_sizes"
# the ways of a tuple: listed; marked or counted in one block; entries of that; marked in several,
# the last one ragged
WAYS = {
    "list": {f"{_SIZES}._FEW_PAIRS": 0, f"{_SIZES}._PAIRS_PER_DENSE": 0},
    "one block": {f"{_SIZES}._PAIRS_PER_ENTRY": 1 << 30},
    "entries": {f"{_SIZES}._PAIRS_PER_ENTRY": 0},
    "blocks": {
        f"{_SIZES}._FEW_PAIRS": 1 << 30,
        "fusedml.engine.marked.MOST_PAIRS": 0,
        "fusedml.engine.marked.BLOCK_PAIRS": 5 * N,
        "fusedml.engine.marked._ENOUGH_ROWS": 0,
    },
}


@pytest.fixture(params=WAYS, autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in WAYS[request.param].items():
        monkeypatch.setattr(name, value)
    return request.param


LABELS = torch.arange(N) % 6
Tuple = tuple[Tensor, ...]


def index(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def all_pairs() -> Tuple:
    return loss_and_miner_utils.get_all_pairs_indices(LABELS)


def duplicated() -> Tuple:
    i, p, j, n = all_pairs()
    return (
        torch.cat([i, i[:7]]),
        torch.cat([p, p[:7]]),
        torch.cat([j, j[3:60]]),
        torch.cat([n, n[3:60]]),
    )


def few_random_pairs() -> Tuple:
    generator = torch.Generator().manual_seed(1)
    i, p, j, n = all_pairs()
    positive = torch.randperm(len(i), generator=generator)[:15]
    negative = torch.randperm(len(j), generator=generator)[:40]
    return i[positive], p[positive], j[negative], n[negative]


def triplets() -> Tuple:
    return miners.TripletMarginMiner(margin=0.3)(make_embeddings(N), LABELS)


TUPLES = {
    "all pairs": all_pairs,
    "duplicated": duplicated,
    "few random pairs": few_random_pairs,
    "triplets": triplets,
    "mined": lambda: miners.MultiSimilarityMiner()(make_embeddings(N), LABELS),
    "empty": lambda: (index(), index(), index(), index()),
    "one pair of each kind": lambda: (index(0), index(6), index(0), index(1)),
    "one triplet": lambda: (index(0), index(6), index(1)),
    "two triplets": lambda: (index(0, 1), index(6, 7), index(1, 0)),
    "only positives": lambda: (*all_pairs()[:2], index(), index()),
    "only negatives": lambda: (index(), index(), *all_pairs()[2:]),
    "self pairs": lambda: (index(0, 1, 2), index(0, 1, 8), index(0, 1, 2), index(5, 5, 5)),
    "a positive without negatives": lambda: (index(0, 1), index(6, 7), index(0, 2), index(1, 5)),
}


def is_defined(name: str, kind: str, with_labels: bool) -> bool:
    """Whether both losses have a value: theirs may be NaN where an embedding is its own positive,
    and some need labels.
    """
    loss = LOSSES[name]
    has_equal = kind == "self pairs"
    return (
        loss.takes_tuples
        and (with_labels or name in TUPLE_LOSSES)
        and not (has_equal and not loss.agrees_with_pml_on_equal_embeddings)
    )


def labels_in_turn() -> list[tuple[str, str, bool]]:
    """Every loss with every kind of tuple; where it does with and without labels, in turn."""
    found = []
    for i, (name, kind) in enumerate(product(ARGUMENTS, TUPLES)):
        defined = [w for w in (True, False) if is_defined(name, kind, w)]
        found += [(name, kind, defined[i % len(defined)])] if defined else []
    return found


@pytest.mark.parametrize(("name", "kind", "with_labels"), labels_in_turn())
def test_tuples(name: str, kind: str, with_labels: bool, way: str) -> None:
    batch = Batch(make_embeddings(N), LABELS if with_labels else None, TUPLES[kind]())
    # each way has another set of arguments of the three
    choices = ARGUMENTS[name]
    arguments = choices[(list(WAYS).index(way) + list(TUPLES).index(kind)) % len(choices)]
    assert_parity(*make_losses(name, **arguments), batch)


@pytest.mark.parametrize("name", REFERENCE_LOSSES)
@pytest.mark.parametrize("kind", ["all", "duplicated", "few"])
def test_tuples_with_references(name: str, kind: str) -> None:
    m = 17
    ref_labels = torch.arange(m) % 6
    i, p, j, n = loss_and_miner_utils.get_all_pairs_indices(LABELS, ref_labels)
    indices = {
        "all": (i, p, j, n),
        "duplicated": tuple(torch.cat([x, x[:9]]) for x in (i, p, j, n)),
        "few": (i[::5], p[::5], j[::7], n[::7]),
    }[kind]
    sides = (None, None) if name in TUPLE_LOSSES else (LABELS, ref_labels)
    batch = Batch(make_embeddings(N), sides[0], indices, make_embeddings(m, seed=1), sides[1])
    assert_parity(*make_losses(name), batch)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_other_distances(name: str) -> None:
    require_tuples(LOSSES[name])
    require_other_distances(name)
    batch = Batch(make_embeddings(N), LABELS, few_random_pairs())
    if not takes_distance(name, SNRDistance()):
        choice._WARNED.clear()
        with pytest.warns(UserWarning, match="HalvedCosine"):
            assert_parity(*make_losses(name, distance=HalvedCosine()), batch)
        return
    assert_parity(
        *make_losses(name, distance=DotProductSimilarity(normalize_embeddings=False)), batch
    )
    with pytest.warns(UserWarning, match="SNRDistance"):
        # once for each name of a loss and distance in a process: the set is emptied first
        choice._WARNED.clear()
        ours, theirs = make_losses(name, distance=SNRDistance())
        if LOSSES[name].weights_name:
            choice.warn_once(name, SNRDistance())  # weights always take this route
        assert_parity(ours, theirs, batch)


@pytest.mark.parametrize("name", TUPLE_LOSSES)
def test_an_explicit_list_of_all_pairs_is_the_labels(name: str) -> None:
    distance = LpDistance() if takes_distance(name, LpDistance()) else None
    loss, _ = make_losses(name, distance=distance)
    embeddings = make_embeddings(N)
    torch.testing.assert_close(loss(embeddings, LABELS), loss(embeddings, None, all_pairs()))
