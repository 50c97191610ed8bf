"""Means of an index tuple's losses, whose gradients are found in the forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fusedml import reducers
from fusedml.curves import AFFINE
from fusedml.engine import averaged
from fusedml.losses import LOSSES, SupConLoss
from fusedml.losses.formula_loss import PairwiseLoss, RowwiseLoss
from tests.losses.made import PAIR_LOSSES, make_batch, make_loss

FORMS = {name: LOSSES[name] for name in PAIR_LOSSES if getattr(LOSSES[name], "form", None)}
# listed positives with bent logits are not computed on matrices
NAMES = [
    name
    for name, loss in FORMS.items()
    if issubclass(loss, RowwiseLoss) or (issubclass(loss, PairwiseLoss) and loss.curve is AFFINE)
]
REDUCERS = {
    "mean": reducers.MeanReducer,
    "above 0": reducers.AvgNonZeroReducer,
    "above": lambda: reducers.ThresholdReducer(low=0.4),
    "below": lambda: reducers.ThresholdReducer(high=1.5),
    "between": lambda: reducers.ThresholdReducer(low=0.2, high=2.5),
    "none": lambda: reducers.ThresholdReducer(low=1e6),
}


def index_tuple(n: int, m: int) -> tuple[Tensor, ...]:
    """Some of the pairs; anchors 0 and 1 are in none, 2 has no positive."""
    i, j = torch.arange(n), torch.arange(m)
    same = (i[:, None] % 6 == j % 6) & (i[:, None] != j)
    some = ((7 * i[:, None] + 3 * j) % 5 < 2) & (i > 1)[:, None]
    return (*(same & some & (i > 2)[:, None]).nonzero().unbind(1), *(~same & some).nonzero().T)


def arguments(has_references: bool, dtype: torch.dtype = torch.float64) -> tuple[Any, ...]:
    x, labels = make_batch(20, dtype)
    if not has_references:
        return x, labels, index_tuple(20, 20)
    return x, labels, index_tuple(20, 26), *make_batch(26, dtype, seed=1)


@pytest.fixture
def _averaged(monkeypatch):
    """That the mean is found so."""
    made = []

    class Counted(averaged.AveragedLosses):
        def evaluate(self):
            made.append(self)
            return super().evaluate()

    monkeypatch.setattr("fusedml.engine.autograd.choices.AveragedLosses", Counted)
    yield made
    assert made


@pytest.mark.usefixtures("_averaged")
@pytest.mark.parametrize("reducer", REDUCERS)
@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients(name: str, reducer: str) -> None:
    for has_references in (False, True):
        x, *rest = arguments(has_references)
        leaves = [x, rest[2]] if has_references else [x]
        values = []
        for backend in ("auto", "dense"):
            loss = make_loss(name, reducer=REDUCERS[reducer](), backend=backend)
            value = loss(x, *rest)
            values.append((value, *torch.autograd.grad(value, leaves)))
        torch.testing.assert_close(*values)


@pytest.mark.usefixtures("_averaged")
@pytest.mark.parametrize("name", NAMES)
def test_learnt_numbers_and_second_derivatives(name: str) -> None:
    if not LOSSES[name].has_second_derivative:
        pytest.skip("its gradient has no derivative")
    x, *rest = arguments(has_references=False)
    found = []
    for backend in ("auto", "dense"):
        loss = make_loss(name, backend=backend)
        keys = [key for key in loss.hyperparameters if getattr(loss, key) is not None]
        if isinstance(loss, RowwiseLoss) and loss.form_parameters():
            keys = []  # those of a form that are learnt take the list
        for key in keys:
            number = torch.tensor(getattr(loss, key), dtype=torch.float64)
            setattr(loss, key, torch.nn.Parameter(number))
        leaves = [x, *loss.parameters()]
        grads = torch.autograd.grad(loss(x, *rest).square(), leaves, create_graph=True)
        total = sum(grad.square().sum() for grad in grads)
        found.append((*grads, *torch.autograd.grad(total, leaves)))
    torch.testing.assert_close(*found)


@pytest.mark.usefixtures("_averaged")
def test_a_scaled_half_precision_loss_keeps_small_gradients() -> None:
    """What a forward finds is in float32: of a mean of many it may be below float16."""
    x, *rest = arguments(False, torch.float16)
    wide = x.detach().float().requires_grad_()
    grads = [
        torch.autograd.grad(2.0**14 * (SupConLoss(1e5)(of, *rest) * 2**-2), of)[0]
        for of in (x, wide)
    ]
    assert grads[0].dtype == torch.float16 and grads[1].abs().max() / 2**12 < 1e-6
    torch.testing.assert_close(grads[0].float(), grads[1], rtol=2e-2, atol=1e-5)


@pytest.mark.usefixtures("_averaged")
def test_the_backward_is_one_product_that_uses_it_up() -> None:
    x, *rest = arguments(has_references=False)
    loss = SupConLoss()(x, *rest)
    loss.backward(retain_graph=True)
    once = x.grad.clone()
    (3 * loss).backward()
    torch.testing.assert_close(x.grad, 4 * once)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_what_the_forward_has_found_is_given_away_once(_averaged: list[Any]) -> None:
    x, *rest = arguments(has_references=False)
    loss = SupConLoss()(x, *rest)
    (kept,) = torch.autograd.grad(loss, x, retain_graph=True)
    once = kept.clone()
    kept.zero_()  # the caller's own
    (last,) = torch.autograd.grad(loss, x)
    assert torch.equal(last, once)
    assert last.data_ptr() == _averaged[-1].grads[0].data_ptr()
    (of_twice,) = torch.autograd.grad(2 * SupConLoss()(x, *rest), x)
    assert torch.equal(of_twice, 2 * once)


def test_a_class_that_makes_other_losses_of_the_rows() -> None:
    class Squared(SupConLoss):
        def row_losses(self, pairs):
            return super().row_losses(pairs).square()

    x, *rest = arguments(has_references=False)
    torch.testing.assert_close(Squared()(x, *rest), Squared(backend="dense")(x, *rest))
