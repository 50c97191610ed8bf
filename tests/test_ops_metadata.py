"""Real and fake kernels return tensors of the same kind, whatever the layout of what they get."""

from __future__ import annotations

import pytest
import torch

from fusedml.engine import joint_rows, ops
from tests.operator_promises import assert_promises_kept
from tests.test_ops import arguments


def check(name: str, backend: str, m: int | None, dtype: torch.dtype) -> None:
    # labels that ascend are taken as they are, others are sorted by the tiles
    for is_sorted in (True, False):
        args = arguments(name, m, dtype, is_sorted=is_sorted)
        assert_promises_kept(ops.operator(name, backend), args)
        if isinstance(args[-1], list):
            nothing = [False] * len(args[-1])
            assert_promises_kept(ops.operator(name, backend), [*args[:-1], nothing])


EVERY = pytest.mark.parametrize("name", ops.SCHEMAS)
REFERENCES = pytest.mark.parametrize("m", [None, 13, 1, 0])
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])


@EVERY
@REFERENCES
@DTYPES
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_tiled(name, backend, m, dtype):
    check(name, backend, m, dtype)


@EVERY
@REFERENCES
@DTYPES
def test_emulated(emulated, name, m, dtype):
    if m == 0:
        pytest.skip("no references are left to the tiles")
    if name not in emulated.KERNELS and name not in joint_rows.KERNELS:
        pytest.skip("computed by the tiles on every device")
    check(name, "emulated", m, dtype)
