"""A loss is one class: everything that there is for the library's own works for a new one."""

from __future__ import annotations

import copy
import inspect
import pickle
from types import MappingProxyType

import pytest
import torch
from torch import Tensor

from fusedml import functional, losses, reducers
from fusedml.formulas import pack
from fusedml.hyperparameters import positive_number
from tests.loss_accuracy import check_loss
from tests.losses.made import gradient, make_batch, make_loss
from tests.number_types import NUMBER_TYPES
from tests.scripts.test_derived import derived


class SoftTripletLoss(losses.RowwiseLoss):
    """L_i = log(1 + sum_N e^{scale s} / sum_P e^{scale s}).

    Source: made up.
    """

    hyperparameters = MappingProxyType({"scale": positive_number})

    def __init__(self, scale: float | Tensor = 2.0, **kwargs) -> None:
        super().__init__(**kwargs)
        self.scale = scale

    def logit(self, sign):
        return pack(sign * self.value_of("scale"), 0, sign * self.value_of("scale"), 0)

    def head(self, row):
        has_both = (row.num_positive > 0) & (row.num_negative > 0)
        gap = torch.where(has_both, row.lse_negative - row.lse_positive, 0)
        return torch.nn.functional.softplus(gap) * has_both


NAME = "SoftTripletLoss"


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(losses.LOSSES, NAME, SoftTripletLoss)


def by_hand(embeddings: Tensor, labels: Tensor, scale: float = 2.0) -> Tensor:
    x = torch.nn.functional.normalize(embeddings)
    exp = torch.exp(-scale * torch.cdist(x, x))
    same = labels[:, None] == labels
    positive, negative = same & ~torch.eye(len(x), dtype=torch.bool), ~same
    ratio = (exp * negative).sum(1) / (exp * positive).sum(1)
    return torch.where(positive.any(1) & negative.any(1), torch.log1p(ratio), 0).mean()


@pytest.mark.parametrize("n", [20, 900])  # whole, and by tiles
@pytest.mark.parametrize("backend", ["auto", "torch", "dense"])
def test_value_and_gradient(n: int, backend: str) -> None:
    embeddings, labels = make_batch(n)
    expected = by_hand(embeddings, labels)
    value, grad = gradient(SoftTripletLoss(backend=backend), embeddings, labels)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(grad, torch.autograd.grad(expected, embeddings)[0])


@pytest.mark.parametrize("number_type", NUMBER_TYPES.values(), ids=NUMBER_TYPES)
def test_number_types_on_emulated_kernels(emulated, number_type) -> None:
    from benchmarks.cases import Case  # noqa: PLC0415  it looks the name up

    check_loss(Case(NAME, 70, 12), number_type, "emulated")


def test_tuples_references_and_reducers() -> None:
    loss = make_loss(NAME).double()
    embeddings, labels = make_batch()
    i, j = torch.where(~torch.eye(20, dtype=torch.bool))
    same = labels[i] == labels[j]
    pairs = (i[same], j[same], i[~same], j[~same])
    expected = gradient(loss, embeddings, labels)
    for actual in (
        gradient(loss, embeddings, None, pairs),
        gradient(make_loss(NAME, reducer=reducers.SumReducer()).double(), embeddings, labels),
    ):
        factor = actual[0] / expected[0]
        torch.testing.assert_close(actual[1], expected[1] * factor)
    references, ref_labels = make_batch(30, seed=1)
    dense = make_loss(NAME, backend="dense")
    torch.testing.assert_close(
        loss(embeddings, labels, None, references, ref_labels),
        dense(embeddings, labels, None, references, ref_labels),
    )


def test_compiled_copied_pickled_and_as_a_function() -> None:
    loss = make_loss(NAME, scale=3.0).double()
    embeddings, labels = make_batch()
    expected = loss(embeddings, labels)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    function = functional.function_of(SoftTripletLoss)
    assert function.__name__ == "soft_triplet_loss"
    for value in (
        compiled(embeddings, labels),
        copy.deepcopy(loss)(embeddings, labels),
        pickle.loads(pickle.dumps(loss))(embeddings, labels),
        function(embeddings, labels, scale=3.0),
        function(embeddings, labels, scale=3.0, reduction="none").mean(),
    ):
        torch.testing.assert_close(value, expected)


def test_it_is_a_row_of_the_table_and_a_line_of_the_stub() -> None:
    assert f"| `{NAME}`, `soft_triplet_loss` | `L_i = log(1 + sum_N" in derived.table()
    assert "def soft_triplet_loss(" in derived.functional_stub()


def test_the_class_has_fifteen_lines() -> None:
    lines = inspect.getsource(SoftTripletLoss).splitlines()
    assert len([line for line in lines if line.strip()]) <= 15  # with that of its name
