"""Miners with pytorch-metric-learning's names, arguments and index tuples, without a matrix.

Each is a class in a module of this package, and all that is special about it stands there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusedml.engine.foreign import missing_name
from fusedml.miners.angular import AngularMiner
from fusedml.miners.base import BaseMiner
from fusedml.miners.batch_easy_hard import BatchEasyHardMiner
from fusedml.miners.batch_hard import BatchHardMiner
from fusedml.miners.distance_weighted import DistanceWeightedMiner
from fusedml.miners.hdc import HDCMiner
from fusedml.miners.maximum_loss import MaximumLossMiner
from fusedml.miners.multi_similarity import MultiSimilarityMiner
from fusedml.miners.packaged_triplets import EmbeddingsAlreadyPackagedAsTriplets
from fusedml.miners.pair_margin import PairMarginMiner
from fusedml.miners.triplet_margin import TripletMarginMiner
from fusedml.miners.uniform_histogram import UniformHistogramMiner

__all__ = [
    "AngularMiner",
    "BaseMiner",
    "BatchEasyHardMiner",
    "BatchHardMiner",
    "DistanceWeightedMiner",
    "EmbeddingsAlreadyPackagedAsTriplets",
    "HDCMiner",
    "MaximumLossMiner",
    "MultiSimilarityMiner",
    "PairMarginMiner",
    "TripletMarginMiner",
    "UniformHistogramMiner",
]

if not TYPE_CHECKING:  # which would take any name, else

    def __getattr__(name: str) -> Any:
        raise missing_name(__name__, name, __all__)
