"""Margin loss: what is its own, beside pytorch-metric-learning's."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning import distances as pml_distances
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import reducers as pml_reducers
from torch import Tensor

from fusedml import losses, reducers
from fusedml.errors import LabelError
from fusedml.losses import margin

REDUCERS = {
    "divisor": lambda kinds: kinds.DivisorReducer(),
    "non-zero": lambda kinds: kinds.AvgNonZeroReducer(),
    "mean": lambda kinds: kinds.MeanReducer(),
    "sum": lambda kinds: kinds.SumReducer(),
    "between": lambda kinds: kinds.ThresholdReducer(low=1, high=4),
    "one each": lambda kinds: kinds.MultipleReducers(
        {"margin_loss": kinds.MeanReducer(), "beta_reg_loss": kinds.DivisorReducer()}
    ),
}
BETAS = {
    "a number": {},
    "learnt": {"learn_beta": True, "nu": 0.3},
    "of classes": {"num_classes": 40},
    "learnt of classes": {"learn_beta": True, "nu": 0.3, "num_classes": 40},
}


def make_batch(n: int) -> tuple[Tensor, Tensor]:
    """Whole numbers: losses at the margin, and equal ones, everywhere."""
    return torch.randint(-2, 3, (n, 4)).double(), torch.arange(n) % (n // 4)


def make_tuple(labels: Tensor, kind: str) -> tuple[Tensor, ...] | None:
    n = len(labels)
    rows, columns = torch.where((torch.rand(n, n) < 0.3) & ~torch.eye(n, dtype=torch.bool))
    same = labels[rows] == labels[columns]
    pairs = rows[same], columns[same], rows[~same], columns[~same]
    if kind == "triplets":
        size = min(len(pairs[0]), len(pairs[2]))
        return *(x[:size] for x in pairs[:2]), torch.randint(n, (size,))
    return {"labels": None, "pairs": pairs, "nothing": tuple(x[:0] for x in pairs)}[kind]


def make_losses(beta: str, reducer: str, **arguments):
    distance = pml_distances.DotProductSimilarity(normalize_embeddings=False)
    arguments = {"margin": 2, "beta": 1, **BETAS[beta], **arguments}
    made = (
        kinds.MarginLoss(reducer=REDUCERS[reducer](of), distance=distance, **arguments)
        for kinds, of in ((losses, reducers), (pml_losses, pml_reducers))
    )
    return [loss.double() for loss in made]


def value_and_gradients(loss, embeddings: Tensor, *arguments) -> list[Tensor]:
    x = embeddings.clone().requires_grad_()
    value, leaves = loss(x, *arguments), [x, *loss.parameters()]
    grads = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    return [value.detach(), *grads]


pytestmark = pytest.mark.usefixtures("whole_or_tiles")


@pytest.mark.parametrize("reducer", REDUCERS)
@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("pairs", ["labels", "pairs", "triplets", "nothing"])
def test_whole_numbers(reducer, beta, pairs) -> None:
    embeddings, labels = make_batch(36)
    indices = make_tuple(labels, pairs)
    ours, theirs = make_losses(beta, reducer)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }
    actual = value_and_gradients(ours, embeddings, labels, indices)
    expected = value_and_gradients(theirs, embeddings, labels, indices)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("beta", BETAS)
def test_references(beta) -> None:
    (embeddings, labels), (references, _) = make_batch(24), make_batch(32)
    ref_labels = torch.arange(32) % 9
    ours, theirs = make_losses(beta, "divisor")
    others = labels, None, references, ref_labels
    actual, expected = (value_and_gradients(f, embeddings, *others) for f in (ours, theirs))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("beta", BETAS)
def test_large_batch_against_the_dense_formula(beta) -> None:
    embeddings, labels = make_batch(900)
    results = []
    for backend in ("auto", "dense"):
        loss = losses.MarginLoss(backend=backend, **{**BETAS[beta], **_classes(beta, 300)}).double()
        results.append(value_and_gradients(loss, embeddings + 0.1, labels))
    for a, e in zip(*results, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-9)


def _classes(beta: str, number: int) -> dict[str, int]:
    return {"num_classes": number} if "classes" in beta else {}


def test_drawn_triplets() -> None:
    embeddings, labels = make_batch(36)
    loss = losses.MarginLoss(triplets_per_anchor=5)
    torch.manual_seed(3)
    value = loss(embeddings, labels)
    torch.manual_seed(3)
    assert torch.equal(loss(embeddings, labels), value)
    many = losses.MarginLoss(triplets_per_anchor=400)(embeddings, labels)
    torch.testing.assert_close(many, losses.MarginLoss()(embeddings, labels), rtol=0.05, atol=0.05)


def test_no_triplets_are_listed_by_common_reducers(monkeypatch) -> None:
    def no_list(*_: object) -> None:
        raise AssertionError("listed")

    monkeypatch.setattr(margin, "joined", no_list)
    embeddings, labels = make_batch(36)
    for name in ("divisor", "mean", "sum", "non-zero", "one each"):
        for beta in BETAS.values():
            losses.MarginLoss(reducer=REDUCERS[name](reducers), **beta)(embeddings, labels)
    with pytest.raises(AssertionError, match="listed"):
        losses.MarginLoss(reducer=REDUCERS["between"](reducers))(embeddings, labels)


def test_errors() -> None:
    embeddings, labels = make_batch(36)
    with pytest.raises(ValueError, match=r"triplets_per_anchor must be .* or 'all', got 'some'"):
        losses.MarginLoss(triplets_per_anchor="some")
    loss = losses.MarginLoss(num_classes=4)
    with pytest.raises(LabelError, match=r"labels must be in \[0, num_classes\) = \[0, 4\)"):
        loss(embeddings, labels)
    with pytest.raises(ValueError, match="labels are required"):
        loss(embeddings, None, (labels, labels, labels))
    with pytest.raises(ValueError, match="beta must be a number or a floating-point tensor"):
        losses.MarginLoss(beta=torch.ones(3, 2))
