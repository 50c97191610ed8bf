"""Which dtype things have, with and without autocast."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from fusedml.distances import CosineSimilarity, LpDistance
from fusedml.engine import precision
from fusedml.engine.precision import prepare, result_dtype, row_norms, tile_dtype
from fusedml.engine.row_order import RowOrder

HALVES = (torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_rows_are_normalised_in_float32_and_rounded_once(dtype: torch.dtype) -> None:
    x = (30 * torch.randn(50, 7)).to(dtype)
    expected = torch.nn.functional.normalize(x.double()).float().to(dtype)
    assert torch.equal(prepare(x, dtype, normalize=True), expected)
    assert torch.equal(prepare(x.float(), dtype, normalize=True), expected)


# factors of rows of a few units: squares that overflow and underflow, the largest numbers there are
FACTORS = {
    torch.float16: (1.0, 1e-2, 8e3),
    torch.bfloat16: (1.0, 1e-11, 1e20, 5e37),
    torch.float32: (1.0, 1e-11, 1e20, 5e37),
    torch.float64: (1.0, 1e-11, 1e200, 1e307),
}


def by_order(x: Tensor, dtype: torch.dtype) -> Tensor:
    order = random_order(x.shape[0])
    return order.restore(prepare(x, dtype, True, order))


def compiled(x: Tensor, dtype: torch.dtype) -> Tensor:
    torch._dynamo.reset()
    # the code it generates is tried on one dtype
    backend = "inductor" if dtype == torch.float32 else "aot_eager"
    return torch.compile(lambda x: prepare(x, dtype, True), fullgraph=True, backend=backend)(x)


def plainly(x: Tensor, dtype: torch.dtype) -> Tensor:
    return prepare(x, dtype, True)


def publicly(x: Tensor, dtype: torch.dtype) -> Tensor:
    return CosineSimilarity().normalize(x).to(dtype)


# by operations that autograd records, by a Function, without a look at the norms, as where that
# costs a host sync, in another order, compiled, by a distance
ROUTES = {
    "operations": (plainly, {}),
    "function": (plainly, {"_FEW_ELEMENTS": 0}),
    "operations, unread": (plainly, {"is_free_to_read": lambda _: False}),
    "function, unread": (plainly, {"is_free_to_read": lambda _: False, "_FEW_ELEMENTS": 0}),
    "order": (by_order, {}),
    "order, unread": (by_order, {"is_free_to_read": lambda _: False}),
    "compiled": (compiled, {}),
    "distance": (publicly, {}),
}


@pytest.fixture(params=ROUTES)
def route(request, monkeypatch):
    function, settings = ROUTES[request.param]
    for name, value in settings.items():
        monkeypatch.setattr(precision, name, value)
    return function


def normalized_in_float64(x: Tensor) -> Tensor:
    x = x.double()
    scaled = x / x.abs().amax(1, keepdim=True)
    return scaled / scaled.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("dtype", FACTORS)
def test_rows_of_any_size_have_their_direction(route, dtype: torch.dtype) -> None:
    factors = torch.tensor(FACTORS[dtype], dtype=torch.float64).repeat(6)[:, None]
    x = (torch.randn(len(factors), 7, dtype=torch.float64) * factors).to(dtype).requires_grad_()
    y = route(x, dtype)
    rounding = torch.finfo(dtype).eps
    expected = normalized_in_float64(x)
    assert (y - expected).abs().max() <= 2 * rounding
    upstream = 10 * torch.randn(len(factors), 7).to(dtype)
    (grad,) = torch.autograd.grad(y, x, upstream)
    leaf = (x.detach().double() / factors).requires_grad_()  # of moderate size
    (exact,) = torch.autograd.grad(normalized_in_float64(leaf), leaf, upstream.double())
    error = (grad.double() * factors - exact).abs()
    # where a gradient is so small that the dtype has few bits left for it
    least = torch.finfo(dtype).smallest_normal * factors
    assert (error <= 8 * rounding * (1 + exact.abs().max()) + 8 * least).all()


@pytest.mark.parametrize("dtype", FACTORS)
def test_rows_below_the_least_norm_are_zero_and_have_no_gradient(route, dtype: torch.dtype) -> None:
    x = torch.eye(9, 7, dtype=torch.float64)
    x[1] *= 0
    x[2] *= 0.99e-12
    x[3] *= 1.01e-12
    x[4] *= 1e-30
    x = x.to(dtype).requires_grad_()
    y = route(x, dtype)
    is_short = x.detach().double().norm(dim=1) < 1e-12
    assert is_short.tolist()[:3] == [False, True, True]
    assert torch.equal(y, torch.where(is_short[:, None], 0, torch.eye(9, 7)).to(dtype))
    (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert not grad[is_short].any()
    assert grad[~is_short].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("p", [0, 0.5, 1, 2, 3, 10, float("inf")])
@pytest.mark.parametrize("factor", [1e-9, 1.0, 1e30])
def test_norms_of_any_p(p: float, factor: float, dtype: torch.dtype) -> None:
    x = (torch.randn(5, 6, dtype=torch.float64) * factor).to(dtype)
    exact = torch.linalg.vector_norm(x.double(), p, dim=1)
    torch.testing.assert_close(row_norms(x, p), exact.to(dtype))
    torch.testing.assert_close(
        LpDistance(p=p).normalize(x), (x.double() / exact[:, None]).to(dtype)
    )
    torch.testing.assert_close(
        LpDistance(p=p).normalize(x.T, dim=0), LpDistance(p=p).normalize(x).T
    )


def test_rows_of_a_wider_dtype() -> None:
    x = torch.tensor([[3e200, 4e200]], dtype=torch.float64)
    for order in (None, random_order(1)):
        y = prepare(x, torch.float32, True, order)
        torch.testing.assert_close(y, torch.tensor([[0.6, 0.8]]))


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


@pytest.mark.parametrize(
    ("dtype", "scale", "rtol"),
    [
        (torch.float32, 1.0, 1e-6),
        (torch.float32, 1e30, 1e-6),
        (torch.float64, 1e-30, 1e-14),
        (torch.float16, 1e-3, 2e-3),  # its squares are below float16
    ],
)
def test_norms_of_columns_in_memory(dtype: torch.dtype, scale: float, rtol: float) -> None:
    x = (scale * torch.randn(6, 5, dtype=torch.float64)).to(dtype)
    exact = torch.linalg.vector_norm(x.double(), dim=0)
    torch.testing.assert_close(row_norms(x.T).double(), exact, rtol=rtol, atol=0)


@pytest.mark.parametrize("n", [3, 600])  # looked at in Python, or not
@pytest.mark.parametrize("other", [0.0, 1e-14, math.inf, math.nan, 1e20])
def test_plain_norms_are_of_rows_that_all_divide_by_them(n: int, other: float) -> None:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    norms = precision.plain_norms(x)
    assert norms is not None
    torch.testing.assert_close(norms, x.norm(dim=1, keepdim=True))
    x[1] = other
    assert precision.plain_norms(x) is None
