"""Losses with several vectors of each class: their groups, on both sides of what is held whole."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from torch.nn.functional import cross_entropy, normalize

from fusedml import distances, functional
from fusedml.engine.tiled import groups
from fusedml.errors import DistanceError
from fusedml.losses import LOSSES, SoftTripleLoss, SubCenterArcFaceLoss
from fusedml.losses.class_centers import ClassCentersLoss
from tests.losses.made import DIMENSION, NUM_CLASSES, gradient, make_batch, make_loss

NAMES = [name for name, loss in LOSSES.items() if issubclass(loss, ClassCentersLoss)]
EVERY = pytest.mark.parametrize("name", NAMES)
TILES = pytest.mark.usefixtures("whole_or_tiles")


def make(name: str, centers: int, **arguments) -> ClassCentersLoss:
    torch.manual_seed(0)
    arguments[LOSSES[name].vectors_per_class_name] = centers
    return make_loss(name, **arguments).double()


@TILES
@EVERY
@pytest.mark.parametrize("centers", [1, 2, 3, 5, 10, 17])
@pytest.mark.parametrize("size", [(128, 1024), (7, 11), (1, 1)])
def test_any_number_of_centers_and_any_tiles(name, centers, size, monkeypatch) -> None:
    monkeypatch.setattr(groups, "TILE_ROWS", size[0])
    monkeypatch.setattr(groups, "TILE_COLUMNS", size[1])
    ours, (x, y) = make(name, centers), make_batch()
    sizes = {"num_classes": NUM_CLASSES, "embedding_size": DIMENSION}
    theirs = getattr(pml_losses, name)(**sizes, **{ours.vectors_per_class_name: centers})
    theirs.load_state_dict(ours.state_dict())
    actual, expected = ours(x, y), theirs.double()(x, y)
    torch.testing.assert_close(actual, expected)
    for a, e in zip(
        torch.autograd.grad(actual, [x, *ours.parameters()]),
        torch.autograd.grad(expected, [x, *theirs.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(a, e)


@TILES
@EVERY
def test_hyperparameters_receive_gradients(name: str) -> None:
    loss, (x, y) = make(name, 3), make_batch()
    values = [torch.tensor(float(getattr(loss, key))).double() for key in loss.hyperparameters]
    values = [value.requires_grad_() for value in values]

    def value(*numbers):
        arguments = dict(zip(loss.hyperparameters, numbers, strict=True))
        arguments[loss.vectors_per_class_name] = 3
        weights = getattr(loss, loss.weights_name).detach()
        return functional.FUNCTIONS[name](x.detach(), y, weights, **arguments)

    torch.autograd.gradcheck(value, values)


@TILES
def test_of_equal_centers_the_first_one_moves() -> None:
    loss, (x, y) = make("SubCenterArcFaceLoss", 3), make_batch()
    # products with these are exact, so that equal vectors have equal cosines
    loss.W.data.copy_(torch.eye(DIMENSION)[:, :NUM_CLASSES].repeat_interleave(3, dim=1))
    (grad,) = torch.autograd.grad(loss(x, y), loss.W)
    grad = grad.T.view(NUM_CLASSES, 3, DIMENSION)
    assert grad[:, 0].any(1).all()
    assert not grad[:, 1:].any()


@TILES
@EVERY
def test_a_single_class_has_no_loss(name: str) -> None:
    x, _ = make_batch()
    loss = LOSSES[name].of_sizes(1, DIMENSION).double()
    value, grad = gradient(loss, x, torch.zeros(20, dtype=torch.int64))
    assert value == 0
    assert not grad.any()


def test_nothing_of_rows_by_classes_is_kept() -> None:
    loss = SoftTripleLoss(500, DIMENSION)
    x = torch.randn(2000, DIMENSION, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        loss(x, torch.arange(2000) % 500)
    assert max(kept) <= 5000 * DIMENSION < 2000 * 500


def test_get_outliers() -> None:
    x, y = make_batch(200)
    x, y = x.detach(), y[torch.randperm(200)] % 5  # class 5 has no sample
    ours = make("SubCenterArcFaceLoss", 4)
    theirs = pml_losses.SubCenterArcFaceLoss(
        num_classes=NUM_CLASSES, embedding_size=DIMENSION, sub_centers=4
    )
    theirs.load_state_dict(ours.state_dict())
    for threshold in (50, 75):
        outliers, centers = ours.get_outliers(x, y, threshold)
        expected, expected_centers = theirs.double().get_outliers(x, y, threshold)
        assert 0 < len(outliers) < 200
        assert torch.equal(outliers, expected)
        torch.testing.assert_close(centers[:, :5], expected_centers[:, :5])
        assert not centers[:, 5].any()
        assert torch.equal(ours.get_outliers(x, y, threshold, False), outliers)


@TILES
@pytest.mark.filterwarnings("ignore:.*not a distance that fusedml")
def test_another_similarity_by_blocks() -> None:
    class Half(distances.DotProductSimilarity):
        def compute_mat(self, query_emb, ref_emb):
            return super().compute_mat(query_emb, ref_emb) / 2

    loss, (x, y) = make("SoftTripleLoss", 3, distance=Half()), make_batch()
    s = (normalize(x) @ normalize(loss.fc, dim=0) / 2).view(20, NUM_CLASSES, 3)
    s = (torch.softmax(s / 0.1, 2) * s).sum(2)
    margin = torch.nn.functional.one_hot(y, NUM_CLASSES) * 0.01
    expected = cross_entropy(20 * (s - margin), y)
    torch.testing.assert_close(loss(x, y), expected)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="sub_centers must be at least 1, got 0"):
        SubCenterArcFaceLoss(3, 4, sub_centers=0)
    with pytest.raises(DistanceError, match="must be a similarity for SoftTripleLoss, got Lp"):
        SoftTripleLoss(3, 4, distance=distances.LpDistance())
    x, y = make_batch()
    with pytest.raises(ValueError, match="fc must have centers_per_class = 4 vectors of each"):
        functional.soft_triple_loss(x, y, torch.zeros(DIMENSION, 10), centers_per_class=4)
