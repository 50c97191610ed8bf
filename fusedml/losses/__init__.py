"""Deep-metric-learning losses with pytorch-metric-learning's names, arguments and values.

A loss is a class in a module of this package; nothing lists them.  What the modules define is held
by name for the shared tests, the benchmarks and the tables: ``LOSSES``, of embeddings and labels,
``TWO_TOWER_LOSSES``, of two sets of features that belong together row by row, and
``DISTILLATION_LOSSES``, of embeddings and what a teacher makes of the same samples.
``CrossBatchMemory``, from ``fusedml.memory``, makes a loss of each.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from fusedml.engine.foreign import missing_name
from fusedml.hyperparameters import HyperparameterModule
from fusedml.losses.base import BaseLoss
from fusedml.losses.distillation import DistillationLoss
from fusedml.losses.two_towers import TwoTowerLoss


def _collect() -> dict[str, type[HyperparameterModule]]:
    """The losses that the modules of this package define, in the order of their names."""
    found: dict[str, type[HyperparameterModule]] = {}
    for module in iter_modules(__path__, f"{__name__}."):
        for name, value in vars(import_module(module.name)).items():
            is_own = inspect.isclass(value) and value.__module__ == module.name
            if is_own and issubclass(value, HyperparameterModule) and not name.startswith("_"):
                found[name] = value
    return dict(sorted(found.items()))


_CLASSES = _collect()
_COMPLETE = {name: loss for name, loss in _CLASSES.items() if not inspect.isabstract(loss)}
LOSSES: dict[str, type[BaseLoss]] = {
    name: loss for name, loss in _COMPLETE.items() if issubclass(loss, BaseLoss)
}
TWO_TOWER_LOSSES: dict[str, type[TwoTowerLoss]] = {
    name: loss for name, loss in _COMPLETE.items() if issubclass(loss, TwoTowerLoss)
}
DISTILLATION_LOSSES: dict[str, type[DistillationLoss]] = {
    name: loss for name, loss in _COMPLETE.items() if issubclass(loss, DistillationLoss)
}
# where pytorch-metric-learning has it; of losses, so after them
CrossBatchMemory = import_module("fusedml.memory").CrossBatchMemory
# the bases, too: they are there to be derived from
globals().update(_CLASSES)
__all__ = [  # noqa: PLE0604
    "DISTILLATION_LOSSES",
    "LOSSES",
    "TWO_TOWER_LOSSES",
    "CrossBatchMemory",
    *_CLASSES,
]

if not TYPE_CHECKING:  # which would take any name, else

    def __getattr__(name: str) -> Any:
        raise missing_name(__name__, name, __all__)
