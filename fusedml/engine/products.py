"""Matrix products on a CPU.

PyTorch's go to MKL, which leaves the wide registers (AVX-512) of processors that are not Intel's
unused.  There oneDNN, to which PyTorch's compiler sends linear layers, takes half of the time: on
an AMD EPYC of 2024, 256 x 2000 x 128 in float32, 1.15 instead of 2.58 ns an element.  It is no
public function of PyTorch: where it is missing, or float32 is not asked for, MKL serves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Of sums, whose next summands are made at a time: 4 MB in float32.
_SUMMANDS = 1 << 20


def _linear() -> Callable[..., Any] | None:
    """oneDNN's a b^T, if this PyTorch has it and the processor AVX-512."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return None
    if not torch.backends.mkldnn.is_available():
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


LINEAR = _linear()


def makes_own(a: Tensor) -> bool:
    """Whether ``product`` of this makes memory of its own, whatever ``out`` is."""
    is_wanted = a.dtype == torch.float32 and a.device.type == "cpu" and a.numel() > 0
    return is_wanted and LINEAR is not None and bool(torch.backends.mkldnn.enabled)


def product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """a b^T, [n, m], of a [n, k] and b [m, k].  out: memory that it may take."""
    if LINEAR is None or not makes_own(a):
        return torch.mm(a, b.T, out=out)
    if not (b.is_contiguous() or b.T.is_contiguous()):
        b = b.contiguous()  # of a part of a matrix oneDNN takes a thousand times as long
    result: Tensor = LINEAR(a.contiguous(), b, None, "none", [], "")
    return result


def empty_sums(like: Tensor) -> Tensor:
    """Zeros of the shape of ``like``, in the layout that ``add_product_`` wants."""
    return like.new_zeros(*reversed(like.shape)).T if makes_own(like) else torch.zeros_like(like)


def add_product_(sums: Tensor, a: Tensor, b: Tensor) -> None:
    """sums += a^T b, [n, m], of a [k, n] and b [k, m].  sums: of :func:`empty_sums`."""
    if makes_own(a):
        num_parts = math.ceil(a.shape[1] * b.shape[1] / _SUMMANDS)
        begin = 0
        # not of the columns of a: that would be a copy of them
        for part in b.tensor_split(num_parts, dim=1) if num_parts > 1 else [b]:
            rows = slice(begin, begin + part.shape[1])
            sums.T[rows].add_(product(part.T, a.T))
            begin = rows.stop
    else:
        # FlopCounterMode counts this, and not addmm_
        torch.addmm(sums, a.T, b, out=sums)
