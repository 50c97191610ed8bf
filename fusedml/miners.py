"""No miners: importing this module says whose work here."""

from __future__ import annotations

raise ImportError(
    "fusedml has no miners: those of pytorch_metric_learning.miners work beside it, as every loss "
    "takes their index tuples; MultiSimilarityLoss(mining_epsilon=0.1) mines by itself, and faster",
    name=__name__,
)
