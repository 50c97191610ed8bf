"""What a fake kernel promises, held against the real one, whatever the layout of the inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only


def transposed(x: Tensor) -> Tensor:
    """The same numbers, the last dimension first in memory."""
    return x.mT.contiguous().mT if x.ndim > 1 else x


def sliced(x: Tensor) -> Tensor:
    """The same numbers with gaps between them."""
    wide = x.new_zeros(*x.shape[:-1], 2 * x.shape[-1] + 1)
    return wide[..., 1::2].copy_(x)


def expanded(x: Tensor) -> Tensor:
    """The first row, or element, over and over in the same memory."""
    return x[:1].expand(x.shape)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": Tensor.contiguous,
    "transposed": transposed,
    "sliced": sliced,
    "expanded": expanded,
}


def _kind(x: Tensor) -> tuple[object, ...]:
    return tuple(x.shape), x.dtype, x.device, x.stride()


def assert_promises_kept(operator: Callable[..., Any], args: list[Any]) -> None:
    """Asserts that real and fake outputs agree in all layouts of the tensors among ``args``."""
    for layout in LAYOUTS.values():
        laid_out = [layout(x) if isinstance(x, Tensor) and x.ndim else x for x in args]
        _assert_same_kind(operator, laid_out)


def _assert_same_kind(operator: Callable[..., Any], args: list[Any]) -> None:
    real = operator(*args)
    with FakeTensorMode() as mode:
        fake = operator(*tree_map_only(Tensor, mode.from_tensor, args))
    for ours, promised in zip(_as_tuple(real), _as_tuple(fake), strict=True):
        assert _kind(ours) == _kind(promised)
        assert ours.is_contiguous()


def _as_tuple(x: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (x,) if isinstance(x, Tensor) else x
