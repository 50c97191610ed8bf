"""FastAPLoss: soft histograms of squared distances, beside pytorch-metric-learning's."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning import distances as pml_distances
from pytorch_metric_learning import losses as pml_losses
from torch import Tensor

from fusedml import distances
from fusedml.engine import whole
from fusedml.engine.tiled import histograms, plan
from fusedml.errors import DistanceError
from fusedml.losses import FastAPLoss
from tests.losses.made import gradient, make_batch
from tests.problems import assert_close


class Euclidean(distances.LpDistance):
    """A type that is not recognised."""


@pytest.fixture(params=["whole", "tiles", "found cells"])
def tiles(request, monkeypatch):
    """Small problems held whole, and in many tiles, by either way to count."""
    if request.param == "found cells":
        monkeypatch.setattr(histograms, "MOST_CELLS", 0)
    if request.param != "whole":
        monkeypatch.setattr(whole, "MOST_PAIRS", -1)
        monkeypatch.setattr(plan, "TILE_ROWS", 8)
        monkeypatch.setattr(plan, "TILE_ELEMENTS", 128)
        monkeypatch.setattr(plan, "LEAST_ELEMENTS", 64)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("num_classes", [1, 3, 10, 40])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("num_bins", [3, 10])
@pytest.mark.filterwarnings("ignore")
def test_bins_and_powers(num_classes, power, num_bins) -> None:
    embeddings, labels = make_batch(40)[0], torch.arange(40) % num_classes
    labels[0] = -99  # an anchor without positives
    theirs = pml_losses.FastAPLoss(num_bins, distance=pml_distances.LpDistance(power=power))
    expected = gradient(theirs, embeddings, labels)
    for kind, backend in (
        (distances.LpDistance, "auto"),
        (Euclidean, "auto"),
        (Euclidean, "dense"),
    ):
        loss = FastAPLoss(num_bins, distance=kind(power=power), backend=backend)
        torch.testing.assert_close(gradient(loss, embeddings, labels), expected)


@pytest.mark.usefixtures("whole_or_tiles")
@pytest.mark.parametrize("size", [4, 50])
def test_float32_is_as_accurate_as_dense(size) -> None:
    def results(backend: str, dtype: torch.dtype) -> list[Tensor]:
        embeddings = make_batch(200)[0].detach().to(dtype).requires_grad_()
        loss = FastAPLoss(backend=backend)
        return [x.double() for x in gradient(loss, embeddings, torch.arange(200) // size)]

    exact = results("dense", torch.float64)
    plain, ours = results("dense", torch.float32), results("auto", torch.float32)
    for output, (a, e, p) in enumerate(zip(ours, exact, plain, strict=True)):
        assert_close(a, e, p, 1e-5, f"output {output}")


def test_errors() -> None:
    with pytest.raises(ValueError, match="num_bins must be at least 1, got 0"):
        FastAPLoss(0)
    with pytest.raises(DistanceError, match="distance must have p=2 and normalize_embeddings=True"):
        FastAPLoss(distance=distances.LpDistance(normalize_embeddings=False))
