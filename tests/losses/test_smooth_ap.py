"""SmoothAPLoss: by the formula, and pytorch-metric-learning's where that is right."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from torch import Tensor
from torch.nn.functional import normalize

from fusedml import distances, functional, reducers
from fusedml.losses import SmoothAPLoss
from tests.losses.made import gradient, make_batch
from tests.losses.test_pnp import Cosine, tiles
from tests.problems import assert_close

__all__ = ["tiles"]


def by_hand(embeddings: Tensor, labels: Tensor, temperature: float) -> Tensor:
    x = normalize(embeddings)
    s, losses = x @ x.T, []
    for i in range(len(x)):
        positive, negative = (labels == labels[i]).nonzero()[:, 0], labels != labels[i]
        precisions = []
        for p in positive.tolist():
            steps = torch.sigmoid((s[i] - s[i, p]) / temperature)
            before = 1 + steps[positive[positive != p]].sum()
            precisions.append(before / (before + steps[negative].sum()))
        losses.append(1 - torch.stack(precisions).mean())
    return torch.stack(losses).mean()


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("num_classes", [1, 3, 9, 40])
@pytest.mark.parametrize("temperature", [0.01, 0.3])
@pytest.mark.filterwarnings("ignore:.*not a distance that fusedml")
def test_the_formula(num_classes, temperature) -> None:
    embeddings, labels = make_batch(40)[0], torch.arange(40) % num_classes
    labels[0] = 99  # an anchor without positives
    exact = by_hand(embeddings, labels, temperature)
    expected = exact.detach(), torch.autograd.grad(exact, embeddings)[0]
    for options in ({}, {"backend": "dense"}, {"distance": Cosine()}):
        actual = gradient(SmoothAPLoss(temperature, **options), embeddings, labels)
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_theirs_where_there_are_as_many_classes_as_samples_in_each() -> None:
    embeddings, labels = make_batch(36)[0], torch.arange(36) // 6
    expected = gradient(pml_losses.SmoothAPLoss(), embeddings, labels)  # float32 inside
    actual = gradient(SmoothAPLoss(), embeddings, labels)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5, check_dtype=False)


def test_a_tuple_weighs_anchors() -> None:
    embeddings, labels = make_batch(12)
    listed = tuple(torch.tensor(x) for x in ([0, 0, 1], [6, 6, 7], [0, 0, 1], [1, 2, 3]))
    single = SmoothAPLoss()(embeddings, labels, listed)
    weights = torch.bincount(torch.cat(listed), minlength=12) / 4
    losses = functional.smooth_ap_loss(embeddings, labels, reduction="none")
    torch.testing.assert_close(single, (losses * weights).mean())


@pytest.mark.usefixtures("whole_or_tiles")
def test_the_temperature_learns() -> None:
    embeddings, labels = make_batch(40)
    for num_classes in (3, 10):
        number = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
        results = [
            torch.autograd.grad(
                SmoothAPLoss(number, backend=backend)(embeddings, labels % num_classes), number
            )
            for backend in ("auto", "dense")
        ]
        torch.testing.assert_close(*results)


@pytest.mark.usefixtures("whole_or_tiles")
@pytest.mark.parametrize("size", [4, 20])
def test_float32_is_as_accurate_as_dense(size) -> None:
    def results(backend: str, dtype: torch.dtype) -> list[Tensor]:
        embeddings = make_batch(200)[0].detach().to(dtype).requires_grad_()
        loss = SmoothAPLoss(backend=backend, distance=distances.CosineSimilarity())
        return [x.double() for x in gradient(loss, embeddings, torch.arange(200) // size)]

    exact = results("dense", torch.float64)
    plain, ours = results("dense", torch.float32), results("auto", torch.float32)
    for output, (a, e, p) in enumerate(zip(ours, exact, plain, strict=True)):
        assert_close(a, e, p, 1e-5, f"output {output}")


@pytest.mark.parametrize("num_classes", [5, 6])
@pytest.mark.parametrize(
    "reducer",
    [
        reducers.MeanReducer(),
        reducers.AvgNonZeroReducer(),
        reducers.ThresholdReducer(low=0.3, high=0.6),
        reducers.ThresholdReducer(low=9),
        reducers.ThresholdReducer(low=9, collect_stats=True),
    ],
)
def test_means_without_single_losses(reducer, num_classes) -> None:
    x, labels = make_batch(30)[0], torch.arange(30) % num_classes
    labels[0] = num_classes - 1  # classes of unequal sizes
    found = []
    for backend in ("auto", "dense"):
        temperature = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        value = SmoothAPLoss(temperature, reducer=reducer, backend=backend)(x, labels)
        found.append((value, *torch.autograd.grad(value, (x, temperature))))
    torch.testing.assert_close(*found)
