"""Deep-metric-learning losses over all pairs of a batch, without the n x n matrix."""

from fusedml import distances, functional, losses, reducers
from fusedml.heads import RowStatistics
from fusedml.native import HAS_NATIVE, NATIVE_ERROR
from fusedml.statistics import pair_statistics

__all__ = [
    "HAS_NATIVE",
    "NATIVE_ERROR",
    "RowStatistics",
    "distances",
    "functional",
    "losses",
    "pair_statistics",
    "reducers",
]
