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
REFERENCES = (None, 13, 1, 0)
DTYPES = (torch.float64, torch.float32, torch.bfloat16)
BACKENDS = ("auto", "torch")


@EVERY
@pytest.mark.parametrize(
    ("backend", "m", "dtype"),
    [
        (
            BACKENDS[(i // 2 + k // 2) % 2],
            m,
            dtype,
        )  # every m and every dtype, each backend with both
        for i, m in enumerate(REFERENCES)
        for k, dtype in enumerate(DTYPES)
        if (i + k) % 2 == 0
    ],
)
def test_tiled(name, backend, m, dtype):
    check(name, backend, m, dtype)


@EVERY
@pytest.mark.parametrize(
    ("m", "dtype"),
    [*zip(REFERENCES[:-1], DTYPES, strict=True)],  # no references are left to the tiles
)
def test_emulated(emulated, name, m, dtype):
    if name not in emulated.KERNELS and name not in joint_rows.KERNELS:
        pytest.skip("computed by the tiles on every device")
    check(name, "emulated", m, dtype)
