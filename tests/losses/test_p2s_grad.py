"""P2SGrad: the formula on the matrix, the lengths of the columns, many classes."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from torch import Tensor
from torch.nn.functional import normalize

from fusedml import functional
from fusedml.errors import LabelError
from fusedml.losses import P2SGradLoss, p2s_grad

D = 6


def make_batch(n: int, num_classes: int, dtype=torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, D, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(D, num_classes, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(num_classes, (n,), generator=generator)
    return x.requires_grad_(), labels, weight


def matrix_loss(x: Tensor, labels: Tensor, unit: Tensor) -> Tensor:
    cos = normalize(x) @ unit
    return (cos - torch.nn.functional.one_hot(labels, unit.shape[1])).square().mean()


# fewer classes than dimensions, and more: the one has a matrix, the other two small ones
@pytest.mark.parametrize("num_classes", [1, 4, 6, 7, 50])
@pytest.mark.parametrize("n", [1, 2, 30])
@pytest.mark.parametrize("backend", ["auto", "torch", "dense"])
def test_against_the_matrix(n: int, num_classes: int, backend: str) -> None:
    x, labels, weight = make_batch(n, num_classes)
    unit = normalize(weight, dim=0).requires_grad_()
    exact = matrix_loss(x, labels, unit)
    weight.requires_grad_()
    value = functional.p2_s_grad_loss(x, labels, weight, backend=backend)
    torch.testing.assert_close(value, exact, rtol=1e-6, atol=1e-9)
    expected = torch.autograd.grad(exact, [x, unit])
    # the gradient of the columns of length 1, not projected
    grads = torch.autograd.grad(value, [x, weight])
    torch.testing.assert_close(grads, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_are_theirs(dtype: torch.dtype) -> None:
    """The columns are set to their lengths before each step."""
    x, labels, weight = make_batch(40, 30, dtype)
    pair = P2SGradLoss(D, 30), pml_losses.P2SGradLoss(D, 30)
    for loss in pair:
        loss.to(dtype).weight.data.copy_(weight)
        optimizer = torch.optim.SGD(loss.parameters(), lr=5.0)
        for _ in range(4):
            optimizer.zero_grad()
            loss(x, labels).backward()
            optimizer.step()
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(pair[0].weight, pair[1].weight, rtol=tolerance, atol=tolerance)
    assert (pair[0].weight.norm(dim=0) - 1).abs().max() > 1e-3  # a step left the sphere


def test_a_small_batch_of_long_embeddings(monkeypatch) -> None:
    x = torch.randn(6, 40, dtype=torch.float64, requires_grad=True)
    labels, loss = torch.arange(6) * 7, P2SGradLoss(40, 50).double()
    by_matrix = loss(x, labels)
    monkeypatch.setattr(p2s_grad, "MOST_PAIRS", -1)
    by_products = loss(x, labels)
    leaves = [x, loss.weight]
    for one, other in zip(
        (by_matrix, *torch.autograd.grad(by_matrix, leaves)),
        (by_products, *torch.autograd.grad(by_products, leaves)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
        assert not torch.equal(one, other)  # they are added in other orders


def test_a_call_leaves_columns_of_their_length_alone() -> None:
    x, labels, _ = make_batch(40, 30, torch.float32)
    loss = P2SGradLoss(D, 30)
    first = loss(x, labels)
    before = loss.weight.detach().clone()
    assert torch.equal(loss(x, labels), first)
    assert torch.equal(loss.weight, before)
    torch.testing.assert_close(before.norm(dim=0), torch.ones(30))


def test_a_function_leaves_its_argument_alone() -> None:
    x, labels, weight = make_batch(40, 30)
    parameter = torch.nn.Parameter(weight.clone())
    functional.p2_s_grad_loss(x, labels, parameter)
    assert torch.equal(parameter, weight)


def test_refused() -> None:
    x, labels, _ = make_batch(40, 30)
    with pytest.raises(LabelError, match=r"labels must be in \[0, num_classes\) = \[0, 20\)"):
        P2SGradLoss(D, 20)(x, labels.fill_(25))
    with pytest.raises(ValueError, match="indices_tuple is not supported"):
        P2SGradLoss(D, 30)(x, labels, (labels[:2],) * 3)
    with pytest.raises(ValueError, match="embeddings must have as many columns as the proxies"):
        P2SGradLoss(D + 1, 30)(x, labels)


@pytest.mark.parametrize("backend", ["auto", "dense"])
@pytest.mark.parametrize("of_module", [True, False])
def test_columns_of_any_length_count_by_their_direction(backend: str, of_module: bool) -> None:
    x, labels, weight = make_batch(30, 20)
    factors = 10.0 ** torch.arange(-11, 9, dtype=torch.float64)
    unit = normalize(weight * factors, dim=0, eps=1e-12).requires_grad_()
    exact = matrix_loss(x, labels, unit)
    scaled = (weight * factors).requires_grad_()
    if of_module:
        loss = P2SGradLoss(D, 20, backend=backend).double()
        loss.weight.data.copy_(scaled.detach())
        scaled, value = loss.weight, loss(x, labels)
    else:
        value = functional.p2_s_grad_loss(x, labels, scaled, backend=backend)
    torch.testing.assert_close(value, exact, rtol=1e-5, atol=0)
    grads = torch.autograd.grad(value, scaled), torch.autograd.grad(exact, unit)
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("of_module", [True, False])
def test_a_column_without_direction_has_no_gradient(of_module: bool) -> None:
    x, labels, weight = make_batch(30, 20)
    weight[:, 3], weight[:, 5] = 0, 1e-14
    if of_module:
        loss = P2SGradLoss(D, 20).double()
        loss.weight.data.copy_(weight)
        weight = loss.weight
        for _ in range(2):  # in the second call they are 0
            (grad,) = torch.autograd.grad(loss(x, labels), weight)
            assert torch.equal(grad.any(0), ~torch.isin(torch.arange(20), torch.tensor([3, 5])))
        assert not weight[:, [3, 5]].any()
    else:
        value = functional.p2_s_grad_loss(x, labels, weight.requires_grad_())
        (grad,) = torch.autograd.grad(value, weight)
        assert torch.equal(grad.any(0), ~torch.isin(torch.arange(20), torch.tensor([3, 5])))
