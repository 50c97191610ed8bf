"""Row losses against constant references: the gradient of each row is found in the forward."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import fusedml
from fusedml import distances
from fusedml.engine import eager_rows, few_positives, kept, whole
from fusedml.losses import LOSSES
from fusedml.losses.formula_loss import RowwiseLoss
from fusedml.reducers import AvgNonZeroReducer, DoNothingReducer
from tests.losses.made import DIMENSION, make_batch, make_loss

NAMES = [
    name
    for name, loss in LOSSES.items()
    if issubclass(loss, RowwiseLoss) and loss.takes_references and loss.form is not None
]
ROWS, REFERENCES = 37, 150


@pytest.fixture(autouse=True)
def no_other_way(monkeypatch):
    """Matrices of any size are too large to be kept; strips of five rows, the last one ragged."""
    monkeypatch.setattr(kept, "MOST_BYTES", 0)
    monkeypatch.setattr(whole, "MOST_PAIRS", -1)
    monkeypatch.setattr(few_positives, "MOST_PER_ROW", -1)
    monkeypatch.setattr(eager_rows, "LEAST_ROWS", 1)
    monkeypatch.setattr(eager_rows, "STRIP_ELEMENTS", 5 * REFERENCES + 1)


@pytest.fixture
def seen(monkeypatch):
    """The problems that were computed so."""
    problems, original = [], eager_rows.EagerRowLosses.evaluate

    def evaluate(self):
        problems.append(self.problem)
        return original(self)

    monkeypatch.setattr(eager_rows.EagerRowLosses, "evaluate", evaluate)
    return problems


def references(dtype=torch.float64):
    x, labels = make_batch(REFERENCES, dtype, seed=1)
    return x.detach(), labels[
        torch.randperm(REFERENCES, generator=torch.Generator().manual_seed(0))
    ]


def in_a_memory(loss, x, labels):
    """Own rows first, then others of sorted labels; the pairs i == i left out."""
    memory = fusedml.CrossBatchMemory(loss, DIMENSION, REFERENCES)
    memory.embedding_memory, memory.label_memory = (y.clone() for y in references(x.dtype))
    memory.has_been_filled = True
    return memory(x, labels)


def against_references(loss, x, labels):
    return loss(x, labels, None, *references(x.dtype))


def value_and_gradient(call, loss, dtype=torch.float64):
    x, labels = make_batch(ROWS, dtype)
    value = call(loss, x, labels)
    return value, *torch.autograd.grad(value.sum(), x)


CALLS = pytest.mark.parametrize("call", [in_a_memory, against_references])


@CALLS
@pytest.mark.parametrize("name", NAMES)
def test_all_losses(seen, name, call):
    expected = value_and_gradient(call, make_loss(name, backend="dense"))
    torch.testing.assert_close(value_and_gradient(call, make_loss(name)), expected)
    assert len(seen) == 1


OPTIONS = {
    "mining": {"mining_epsilon": 0.1},
    "large logits": {"alpha": 200.0, "beta": 5000.0},
    "large logits of positives": {"alpha": 2000.0},
    "euclidean": {"distance": distances.LpDistance()},
    "squared": {"distance": distances.LpDistance(power=2), "alpha": 0.1, "beta": 0.2},
    "dot": {"distance": distances.DotProductSimilarity(normalize_embeddings=False)},
    "weights of the rows": {"reducer": AvgNonZeroReducer()},
}


@CALLS
@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_multi_similarity(seen, options, call):
    make = partial(make_loss, "MultiSimilarityLoss", **options)
    expected = value_and_gradient(call, make(backend="dense"))
    torch.testing.assert_close(value_and_gradient(call, make()), expected)
    assert len(seen) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_errors_are_those_of_dense(seen, dtype):
    exact = value_and_gradient(in_a_memory, make_loss("SupConLoss", backend="dense"))
    errors = []
    for backend in ("auto", "dense"):
        found = value_and_gradient(in_a_memory, make_loss("SupConLoss", backend=backend), dtype)
        errors.append([(a - b).abs().max().item() for a, b in zip(found, exact, strict=True)])
    assert len(seen) == 1
    # of the same rounded inputs both are off by their rounding
    assert all(ours <= 2 * dense + 1e-6 for ours, dense in zip(*errors, strict=True))


def test_every_row_by_itself(seen):
    """As the factors of rows that differ, and of some that are 0."""
    factors = torch.linspace(-1, 1, ROWS, dtype=torch.float64).clamp(min=0)

    def weighted(loss, x, labels):
        single = against_references(loss, x, labels)["loss"]["losses"]
        return single * factors

    make = partial(make_loss, "SupConLoss", reducer=DoNothingReducer())
    expected = value_and_gradient(weighted, make(backend="dense"))
    torch.testing.assert_close(value_and_gradient(weighted, make()), expected)
    assert len(seen) == 1


def test_others_are_computed_as_ever(seen):
    x, labels = make_batch(ROWS, torch.float64)
    others, other_labels = references()
    loss = make_loss("MultiSimilarityLoss")
    loss(x, labels, None, others.requires_grad_(), other_labels).backward()
    loss(x, labels).backward()
    with torch.no_grad():
        loss(x, labels, None, others, other_labels)
    loss.alpha = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    loss(x, labels, None, others.detach(), other_labels).backward()
    assert not seen
    assert loss.alpha.grad is not None


def test_what_is_not_finite(seen):
    x, labels = make_batch(ROWS, torch.float64)
    others, other_labels = references()
    others[7, 3] = torch.nan
    assert make_loss("SupConLoss")(x, labels, None, others, other_labels).isnan()
    assert len(seen) == 1


@CALLS
def test_second_derivative(seen, call):
    def penalty(backend):
        x, labels = make_batch(ROWS, torch.float64)
        value = call(make_loss("SupConLoss", backend=backend), x, labels)
        (grad,) = torch.autograd.grad(value, x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), x)

    torch.testing.assert_close(penalty("auto"), penalty("dense"))
    assert len(seen) == 1
