"""Which dtype things have, with and without autocast."""

from __future__ import annotations

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from fusedml.precision import prepare, result_dtype, tile_dtype
from fusedml.row_order import RowOrder

HALVES = (torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_rows_are_normalised_in_float32_and_rounded_once(dtype: torch.dtype) -> None:
    x = (30 * torch.randn(50, 7)).to(dtype)
    expected = torch.nn.functional.normalize(x.double()).float().to(dtype)
    assert torch.equal(prepare(x, dtype, normalize=True), expected)
    assert torch.equal(prepare(x.float(), dtype, normalize=True), expected)


def test_zero_rows_stay_zero() -> None:
    assert not prepare(torch.zeros(2, 3), torch.float32, normalize=True).any()


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64])
def test_without_autocast_everything_is_the_embeddings(dtype: torch.dtype) -> None:
    x = torch.zeros(1, 1, dtype=dtype)
    assert tile_dtype(x) == result_dtype(x) == dtype


@pytest.mark.parametrize("half", HALVES)
def test_autocast(half: torch.dtype) -> None:
    with torch.autocast("cpu", dtype=half):
        for dtype in (*HALVES, torch.float32):
            x = torch.zeros(1, 1, dtype=dtype)
            assert tile_dtype(x) == half
            assert result_dtype(x) == torch.float32
        double = torch.zeros(1, 1, dtype=torch.float64)
        assert tile_dtype(double) == result_dtype(double) == torch.float64


def random_order(n: int) -> RowOrder:
    return RowOrder.by_label(torch.randperm(n))


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64])
@pytest.mark.parametrize("normalize", [True, False])
def test_another_order_changes_nothing_else(dtype: torch.dtype, normalize: bool) -> None:
    x = (30 * torch.randn(50, 7)).to(dtype)
    x[3], x[4] = 0, 1e-13  # shorter than the least norm
    order = random_order(50)
    ours, given = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = prepare(ours, dtype, normalize, order)
    expected = prepare(given, dtype, normalize)[order.rows]
    assert torch.equal(y, expected)
    grad = torch.randn(50, 7).to(dtype)
    torch.testing.assert_close(
        *(torch.autograd.grad(out, leaf, grad)[0] for out, leaf in [(y, ours), (expected, given)])
    )


def test_the_gradient_of_rows_in_another_order() -> None:
    x = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    order = random_order(9)
    assert torch.autograd.gradcheck(lambda x: prepare(x, x.dtype, True, order), x)


class LargestTotal(TorchDispatchMode):
    """Remembers the most bytes that were in use at once, of tensors of ``least`` bytes or more."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least, self.total, self._sizes = least, 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.untyped_storage().nbytes() >= self.least:
            storage = result.untyped_storage()
            self._sizes[StorageWeakRef(storage)] = storage.nbytes()
        self._sizes = {ref: size for ref, size in self._sizes.items() if not ref.expired()}
        self.total = max(self.total, sum(self._sizes.values()))
        return result


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_another_order_takes_no_more_memory(dtype: torch.dtype) -> None:
    n, d = 1024, 64
    x = torch.randn(n, d).to(dtype).requires_grad_()
    grad = torch.randn(n, d).to(dtype)
    totals = []
    for order in (None, random_order(n)):
        with LargestTotal(least=x.nbytes) as forward:
            y = prepare(x, dtype, True, order)
        with LargestTotal(least=x.nbytes) as step:
            y = prepare(x, dtype, True, order)  # stays, as under retain_graph=True
            torch.autograd.grad(y, x, grad)
        totals.append((forward.total, step.total))
    (given_forward, given_step), (forward, step) = totals
    assert given_forward >= x.nbytes
    assert forward <= given_forward
    assert step <= given_step
