"""Intra-pair variance: what is its own, beside pytorch-metric-learning's."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning import distances as pml_distances
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import reducers as pml_reducers

from fusedml import distances, reducers
from fusedml.losses import IntraPairVarianceLoss

pytestmark = pytest.mark.usefixtures("whole_or_tiles")

REDUCERS = ["MeanReducer", "SumReducer", "AvgNonZeroReducer", "PerAnchorReducer"]
DISTANCES = {
    "CosineSimilarity": {},
    "LpDistance": {"normalize_embeddings": False},
    "DotProductSimilarity": {"normalize_embeddings": False},
}


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("reducer", REDUCERS)
@pytest.mark.parametrize("n", [2, 40, 120])
def test_theirs_by_labels_and_by_tuples(n: int, reducer: str, distance: str) -> None:
    embeddings = torch.randn(n, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(n) % max(1, n // 4)
    rows, columns = torch.where((torch.rand(n, n) < 0.4) & ~torch.eye(n, dtype=torch.bool))
    same = labels[rows] == labels[columns]
    listed = rows[same], columns[same], rows[~same], columns[~same]
    if reducer != "PerAnchorReducer":  # theirs counts a repeated pair's gradient twice
        listed = tuple(torch.cat([x, x[:3]]) for x in listed)
    for indices in (None, listed):
        results = []
        for package, of_reducers, of_distances in (
            (IntraPairVarianceLoss, reducers, distances),
            (pml_losses.IntraPairVarianceLoss, pml_reducers, pml_distances),
        ):
            loss = package(
                0.2,
                0.1,
                reducer=getattr(of_reducers, reducer)(),
                distance=getattr(of_distances, distance)(**DISTANCES[distance]),
            )
            value = loss(embeddings, labels, indices)
            results.append((value, torch.autograd.grad(value, embeddings)[0]))
        torch.testing.assert_close(*results, rtol=1e-8, atol=1e-10)


def test_many_rows_and_shares_that_are_learnt() -> None:
    embeddings = torch.randn(820, 4, dtype=torch.float64)
    embeddings.requires_grad_()
    labels = torch.arange(820) % 200
    shares = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.2, 0.1)]
    grads = []
    for backend in ("auto", "dense"):
        value = IntraPairVarianceLoss(*shares, backend=backend)(embeddings, labels)
        grads.append((value, *torch.autograd.grad(value, [embeddings, *shares])))
    torch.testing.assert_close(*grads)
    assert all(grad.any() for grad in grads[0])


def test_the_means_have_gradients() -> None:
    """A loss of all pairs at their mean: none of it is left if they are taken for constants."""
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    labels = torch.zeros(2)
    distance = distances.DotProductSimilarity(normalize_embeddings=False)
    value = IntraPairVarianceLoss(pos_eps=-1.0, distance=distance)(x * 2 + 1, labels)
    # s = 6 of both: [2 s - s]+^2, whose slope is 2 s where that of a constant is -2 s
    torch.testing.assert_close(value, torch.tensor(36.0, dtype=torch.float64))
    assert (torch.autograd.grad(value, x)[0] > 0).all()
