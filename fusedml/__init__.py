"""Deep-metric-learning losses over all pairs of a batch, without the n x n matrix."""

from fusedml import distances, functional, losses, reducers
from fusedml.heads import RowStatistics
from fusedml.statistics import pair_statistics

__all__ = [
    "RowStatistics",
    "distances",
    "functional",
    "losses",
    "pair_statistics",
    "reducers",
]
