"""Each head's partial derivatives against autograd through its value."""

from __future__ import annotations

import math

import pytest
import torch

from fusedml import heads
from fusedml.heads import PAIR_FORMS, ROW_FORMS, RowStatistics, softplus
from fusedml.losses import LOSSES
from fusedml.losses.formula_loss import RowwiseLoss

PARAMETERS = {"softplus_sum": (2.0, 50.0)}


def make_row(empty_positive=False, empty_negative=False):
    n = 50
    lse = torch.randn(2, n, dtype=torch.float64) * 3
    if empty_positive:
        lse[0, ::3] = -math.inf
    if empty_negative:
        lse[1, ::2] = -math.inf
    counts = torch.randint(1, 5, (2, n)) * torch.isfinite(lse)
    sums = torch.randn(n, dtype=torch.float64) * (counts[0] > 0)
    leaves = [x.clone().requires_grad_() for x in (*lse, sums)]
    return RowStatistics(*leaves, *counts), leaves


@pytest.mark.parametrize("name", ROW_FORMS)
@pytest.mark.parametrize("empty_positive", [False, True])
@pytest.mark.parametrize("empty_negative", [False, True])
def test_row_heads(name, empty_positive, empty_negative):
    row, leaves = make_row(empty_positive, empty_negative)
    parameters = torch.tensor(PARAMETERS.get(name, ()), dtype=torch.float64)
    loss = ROW_FORMS[name](row, parameters)
    grads = torch.autograd.grad(loss.value.sum(), leaves, allow_unused=True)
    for partial, grad in zip(loss.partials(), grads, strict=True):
        expected = torch.zeros_like(partial) if grad is None else grad
        torch.testing.assert_close(partial, expected)
    assert torch.isfinite(loss.value).all()


CLOSED = [
    name
    for name, loss in LOSSES.items()
    if issubclass(loss, RowwiseLoss) and loss.closed_head is not RowwiseLoss.closed_head
]


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize(("empty_positive", "empty_negative"), [(False, True), (True, True)])
def test_closed_heads(name, empty_positive, empty_negative):
    row, leaves = make_row(empty_positive, empty_negative)
    loss = LOSSES[name]()
    expected = loss.head(row)
    grads = torch.autograd.grad(expected.sum(), leaves[:2])
    closed = loss.closed_head()(row, torch.empty(0))
    torch.testing.assert_close(closed.value, expected)
    torch.testing.assert_close(closed.d_lse, torch.stack(grads))
    assert closed.d_sum_positive is None
    assert expected.any()


@pytest.mark.parametrize("name", PAIR_FORMS)
def test_pair_heads(name):
    z, *lse = (torch.randn(60, dtype=torch.float64) * 3 for _ in range(3))
    lse[0][::2] = -math.inf
    lse[1][::3] = -math.inf
    leaves = [x.clone().requires_grad_() for x in (z, *lse)]
    loss = PAIR_FORMS[name](*leaves)
    grads = torch.autograd.grad(loss.value.sum(), leaves, allow_unused=True)
    for partial, leaf, grad in zip(loss[1:], leaves, grads, strict=True):
        found, expected = (torch.zeros_like(leaf) if x is None else x for x in (partial, grad))
        torch.testing.assert_close(found, expected)
    assert torch.isfinite(loss.value).all()


def test_softplus_has_no_threshold():
    x = torch.tensor([-800.0, -40.0, 0.0, 21.0, 40.0, 800.0], dtype=torch.float64)
    expected = [math.log1p(math.exp(v)) if v < 700 else v for v in x.tolist()]
    assert softplus(x).tolist() == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("form", [heads.cross_entropy, heads.mean_cross_entropy])
def test_a_positive_that_is_alone_has_no_loss_however_its_logit_is_rounded(form):
    lse = torch.tensor([[1.0 + 1e-15, 1.0 + 1e-15, 2.0], [-math.inf, 0.0, -math.inf]]).double()
    counts = torch.tensor([[1, 1, 2], [0, 3, 0]])
    row = RowStatistics(*lse, torch.ones(3, dtype=torch.float64), *counts)
    loss = form(row, torch.zeros(0))
    assert loss.value[0] == 0
    assert (loss.value[1:] > 0).all()
    assert (loss.partials()[:, 0] == 0).all()
