"""Deep-metric-learning losses with pytorch-metric-learning's names, arguments and values."""

from fusedml.losses.base import BaseLoss
from fusedml.losses.formula_loss import FormulaLoss, PairwiseLoss, RowwiseLoss
from fusedml.losses.lifted_structure import GeneralizedLiftedStructureLoss, LiftedStructureLoss
from fusedml.losses.multi_similarity import MultiSimilarityLoss
from fusedml.losses.n_pairs import NPairsLoss
from fusedml.losses.nt_xent import NTXentLoss
from fusedml.losses.proxy_anchor import ProxyAnchorLoss
from fusedml.losses.sup_con import SupConLoss

# Every loss there is: the shared tests and the benchmarks go through it.
LOSSES: dict[str, type[BaseLoss]] = {
    loss.__name__: loss
    for loss in (
        MultiSimilarityLoss,
        GeneralizedLiftedStructureLoss,
        LiftedStructureLoss,
        ProxyAnchorLoss,
        NPairsLoss,
        SupConLoss,
        NTXentLoss,
    )
}

__all__ = [
    "LOSSES",
    "BaseLoss",
    "FormulaLoss",
    "GeneralizedLiftedStructureLoss",
    "LiftedStructureLoss",
    "MultiSimilarityLoss",
    "NPairsLoss",
    "NTXentLoss",
    "PairwiseLoss",
    "ProxyAnchorLoss",
    "RowwiseLoss",
    "SupConLoss",
]
