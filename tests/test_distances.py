"""Distances beside pytorch-metric-learning's, and which of them are fused."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning import distances as pml_distances

from fusedml import distances
from fusedml.distances import Measure, fused_measure, sign_of

ARGUMENTS = (
    ("CosineSimilarity", {}, Measure("dot", True, 1.0)),
    ("DotProductSimilarity", {}, Measure("dot", True, 1.0)),
    ("DotProductSimilarity", {"normalize_embeddings": False}, Measure("dot", False, 1.0)),
    ("DotProductSimilarity", {"power": 2}, None),
    ("CosineSimilarity", {"p": 1}, None),
    ("LpDistance", {}, Measure("euclidean", True, -1.0)),
    ("LpDistance", {"normalize_embeddings": False}, Measure("euclidean", False, -1.0)),
    ("LpDistance", {"power": 2}, Measure("squared_euclidean", True, -1.0)),
    ("LpDistance", {"p": 1}, None),
    ("LpDistance", {"power": 3}, None),
)


@pytest.mark.parametrize(("name", "arguments", "measure"), ARGUMENTS)
def test_matrix_and_measure(name: str, arguments: dict, measure: Measure | None) -> None:
    ours = getattr(distances, name)(**arguments)
    theirs = getattr(pml_distances, name)(**arguments)
    x, y = torch.randn(7, 4).double(), torch.randn(5, 4).double()
    torch.testing.assert_close(ours(x, y), theirs(x, y))
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(ours.pairwise_distance(x, x + 1), theirs.pairwise_distance(x, x + 1))
    assert ours.margin(3, 1) == theirs.margin(3, 1)
    assert torch.equal(ours.smallest_dist(x, dim=1)[0], theirs.smallest_dist(x, dim=1)[0])
    assert torch.equal(ours.largest_dist(x, dim=1)[0], theirs.largest_dist(x, dim=1)[0])
    torch.testing.assert_close(ours.normalize(x), theirs.normalize(x))
    torch.testing.assert_close(ours.get_norm(x), theirs.get_norm(x))
    for distance in (ours, theirs):
        assert fused_measure(distance) == measure
        assert sign_of(distance) == (1.0 if distance.is_inverted else -1.0)


@pytest.mark.parametrize("package", [distances, pml_distances])
def test_subclasses_are_not_fused(package) -> None:
    class Mine(package.CosineSimilarity):
        pass

    assert fused_measure(Mine()) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    x = torch.randn(6, 4)
    for distance in (distances.LpDistance(), distances.CosineSimilarity()):
        mat = distance(x.to(dtype))
        assert mat.dtype == dtype
        torch.testing.assert_close(mat.float(), distance(x), atol=0.1, rtol=0.05)


def test_collected_norms() -> None:
    x = torch.randn(6, 4)
    ours = distances.LpDistance(collect_stats=True)
    theirs = pml_distances.LpDistance(collect_stats=True)
    ours(x)
    theirs(x)
    for name in ("initial_avg_query_norm", "initial_avg_ref_norm", "final_avg_query_norm"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name))


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"embeddings must be a 2D tensor .* got shape"):
        distances.CosineSimilarity()(torch.randn(3))
    with pytest.raises(ValueError, match="is_inverted must be False for LpDistance, got True"):
        distances.LpDistance(is_inverted=True)
    with pytest.raises(TypeError, match="normalize_embeddings"):
        distances.CosineSimilarity(normalize_embeddings=False)
    with pytest.raises(NotImplementedError):
        distances.BaseDistance()(torch.randn(3, 3))
