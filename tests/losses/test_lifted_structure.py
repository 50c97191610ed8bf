"""Lifted structure losses: known values, references, edge cases."""

from __future__ import annotations

import pytest
import torch

from fusedml import dense, distances, reducers
from fusedml.engine.pairs import PairProblem
from fusedml.losses import GeneralizedLiftedStructureLoss, LiftedStructureLoss
from tests.losses.made import gradient, make_batch
from tests.losses.points import LABELS, POINTS, on_circle

AS_GIVEN = distances.LpDistance(normalize_embeddings=False)


@pytest.mark.parametrize(
    ("distance", "value"),
    [
        (None, 3.146422),
        (AS_GIVEN, 3.416592),  # the authors' layer
        (distances.CosineSimilarity(), 0.223006),
    ],
)
def test_known_values(distance: distances.BaseDistance | None, value: float) -> None:
    loss = LiftedStructureLoss(distance=distance)
    assert loss(POINTS, LABELS).item() == pytest.approx(value, abs=1e-6)


def test_known_value_generalized() -> None:
    value = GeneralizedLiftedStructureLoss()(POINTS, LABELS).item()
    assert value == pytest.approx(2.213085, abs=1e-6)


def test_the_papers_generalized_loss_skips_anchors_without_positives() -> None:
    loss = GeneralizedLiftedStructureLoss(reducer=reducers.DoNothingReducer())
    rows = loss(POINTS, LABELS)["loss"]["losses"]
    assert rows[[0, 1, 2, 3, 5]].sum().item() == pytest.approx(11.466393, abs=1e-6)
    assert rows[[0, 1, 2, 3, 5]].mean().item() == pytest.approx(2.293279, abs=1e-6)


def test_known_value_with_references() -> None:
    """The positive's negatives are the other references; theirs is 1.531849."""
    value = LiftedStructureLoss()(POINTS, LABELS, ref_emb=POINTS[:4], ref_labels=LABELS[:4])
    assert value.item() == pytest.approx(1.912843, abs=1e-6)


def test_references_against_the_dense_formula() -> None:
    embeddings, labels = make_batch(15)
    references, ref_labels = make_batch(11, seed=1)
    normalize = torch.nn.functional.normalize
    problem = PairProblem(
        normalize(embeddings), normalize(references), labels, ref_labels, "euclidean", False
    )
    pairs = dense.losses(problem, LiftedStructureLoss().make_formula())
    expected = pairs.sum() / dense.pair_masks(problem)[0].sum()
    actual = LiftedStructureLoss()(embeddings, labels, None, references, ref_labels)
    torch.testing.assert_close(actual, expected)
    inputs = [embeddings, references]
    torch.testing.assert_close(
        torch.autograd.grad(actual, inputs), torch.autograd.grad(expected, inputs)
    )


@pytest.mark.filterwarnings("ignore:.*not a distance that fusedml")
def test_references_by_blocks() -> None:
    embeddings, labels = make_batch(15)
    references, ref_labels = make_batch(11, seed=1)

    class Euclidean(distances.LpDistance):
        pass

    results = []
    for distance in (Euclidean(), distances.LpDistance()):
        value = LiftedStructureLoss(distance=distance)(
            embeddings, labels, None, references, ref_labels
        )
        results.append((value, *torch.autograd.grad(value, [embeddings, references])))
    torch.testing.assert_close(*results)


def test_references_and_a_tuple() -> None:
    """Listed negatives of the anchor, and listed pairs in which the positive takes part."""
    x, r = on_circle(0, 50, 100), on_circle(10, 70)
    indices = tuple(torch.tensor(i) for i in ([0, 1], [0, 1], [0, 2, 1], [1, 0, 0]))
    d = torch.cdist(x, r)
    exp = torch.exp(1 - d)
    first = torch.log(exp[0, 1] + (exp[2, 0] + exp[1, 0])) + d[0, 0]
    second = torch.log(exp[1, 0] + exp[0, 1]) + d[1, 1]
    expected = (first.relu() ** 2 + second.relu() ** 2) / 4
    torch.testing.assert_close(LiftedStructureLoss()(x, None, indices, r), expected)


@pytest.mark.parametrize("labels", [torch.zeros(20), torch.arange(20)], ids=["one class", "no pos"])
def test_only_one_kind_of_pair_is_zero(labels: torch.Tensor) -> None:
    embeddings, _ = make_batch()
    value, grad = gradient(LiftedStructureLoss(), embeddings, labels)
    assert value == 0
    assert not grad.any()


def test_an_empty_set_counts_zero_in_the_generalized_loss() -> None:
    embeddings, _ = make_batch()
    d = distances.LpDistance()(embeddings).detach()
    diagonal = torch.eye(20, dtype=torch.bool)
    negative = torch.logsumexp((1 - d).masked_fill(diagonal, -torch.inf), 1).relu().mean()
    positive = torch.logsumexp(d.masked_fill(diagonal, -torch.inf), 1).relu().mean()
    loss = GeneralizedLiftedStructureLoss()
    torch.testing.assert_close(loss(embeddings, torch.arange(20)).detach(), negative)
    torch.testing.assert_close(loss(embeddings, torch.zeros(20)).detach(), positive)


@pytest.mark.parametrize("loss", [LiftedStructureLoss(), GeneralizedLiftedStructureLoss()])
def test_coinciding_points_have_a_finite_gradient(loss) -> None:
    points = on_circle(0, 0, 90, 90).requires_grad_()
    for indices in (None, tuple(torch.tensor(i) for i in ([0, 2], [1, 3], [0, 1], [2, 2]))):
        _, grad = gradient(loss, points, torch.arange(4) // 2, indices)
        assert torch.isfinite(grad).all()
