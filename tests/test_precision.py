"""Which dtype things have, with and without autocast."""

from __future__ import annotations

import pytest
import torch

from fusedml.precision import prepare, result_dtype, tile_dtype

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
