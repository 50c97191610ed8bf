"""BPRLoss: softplus of the difference of two similarities, over all triplets."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning.utils import loss_and_miner_utils

from fusedml import distances, reducers
from fusedml.losses import BPRLoss
from tests.losses.made import gradient, make_batch


@pytest.mark.usefixtures("whole_or_tiles")
@pytest.mark.parametrize("size", [3, 12, 30])  # held, in strips, one class
@pytest.mark.parametrize("reducer", [None, reducers.SumReducer(), reducers.ThresholdReducer(0.6)])
@pytest.mark.parametrize("distance", [None, distances.LpDistance(), distances.LpDistance(p=1)])
@pytest.mark.filterwarnings("ignore:.*not a distance that fusedml")
def test_the_formula(size, reducer, distance) -> None:
    embeddings, _ = make_batch(30)
    labels = torch.arange(30) // size
    loss = BPRLoss(reducer=reducer, distance=distance)
    y = loss.distance(embeddings) * (1 if loss.distance.is_inverted else -1)
    a, p, n = loss_and_miner_utils.get_all_triplets_indices(labels)
    single = torch.log1p(torch.exp(y[a, n] - y[a, p]))
    if isinstance(reducer, reducers.ThresholdReducer):
        single = single[single > 0.6]
    expected = single.sum() / (1 if isinstance(reducer, reducers.SumReducer) else max(1, len(a)))
    if isinstance(reducer, reducers.ThresholdReducer):
        expected = single.sum() / max(1, len(single))
    exact = expected.detach(), torch.autograd.grad(expected, embeddings)[0]
    torch.testing.assert_close(gradient(loss, embeddings, labels), exact)
    torch.testing.assert_close(gradient(loss, embeddings, None, (a, p, n)), exact)
