"""VSE and VSE++ against their sums over the matrix, on whole numbers, too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fusedml import functional
from fusedml.losses import VSELoss

BOTH = pytest.mark.parametrize("max_violation", [False, True])


def towers(n: int, is_whole: bool, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Whole numbers: ties of the hardest, and hinges at their margin, everywhere."""
    generator = torch.Generator().manual_seed(n)
    if is_whole:
        both = (torch.randint(-2, 3, (n, 4), generator=generator) for _ in range(2))
    else:
        both = (torch.randn(n, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    return tuple(x.to(dtype).requires_grad_() for x in both)


def formula(a: Tensor, r: Tensor, margin: float | Tensor, max_violation: bool) -> Tensor:
    """One pair after the other; of equal ones the first."""
    s, total = a @ r.T, (a.sum() + r.sum()) * 0
    for i in range(len(a)):
        for line in (s[i], s[:, i]):
            others = torch.cat([line[:i], line[i + 1 :]])
            if len(others) and max_violation:
                others = others[others.argmax()][None]
            total = total + torch.relu(margin + others - s[i, i]).sum()
    return total


@BOTH
@pytest.mark.usefixtures("whole_or_tiles")  # few pairs by the formula, or none
@pytest.mark.parametrize("is_whole", [False, True])
@pytest.mark.parametrize("backend", ["auto", "torch", "dense"])
@pytest.mark.parametrize("n", [0, 1, 2, 33])
def test_against_the_formula(n: int, backend: str, is_whole: bool, max_violation: bool) -> None:
    a, r = towers(n, is_whole)
    margin = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    value = VSELoss(margin, max_violation, backend=backend)(a, r)
    exact = formula(a, r, margin, max_violation)
    torch.testing.assert_close(value, exact)
    inputs = [a, r] if n < 2 else [a, r, margin]
    grads = (torch.autograd.grad(of, inputs) for of in (value, exact))
    torch.testing.assert_close(*grads)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("n", [810, 1300])  # strips, and several of them
def test_large_batches_by_the_dense_formula(n: int, dtype, max_violation: bool) -> None:
    features = towers(n, is_whole=True, dtype=dtype)
    results = []
    for backend in ("auto", "dense"):
        value = VSELoss(1, max_violation, backend=backend)(*features)
        results.append((value, *torch.autograd.grad(value, features)))
    torch.testing.assert_close(*results, rtol=1e-6, atol=0)
    assert results[0][0] > 0


@BOTH
@pytest.mark.usefixtures("whole_or_tiles")
def test_function_dtypes_and_nan(max_violation: bool) -> None:
    a, r = towers(33, is_whole=True)
    expected = formula(a, r, 0.2, max_violation)
    given = {"margin": 0.2, "max_violation": max_violation}
    torch.testing.assert_close(functional.vse_loss(a, r, **given), expected)
    for dtype in (torch.float16, torch.bfloat16):
        value = VSELoss(**given)(a.to(dtype), r.to(dtype))
        assert value.dtype == dtype
        torch.testing.assert_close(value.double(), expected, rtol=2**-7, atol=0)
    a = a.detach().clone()
    a[5, 0] = torch.nan
    assert VSELoss(**given)(a, r).isnan()
    with pytest.raises(ValueError, match="texts must have as many rows as images"):
        VSELoss()(a[:4], r)
