"""Deep-metric-learning losses over all pairs of a batch, without the n x n matrix."""

import sys
from typing import TYPE_CHECKING, Any

from fusedml import distances, distributed, functional, losses, miners, reducers
from fusedml._version import __version__
from fusedml.engine.foreign import TheirModules, missing_name
from fusedml.heads import RowStatistics
from fusedml.memory import CrossBatchMemory, MomentumQueue
from fusedml.multi_hot import multi_hot
from fusedml.native import HAS_NATIVE, NATIVE_ERROR
from fusedml.statistics import pair_statistics

__all__ = [
    "HAS_NATIVE",
    "NATIVE_ERROR",
    "CrossBatchMemory",
    "MomentumQueue",
    "RowStatistics",
    "__version__",
    "distances",
    "distributed",
    "functional",
    "losses",
    "miners",
    "multi_hot",
    "pair_statistics",
    "reducers",
]

if TheirModules not in sys.meta_path:
    sys.meta_path.append(TheirModules)

if not TYPE_CHECKING:  # which would take any name, else

    def __getattr__(name: str) -> Any:
        raise missing_name(__name__, name, __all__)
