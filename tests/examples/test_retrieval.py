from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from torch.nn.functional import normalize

from examples.retrieval import evaluate
from fusedml.distances import CosineSimilarity


def test_perfect_embeddings():
    labels = torch.arange(5).repeat(4)
    embeddings = torch.eye(5)[labels]
    assert evaluate(embeddings, labels) == (1.0, 1.0)


def test_by_hand():
    # angles in degrees; the query at 0 finds 10 (wrong), 20 (right), 90 (right): R = 2
    angles = torch.tensor([0.0, 10.0, 20.0, 90.0]).deg2rad()
    embeddings = torch.stack([angles.cos(), angles.sin()], 1)
    labels = torch.tensor([0, 1, 0, 0])
    result = evaluate(embeddings, labels)
    # 0: [x, right] -> 1/4; 20: [x, right] -> 1/4; 90: [right, x] -> 1/2; 10 has nothing to find
    assert result.recall_at_1 == pytest.approx(1 / 3)
    assert result.map_at_r == pytest.approx((1 / 4 + 1 / 4 + 1 / 2) / 3)


@pytest.mark.parametrize("block", [7, 1024])
def test_agrees_with_pytorch_metric_learning(block):
    labels = torch.randint(6, (90,))
    embeddings = torch.randn(6, 8)[labels] + torch.randn(90, 8)
    calculator = AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision_at_r"),
        k="max_bin_count",
        knn_func=CustomKNN(_pml_cosine()),
    )
    expected = calculator.get_accuracy(normalize(embeddings), labels)
    result = evaluate(embeddings, labels, block)
    assert result.recall_at_1 == pytest.approx(expected["precision_at_1"], abs=1e-6)
    assert result.map_at_r == pytest.approx(expected["mean_average_precision_at_r"], abs=1e-6)


def _pml_cosine():
    from pytorch_metric_learning.distances import CosineSimilarity as Theirs  # noqa: PLC0415

    assert Theirs.__name__ == CosineSimilarity.__name__
    return Theirs()


def test_without_any_pair():
    with pytest.raises(ValueError, match="a class of at least two images"):
        evaluate(torch.eye(3), torch.arange(3))
