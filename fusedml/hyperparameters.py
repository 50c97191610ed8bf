"""Hyper-parameters of a loss: numbers to the user, tensors to torch.compile."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from numbers import Real
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fusedml.formulas import Hyperparameter

Check = Callable[[str, float], None]
Checks = Mapping[str, Check]


def any_number(name: str, value: float) -> None:
    """Accepts every number but NaN."""
    if math.isnan(value):
        raise ValueError(f"{name} must be a number, got {value}")


def positive_number(name: str, value: float) -> None:
    """Accepts numbers above 0."""
    if not value > 0:
        raise ValueError(f"{name} must be > 0, got {value}")


def as_hyperparameter(name: str, value: Any, check: Check) -> Hyperparameter:
    """A number as a 0-d float64 tensor on the CPU; a floating-point tensor as it is.

    Raises TypeError if ``value`` is neither, and ValueError if it is not 0-d or not allowed.
    """
    if isinstance(value, Tensor):
        if value.numel() != 1 or not value.is_floating_point():
            raise ValueError(
                f"{name} must be a number or a floating-point tensor with one element, got "
                f"{value.dtype} of shape {tuple(value.shape)}"
            )
        return value if isinstance(value, nn.Parameter) else value.reshape(())
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number or a tensor, got {type(value).__name__}")
    check(name, float(value))
    return torch.tensor(float(value), dtype=torch.float64)


class HyperparameterModule(nn.Module):
    """A module whose hyper-parameters can change from step to step without recompilation.

    ``module.alpha = 3`` stores a 0-d float64 tensor outside of the state_dict, so torch.compile
    sees an input whose value it does not specialise on; ``module.alpha`` reads the number.  A
    tensor is kept as it is and receives a gradient if it requires one; an ``nn.Parameter`` is
    registered under the same name.

    hyperparameters: {name: check of a number}, set by subclasses.  optional_hyperparameters: names
    that may also be None.
    """

    hyperparameters: ClassVar[Checks] = {}
    optional_hyperparameters: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in cls.__dict__.get("hyperparameters", {}):
            setattr(cls, name, property(partial(_read, name=name)))

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[str, Tensor | None] = {}
        self._numbers: dict[str, float] = {}  # those of the values that were given as numbers

    def __setattr__(self, name: str, value: Any) -> None:
        check = type(self).hyperparameters.get(name)
        if check is None:
            super().__setattr__(name, value)
            return
        self._parameters.pop(name, None)
        self._values.pop(name, None)
        self._numbers.pop(name, None)
        if value is None and name in self.optional_hyperparameters:
            self._values[name] = None
        elif isinstance(value, nn.Parameter):
            self._parameters[name] = as_hyperparameter(name, value, check)  # type: ignore[assignment]
        else:
            self._values[name] = as_hyperparameter(name, value, check)  # type: ignore[assignment]
            if not isinstance(value, Tensor):
                self._numbers[name] = float(value)

    def value_of(self, name: str) -> Hyperparameter:
        """The hyper-parameter as a 0-d tensor; as a number if it is one and no graph is traced."""
        value = self.optional_value_of(name)
        assert value is not None  # only optional ones can be None
        return value

    def optional_value_of(self, name: str) -> Hyperparameter | None:
        """``value_of``, or None if it is optional and not set."""
        if name in self._numbers and not torch.compiler.is_compiling():
            return self._numbers[name]
        if name in self._values:
            return self._values[name]
        parameter = self._parameters[name]
        return None if parameter is None else parameter.reshape(())


def _read(module: HyperparameterModule, name: str) -> float | Tensor | None:
    value = module._values[name] if name in module._values else module._parameters[name]
    if value is None or value.requires_grad:
        return value
    return value.item()
