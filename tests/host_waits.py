"""Where a step waits for the GPU, found without one: on tensors of PyTorch's meta device.

These have shapes and no numbers, and are no CPU tensors, so a step takes the way it takes on a GPU.
The kernels stay closed, as they wait for nothing; the operators that are made of them are run.  Who
needs a number, or a size that numbers decide, would wait for a GPU, and stops here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fusedml.engine import joint_rows, threshold_rows

DEVICE = "meta"

_MADE_OF_OTHERS = {**joint_rows.KERNELS, **threshold_rows.KERNELS}
_NUMBERS_DECIDE = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_OF_NUMBERS = (torch.tensor, torch.as_tensor, Tensor.new_tensor)
_INDEXING = ("aten::index", "aten::index_put", "aten::index_put_")


class HostWait(Exception):
    """A GPU would be waited for.

    within: the operator made of others that waits, or None.
    """

    within: str | None = None


class _OfOperators(TorchDispatchMode):
    """Raises HostWait for an operator that waits."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        namespace, _, name = func._schema.name.partition("::")
        if namespace == "fusedml" and name in _MADE_OF_OTHERS:
            with self:
                try:
                    return _MADE_OF_OTHERS[name](torch.ops.fusedml, *args)
                except HostWait as wait:
                    wait.within = name
                    raise
        if namespace == "fusedml":
            return func(*args, **kwargs)
        with self:
            result = func.decompose(*args, **kwargs)  # such as x.to(), without autograd
        if result is not NotImplemented:
            return result
        if _waits(func, args, kwargs):
            raise HostWait(func._schema.name)
        return func(*args, **kwargs)


def _waits(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    name = func._schema.name
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    there = [x for x in tensors if x.device.type == DEVICE]
    if name in ("aten::_to_copy", "aten::copy_"):
        devices = {x.device.type for x in tensors if x.numel()}
        if kwargs.get("device") is not None:
            devices.add(torch.device(kwargs["device"]).type)
        return len(devices) > 1 and tensors[-1].numel() > 0
    if name in _INDEXING:  # by a mask, whose number of elements nobody knows
        return any(x.dtype in (torch.bool, torch.uint8) for x in tree_leaves(args[1]) if _is(x))
    if "output_size" in kwargs:
        return False
    return bool(there) and bool(_NUMBERS_DECIDE.intersection(func.tags))


class _OfConstructors(TorchFunctionMode):
    """Raises HostWait where a tensor is made of Python's numbers, which no operator shows."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _OF_NUMBERS and result.device.type == DEVICE and result.numel():
            data = args[1] if func is Tensor.new_tensor else args[0]
            if not (isinstance(data, Tensor) and data.device.type == DEVICE):
                raise HostWait(func.__name__)
        return result


@contextmanager
def no_host_waits() -> Iterator[None]:
    """In which HostWait is raised where a GPU would be waited for."""
    with _OfConstructors(), _OfOperators():
        yield


def _is(x: Any) -> bool:
    return isinstance(x, Tensor)
