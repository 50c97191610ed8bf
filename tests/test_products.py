"""Products of matrices by oneDNN, and where it does not serve."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fusedml.engine import products
from fusedml.engine.products import add_product_, empty_sums, product

SIZES = [(1, 1, 1), (3, 5, 7), (69, 300, 128), (128, 17, 1000), (0, 4, 3), (4, 0, 3), (4, 3, 0)]


@pytest.fixture(params=["oneDNN", "switched off", "missing"])
def by(request, monkeypatch):
    """Which library multiplies float32."""
    if request.param == "oneDNN" and products.LINEAR is None:
        pytest.skip("this processor or this PyTorch has no use for oneDNN")
    if request.param == "missing":
        monkeypatch.setattr(products, "LINEAR", None)
    if request.param == "switched off":
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    return request.param


def check(actual: Tensor, a: Tensor, b: Tensor, begin: Tensor | float = 0.0) -> None:
    """a b^T, as exact as PyTorch's."""
    expected = a.double() @ b.double().T + begin
    theirs = torch.linalg.vector_norm(a @ b.T + begin - expected)
    error = torch.linalg.vector_norm(actual - expected)
    assert error <= 2 * theirs + 1e-6 * torch.linalg.vector_norm(expected)
    assert actual.shape == expected.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "m", "k"), SIZES)
def test_product(n: int, m: int, k: int, dtype: torch.dtype, by: str) -> None:
    a, b = torch.randn(n, k, dtype=dtype), torch.randn(m, k, dtype=dtype)
    turned = [x.T.contiguous().T for x in (a, b)]
    for one in (a, turned[0], torch.cat([a, a], 1)[:, :k]):
        for other in (b, turned[1]):
            check(product(one, other), a, b)
            assert torch.equal(product(one, other), product(one, other))


@pytest.mark.parametrize("summands", [1, 100, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "m", "k"), SIZES)
def test_sums_of_products(
    n: int,
    m: int,
    k: int,
    dtype: torch.dtype,
    summands: int,
    by: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(products, "_SUMMANDS", summands)
    sums = empty_sums(torch.ones(n, m, dtype=dtype))
    a, b = torch.randn(2 * k, n, dtype=dtype), torch.randn(2 * k, m, dtype=dtype)
    for part in (slice(0, k), slice(k, 2 * k)):
        add_product_(sums, a[part], b[part])
    check(sums, a.T, b.T)


def test_float32_is_not_rounded_to_less(by: str) -> None:
    a = torch.full((64, 64), 1 + 2.0**-20)
    assert torch.equal(product(a, torch.eye(64)), a)


def test_what_onednn_is_asked_for(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(products, "LINEAR", lambda a, b, *_: asked.append(a.dtype) or a @ b.T)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        product(torch.ones(2, 3, dtype=dtype), torch.ones(4, 3, dtype=dtype))
    assert asked == [torch.float32]


@pytest.mark.parametrize("is_turned", [False, True])
def test_onednn_sees_no_parts_of_matrices(is_turned: bool, monkeypatch) -> None:
    def linear(a: Tensor, b: Tensor, *_) -> Tensor:
        assert a.is_contiguous()
        assert b.is_contiguous() or b.T.is_contiguous()
        return a @ b.T

    monkeypatch.setattr(products, "LINEAR", linear)
    a, b = torch.randn(9, 8), torch.randn(8, 8)
    a, b = (a[:, 2:5], b.T[1:6, 2:5]) if is_turned else (a[:, 2:5], b[1:6, 2:5])
    check(product(a, b), a, b)
