"""PNPLoss: all variants, beside pytorch-metric-learning's; classes that are held and in strips."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses

from fusedml import distances
from fusedml.engine import whole
from fusedml.engine.tiled import plan, thresholds
from fusedml.losses import PNPLoss
from tests.losses.made import gradient, make_batch

VARIANTS = ("O", "Ds", "Dq", "Iu", "Ib")


class Cosine(distances.CosineSimilarity):
    """A type that is not recognised."""


@pytest.fixture(params=["whole", "tiles"])
def tiles(request, monkeypatch):
    """Small problems held whole, and in many tiles, with several strips of rows."""
    if request.param == "tiles":
        monkeypatch.setattr(whole, "MOST_PAIRS", -1)
        for module in (plan, thresholds):
            monkeypatch.setattr(module, "TILE_ROWS", 8)
            monkeypatch.setattr(module, "TILE_ELEMENTS", 128)
        monkeypatch.setattr(plan, "LEAST_ELEMENTS", 64)
        monkeypatch.setattr(thresholds, "STRIP_ELEMENTS", 100)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("num_classes", [1, 3, 10, 40])
@pytest.mark.parametrize("anneal", [0.01, 0.3])
@pytest.mark.filterwarnings("ignore")
def test_variants(variant, num_classes, anneal) -> None:
    embeddings, labels = make_batch(40)[0], torch.arange(40) % num_classes
    labels[0] = 99  # an anchor without positives
    arguments = {"variant": variant, "anneal": anneal, "alpha": 1.3, "b": 1.7}
    expected = gradient(pml_losses.PNPLoss(**arguments), embeddings, labels)
    for options in ({}, {"backend": "dense"}, {"distance": Cosine()}):
        actual = gradient(PNPLoss(**arguments, **options), embeddings, labels)
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("whole_or_tiles")
@pytest.mark.parametrize("variant, name", [("Dq", "alpha"), ("Ib", "b"), ("Iu", "anneal")])
@pytest.mark.parametrize("num_classes", [3, 10])
def test_hyperparameters_learn(variant, name, num_classes) -> None:
    embeddings, labels = make_batch(40)[0], torch.arange(40) % num_classes
    number = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    results = [
        torch.autograd.grad(
            PNPLoss(variant=variant, backend=backend, **{name: number})(embeddings, labels), number
        )
        for backend in ("auto", "dense")
    ]
    torch.testing.assert_close(*results)
    assert results[0][0] != 0


def test_another_variant() -> None:
    with pytest.raises(ValueError, match=r"variant must be one of 'O', .* got 'X'"):
        PNPLoss(variant="X")
