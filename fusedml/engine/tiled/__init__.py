"""The operators in tiled pure PyTorch: bounded memory on every device.

``plan`` cuts a problem into tiles, ``statistics`` is the forward, ``gradient`` the backward,
``reduced`` drives the reductions of ``engine.reductions``, ``sums`` one of them,
``positive_pairs`` the second sweep of losses with one term per positive pair, ``triplets`` each
anchor's negatives against its positives, ``ranks`` against each of them on its own, ``thresholds``
what both need of the tiles, ``histograms`` soft counts by measure, ``listed`` the explicit index
tuples, ``groups`` the classes with several vectors, ``divergences`` two
matrices at once.
"""

from fusedml.engine.tiled.divergences import row_divergences, row_divergences_gradient
from fusedml.engine.tiled.gradient import pair_gradient, two_sided_gradient
from fusedml.engine.tiled.groups import group_gradient, group_statistics
from fusedml.engine.tiled.histograms import pair_histograms, pair_histograms_gradient
from fusedml.engine.tiled.listed import pair_values, pair_values_gradient
from fusedml.engine.tiled.positive_pairs import positive_pair_gradient, positive_pair_losses
from fusedml.engine.tiled.ranks import (
    matrix_rank_gradient,
    matrix_rank_losses,
    rank_gradient,
    rank_losses,
)
from fusedml.engine.tiled.statistics import (
    pair_extrema,
    pair_statistics,
    row_losses,
    two_sided_statistics,
)
from fusedml.engine.tiled.sums import pair_sums, pair_sums_gradient
from fusedml.engine.tiled.threshold_sums import threshold_gradient, threshold_sums
from fusedml.engine.tiled.triplets import (
    matrix_triplet_gradient,
    matrix_triplet_losses,
    triplet_gradient,
    triplet_losses,
)

__all__ = [
    "group_gradient",
    "group_statistics",
    "matrix_rank_gradient",
    "matrix_rank_losses",
    "matrix_triplet_gradient",
    "matrix_triplet_losses",
    "pair_extrema",
    "pair_gradient",
    "pair_histograms",
    "pair_histograms_gradient",
    "pair_statistics",
    "pair_sums",
    "pair_sums_gradient",
    "pair_values",
    "pair_values_gradient",
    "positive_pair_gradient",
    "positive_pair_losses",
    "rank_gradient",
    "rank_losses",
    "row_divergences",
    "row_divergences_gradient",
    "row_losses",
    "threshold_gradient",
    "threshold_sums",
    "triplet_gradient",
    "triplet_losses",
    "two_sided_gradient",
    "two_sided_statistics",
]
