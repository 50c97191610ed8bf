"""The number types of the kernels, and the one rule of how far from float64 they may be."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.problems import assert_close


class NumberType(NamedTuple):
    """dtype of the embeddings, the setting for float32 products, and what the rule allows.

    plain: the dtype in which dense PyTorch makes errors of the same kind.  times: how many of its
    errors are allowed, and floor: what beyond, relative to the largest entry.
    """

    dtype: torch.dtype
    precision: str
    plain: torch.dtype
    floor: float
    times: float = 2

    def plain_products(self) -> AbstractContextManager[object]:
        """In which dense PyTorch, on any device, multiplies with the errors of this setting."""
        return TF32Products() if self.precision == "high" else nullcontext()

    def assert_close(self, actual: Tensor, exact: Tensor, plain: Tensor, what: str) -> None:
        """The rule: error at most ``times`` that of dense PyTorch, plus the floor."""
        assert_close(actual, exact, plain, self.floor, what, self.times)


# The floor is for what dense PyTorch happens to get right: an eighth of the unit of a 16-bit number
# or of TF32; of float32 and float64 what sums of some thousand numbers lose in another order.
NUMBER_TYPES = {
    "bfloat16": NumberType(torch.bfloat16, "highest", torch.bfloat16, 2**-10),
    "float16": NumberType(torch.float16, "highest", torch.float16, 2**-13),
    # each product of float32 numbers is three of TF32
    "highest": NumberType(torch.float32, "highest", torch.float32, 3e-7, times=4),
    "high": NumberType(torch.float32, "high", torch.float32, 2**-13),
    "medium": NumberType(torch.float32, "medium", torch.bfloat16, 2**-10),
    "float64": NumberType(torch.float64, "highest", torch.float64, 1e-13),
}

all_number_types = pytest.mark.parametrize(
    "number_type", NUMBER_TYPES.values(), ids=list(NUMBER_TYPES)
)


class TF32Products(TorchDispatchMode):
    """Matrix products of float32 operands that are rounded to TF32.

    A CPU knows no others than exact ones, and a GPU takes TF32 only where its library thinks fit.
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.mm.default:
            args = [to_tf32(x) for x in args]
        return function(*args, **(kwargs or {}))


def to_tf32(x: Tensor) -> Tensor:
    """float32 with 10 bits of mantissa, rounded to nearest, ties away from zero."""
    if x.dtype != torch.float32:
        return x
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)
