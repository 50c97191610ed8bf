"""Ranked list loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from fusedml.engine.arguments import check_number
from fusedml.engine.caller import warn_caller
from fusedml.formulas import pack
from fusedml.heads import PairSums
from fusedml.hyperparameters import Checks
from fusedml.losses.base import LossOptions, Promises
from fusedml.losses.sums import SumsLoss
from fusedml.terms import Term

if TYPE_CHECKING:
    from typing_extensions import Unpack

# pytorch-metric-learning's, added to the weight of each of the n pairs of a row
_LEAST_WEIGHT = 1e-5


def _share(name: str, value: float) -> None:
    """Accepts numbers from 0 to 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}")


class RankedListLoss(SumsLoss):
    """L_i = (1 - imbalance) mean_P(v_ip; e^{Tp v_ip}) + imbalance mean_N(v_in; e^{Tn v_in}).

    v_ip = d_ip - (alpha - margin) and v_in = alpha - d_in are the violations of the pairs for which
    they are above 0, the others do not count, and neither do pairs at distance 0;
    mean(v; w) = sum w v / (sum w + 1e-5 n) is their mean weighted by w, 0 if there is none.  The
    weights have gradients, too.  The mean over all n anchors.

    Args:
        margin: between the positives, which are to be closer than alpha - margin, and the
            negatives, which are to be farther than alpha.
        Tn: temperature of the weights of the negatives; e^{Tn alpha} must be finite.
        imbalance: in [0, 1], the weight of the negatives.
        alpha: None for 1 + margin / 2.
        Tp: temperature of the weights of the positives.

    ``margin``, ``Tn``, ``alpha`` and ``Tp`` are numbers: they have no gradient, and a compiled
    module is compiled again when they change.

    Raises:
        ValueError: without labels, with references, with an index tuple, or for an imbalance out of
            its range.

    Source: Wang et al., "Ranked List Loss for Deep Metric Learning", CVPR 2019.
    """

    hyperparameters: ClassVar[Checks] = {"imbalance": _share}
    switches = ("margin", "Tn", "alpha", "Tp")
    example_arguments: ClassVar[Mapping[str, float]] = {"margin": 0.4, "Tn": 1.0}
    takes_references = False
    takes_tuples = False
    promises = Promises({128: 6.0})
    value_jumps = True

    def __init__(
        self,
        margin: float,
        Tn: float,
        imbalance: float | Tensor = 0.5,
        alpha: float | None = None,
        Tp: float = 0,
        **kwargs: Unpack[LossOptions],
    ) -> None:
        super().__init__(**kwargs)
        for name, value in {"margin": margin, "Tn": Tn, "alpha": alpha, "Tp": Tp}.items():
            if name != "alpha" or value is not None:
                check_number(name, value)
        alpha = 1 + margin / 2 if alpha is None else alpha
        if Tp > 5 or Tn > 5:
            warn_caller(f"Tp and Tn above 5 may overflow, got {Tp} and {Tn}")
        self.margin = margin
        self.Tn = Tn
        self.imbalance = imbalance
        self.alpha = alpha
        self.Tp = Tp

    def logit(self, sign: float) -> Tensor:
        return pack(1.0, self.margin - self.alpha, -1.0, self.alpha)

    def make_terms(self) -> tuple[Term, ...]:
        # only where d > 0, too
        least, most = max(0.0, self.margin - self.alpha), float(self.alpha)
        return (
            Term(True, exponent=self.Tp, linear=1.0, floor=least),
            Term(True, exponent=self.Tp, constant=1.0, floor=least),
            Term(False, exponent=self.Tn, linear=1.0, floor=0.0, ceiling=most),
            Term(False, exponent=self.Tn, constant=1.0, floor=0.0, ceiling=most),
        )

    def head(self, sums: PairSums) -> Tensor:
        n = sums.sums.shape[1]
        of_positives, positives, of_negatives, negatives = sums.sums
        rest = _LEAST_WEIGHT * n
        imbalance = self.value_of("imbalance")
        return (1 - imbalance) * of_positives / (positives + rest) + imbalance * of_negatives / (
            negatives + rest
        )
