"""Hyper-parameters of a loss: numbers to the user, inputs to torch.compile."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from fusedml.engine.arguments import is_number
from fusedml.engine.foreign import check_local
from fusedml.engine.pairs import accumulation_dtype
from fusedml.engine.precision import owned
from fusedml.formulas import Hyperparameter

if TYPE_CHECKING:
    from typing_extensions import Self

Check = Callable[[str, float], None]
Checks = Mapping[str, Check]


LEAST_TEMPERATURE = 1e-38
LEAST_STEP_TEMPERATURE = 1e-36


def any_number(name: str, value: float) -> None:
    """Accepts every number but NaN."""
    if math.isnan(value):
        raise ValueError(f"{name} must be a number, got {value}")


def positive_number(name: str, value: float) -> None:
    """Accepts numbers above 0."""
    if not value > 0:
        raise ValueError(f"{name} must be > 0, got {value}")


def angle(name: str, value: float) -> None:
    """Accepts numbers that have a sine."""
    if not math.isfinite(value):
        raise ValueError(f"{name} must be an angle, a finite number, got {value}")


def finite_temperature(name: str, value: float) -> None:
    """Accepts finite temperatures: what is divided by it is multiplied by it again."""
    temperature(name, value)
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")


def temperature(name: str, value: float) -> None:
    """Accepts numbers above 0 whose reciprocal is a number in float32."""
    _check_temperature(name, value, LEAST_TEMPERATURE, "is finite in float32")


def temperature_of_steps(name: str, value: float) -> None:
    """Accepts numbers above 0 that divide cosines to less than what marks an absent pair."""
    _check_temperature(name, value, LEAST_STEP_TEMPERATURE, "is below what marks absent pairs")


def _check_temperature(name: str, value: float, least: float, why: str) -> None:
    positive_number(name, value)
    if value < least:
        raise ValueError(f"{name} must be >= {least}, so that 1 / {name} {why}, got {value}")


def as_hyperparameter(name: str, value: Any, check: Check) -> Hyperparameter:
    """A number as a float, a floating-point tensor with one element as a 0-d tensor.

    Raises TypeError if ``value`` is neither, and ValueError if it is not allowed.
    """
    if isinstance(value, Tensor):
        _check_tensor(name, value)
        return _as_0d(name, value)
    return _as_float(name, value, check)


def as_parameter(name: str, value: Any, check: Check) -> Tensor:
    """A number as a parameter, to be learnt; a tensor as it is.  Raises as above."""
    if isinstance(value, Tensor):
        return value
    return nn.Parameter(torch.tensor(_as_float(name, value, check)))


def _as_float(name: str, value: Any, check: Check) -> float:
    if not is_number(value):
        raise TypeError(f"{name} must be a number or a tensor, got {type(value).__name__}")
    check(name, float(value))
    return float(value)


def _check_tensor(name: str, value: Tensor, is_vector: bool = False) -> None:
    if is_vector and value.ndim == 1 and value.is_floating_point():
        return
    if value.numel() != 1 or not value.is_floating_point():
        raise ValueError(
            f"{name} must be a number or a floating-point tensor with one element, got "
            f"{value.dtype} of shape {tuple(value.shape)}"
        )


def _as_0d(name: str, value: Tensor) -> Tensor:
    """Without dimensions, and at least in float32: 1 / temperature overflows in float16."""
    check_local(value, name)
    return owned(value.reshape(()).to(accumulation_dtype(value.dtype)))


class _Number:
    """A number: as Python reads it, and as an input of compiled graphs that may change.

    Immutable, so copies of a module may share it.  ``value`` is what it is: of the tensor, which
    stays on the CPU whatever the default device, no copy is ever made or moved.
    """

    def __init__(self, value: float) -> None:
        self.value = value
        self.tensor = torch.tensor(value, dtype=torch.float64, device="cpu")

    def __reduce__(self) -> tuple[type[_Number], tuple[float]]:
        return _Number, (self.value,)


_ELSEWHERE = object()


class _Accessor(property):
    """The class attribute of a hyper-parameter."""


def _key(name: str) -> str:
    """Where a module keeps what is no parameter and no buffer."""
    return f"_hyperparameter_{name}"


def _accessor(name: str, check: Check, is_optional: bool) -> _Accessor:
    key = _key(name)

    def get(module: HyperparameterModule) -> float | Tensor | None:
        for tensors in (module._parameters, module._buffers):
            if name in tensors:
                return tensors[name]
        held = getattr(module, key)
        return held.value if isinstance(held, _Number) else held

    def set_(module: HyperparameterModule, value: Any) -> None:
        if isinstance(value, Tensor):
            _check_tensor(name, value, name in module.vector_hyperparameters)
        elif value is not None or not is_optional:
            value = _Number(_as_float(name, value, check))
        module.__dict__[key] = value

    def delete(module: HyperparameterModule) -> None:
        delattr(module, key)

    doc = f"{name}: a float, or the tensor, parameter or buffer that was assigned."
    return _Accessor(get, set_, delete, doc)


class HyperparameterModule(nn.Module):
    """A module whose hyper-parameters can change from step to step without recompilation.

    ``module.alpha = 3`` is read as 3.0 and stays outside of the state_dict; torch.compile does not
    specialise on its value.  A tensor is read as the tensor that was assigned, and receives a
    gradient if it requires one; parameters and buffers are registered under their names, as in any
    module.  A number may take the place of a parameter or buffer, and they that of a number.

    hyperparameters: {name: check of a number}, set by subclasses.  optional_hyperparameters: names
    that may also be None.  vector_hyperparameters: names that may also be a number for each class.
    """

    hyperparameters: ClassVar[Checks] = {}
    optional_hyperparameters: ClassVar[frozenset[str]] = frozenset()
    vector_hyperparameters: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, check in cls.__dict__.get("hyperparameters", {}).items():
            if name not in cls.__dict__:
                setattr(cls, name, _accessor(name, check, name in cls.optional_hyperparameters))

    def __setattr__(self, name: str, value: Any) -> None:
        accessor = getattr(type(self), name, None)
        # a subclass, or torch.nn.utils.parametrize, may have a property of its own there
        if isinstance(accessor, _Accessor):
            if isinstance(value, nn.Parameter | nn.Buffer):
                _check_tensor(name, value, name in self.vector_hyperparameters)
                self.__dict__.pop(_key(name), None)
            elif not (isinstance(value, Tensor) and self._is_registered(name)):
                # itself: PyTorch 2.12 compiles neither accessor.__set__ nor what nn.Module does
                assert accessor.fset is not None  # every accessor has one
                accessor.fset(self, value)
                self._parameters.pop(name, None)
                self._buffers.pop(name, None)
                return
        super().__setattr__(name, value)

    def _is_registered(self, name: str) -> bool:
        return name in self._parameters or name in self._buffers

    def __copy__(self) -> Self:
        """A copy whose hyper-parameters can be set without changing the original's."""
        made = object.__new__(type(self))
        made.__dict__ = self.__dict__.copy()
        for tensors in ("_parameters", "_buffers"):
            made.__dict__[tensors] = self.__dict__[tensors].copy()
        return made

    def extra_repr(self) -> str:
        """The hyper-parameters, as ``print(module)`` shows them."""
        shown = []
        for name in self.hyperparameters:
            value = getattr(self, name)
            is_value = (
                isinstance(value, Tensor) and value.device.type == "cpu" and value.numel() == 1
            )
            shown.append(f"{name}={value.item():g}" if is_value else f"{name}={value}")
        return ", ".join(shown)

    def value_of(self, name: str) -> Hyperparameter:
        """The hyper-parameter as a number, or as a 0-d tensor where it is one or is compiled."""
        held = self.__dict__.get(f"_hyperparameter_{name}")
        if isinstance(held, _Number) and not torch.compiler.is_compiling():
            return held.value
        value = self.optional_value_of(name)
        assert value is not None  # only optional ones can be None
        return value

    def tensor_of(self, name: str) -> Tensor | None:
        """The tensor, parameter or buffer that was assigned; None of a number."""
        held = self.__dict__.get(_key(name), _ELSEWHERE)
        if held is _ELSEWHERE:
            held = getattr(self, name)
        return held if isinstance(held, Tensor) else None

    def optional_value_of(self, name: str) -> Hyperparameter | None:
        """``value_of``, or None if it is optional and not set."""
        held = self.__dict__.get(_key(name), _ELSEWHERE)
        if isinstance(held, _Number):
            return held.tensor if torch.compiler.is_compiling() else held.value
        if held is _ELSEWHERE:  # a parameter, a buffer, or what a subclass makes of it
            held = getattr(self, name)
        return _as_0d(name, held) if isinstance(held, Tensor) else held
