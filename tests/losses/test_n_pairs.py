"""N-pair: known values, which pairs are taken, no host sync."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.regularizers import LpRegularizer
from pytorch_metric_learning.utils import loss_and_miner_utils

from fusedml import distances, reducers
from fusedml.engine import inputs
from fusedml.engine.routes import class_pairs
from fusedml.engine.routes.class_pairs import first_listed_pairs, first_positive_pairs
from fusedml.losses import NPairsLoss
from tests.losses.made import gradient, make_batch
from tests.losses.points import LABELS, POINTS

AS_GIVEN = distances.DotProductSimilarity(normalize_embeddings=False)


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({}, 0.595211),
        ({"distance": AS_GIVEN}, 0.545883),  # the paper
        (
            {
                "distance": AS_GIVEN,
                "embedding_regularizer": LpRegularizer(power=2),
                "embedding_reg_weight": 0.005,
            },
            0.554167,
        ),
    ],
)
def test_known_values(arguments: dict, value: float) -> None:
    assert NPairsLoss(**arguments)(POINTS, LABELS).item() == pytest.approx(value, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-3, 3), max_size=14))
def test_chosen_pairs_are_theirs(labels: list[int]) -> None:
    labels = torch.tensor(labels, dtype=torch.int64)
    (anchors, positives), num_pairs = first_positive_pairs(labels)
    expected = loss_and_miner_utils.convert_to_pos_pairs_with_unique_labels(None, labels)
    assert num_pairs is None
    assert anchors.tolist() == expected[0].tolist()
    assert positives.tolist() == expected[1].tolist()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=14), st.sampled_from([0, 99])
)
def test_chosen_listed_pairs_are_theirs(pairs: list[tuple[int, int]], few: int) -> None:
    labels = torch.tensor([2, 0, 1, 2, 0, 1, 5, 5, -1])
    rows, columns = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    with mock.patch.object(class_pairs, "_FEW_LISTED", few):  # sorted at once, or in runs
        (anchors, positives), num_pairs = first_listed_pairs(labels, rows, columns)
    expected = loss_and_miner_utils.convert_to_pos_pairs_with_unique_labels(
        (rows, columns, rows, columns), labels
    )
    assert anchors[:num_pairs].tolist() == expected[0].tolist()
    assert positives[:num_pairs].tolist() == expected[1].tolist()


def test_no_pair_is_a_zero_that_backpropagates() -> None:
    embeddings, _ = make_batch()
    value, grad = gradient(NPairsLoss(), embeddings, torch.arange(20))
    assert value == 0
    assert not grad.any()


def test_samples_that_are_not_chosen_have_no_gradient() -> None:
    embeddings, labels = make_batch()
    _, grad = gradient(NPairsLoss(), embeddings, labels)
    assert grad[:12].any(1).all()
    assert not grad[12:].any()


def test_number_of_pairs_is_collected() -> None:
    loss = NPairsLoss(collect_stats=True)
    loss(POINTS, LABELS)
    assert loss.num_pairs == 2


def test_other_reducers_see_the_used_classes_only() -> None:
    value = NPairsLoss(reducer=reducers.DoNothingReducer())(POINTS, LABELS)
    assert value["loss"]["losses"].shape == (2,)
    assert value["loss"]["indices"].tolist() == [0, 2]


@pytest.mark.filterwarnings("ignore:.*not a distance that fusedml")
def test_any_other_distance() -> None:
    class Cosine(distances.CosineSimilarity):
        pass

    results = [
        gradient(NPairsLoss(distance=distance), *make_batch())
        for distance in (Cosine(), distances.CosineSimilarity())
    ]
    torch.testing.assert_close(*results)


def one_vs_one(x: torch.Tensor, labels: torch.Tensor, sign: int, distance) -> torch.Tensor:
    """The mean over the classes with a pair, one after the other."""
    pairs = [(labels == label).nonzero()[:2, 0] for label in labels.unique()]
    pairs = [pair for pair in pairs if len(pair) == 2]
    if not pairs:
        return x.sum() * 0
    a, p = torch.stack(pairs).T
    s = sign * distance(x[a], x[p])
    k = range(len(s))
    gaps = [torch.nn.functional.softplus(s[i, j] - s[i, i]) for i in k for j in k if i != j]
    return sum(gaps, x.sum() * 0) / len(s)


@pytest.mark.filterwarnings("ignore:.*not a distance that fusedml")
@pytest.mark.parametrize("backend", ["auto", "torch", "dense"])
@pytest.mark.parametrize(
    "distance",
    [None, AS_GIVEN, distances.LpDistance(), distances.LpDistance(p=1)],
    ids=["default", "as given", "distance", "blocks"],
)
@pytest.mark.parametrize("n", [0, 1, 2, 25, 60])
@pytest.mark.usefixtures("whole_or_tiles")
def test_one_against_one(n: int, distance, backend: str) -> None:
    embeddings, _ = make_batch(n)
    labels = torch.arange(n) % max(1, (2 * n) // 5)
    loss = NPairsLoss(one_vs_one=True, distance=distance, backend=backend)
    ours = gradient(loss, embeddings, labels)
    sign = 1 if loss.distance.is_inverted else -1
    exact = one_vs_one(embeddings, labels, sign, loss.distance)
    torch.testing.assert_close(ours[0], exact)
    torch.testing.assert_close(ours[1], torch.autograd.grad(exact, embeddings)[0])


def test_one_against_one_of_many_classes_and_without_their_number() -> None:
    embeddings, _ = make_batch(1700)
    labels = torch.arange(1700) % 850
    loss = NPairsLoss(one_vs_one=True)
    tiles, dense = (
        gradient(NPairsLoss(one_vs_one=True, backend=kind), embeddings, labels)
        for kind in ("auto", "dense")
    )
    torch.testing.assert_close(tiles, dense)
    # a compiled graph has slots for classes that are not there
    labels = torch.arange(1700) % 900
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        gradient(compiled, embeddings, labels), gradient(loss, embeddings, labels)
    )


def test_of_a_long_list_the_positives_are_checked_alone(monkeypatch) -> None:
    monkeypatch.setattr(inputs, "_FEW_INDICES", 3)
    x, labels = make_batch(20)
    i = torch.arange(6)
    value = NPairsLoss()(x, labels, (i, i + 6, i, i + 7))
    assert NPairsLoss()(x, labels, (i, i + 6, i, i - 1)) == value  # negatives are not read
    with pytest.raises(IndexError, match=r"indices_tuple\[1\] must be in \[0, 20\)"):
        NPairsLoss()(x, labels, (i, i - 1, i, i + 7))
