"""Intra-pair variance loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from fusedml.distances import CosineSimilarity
from fusedml.engine.routes.choice import Pairs
from fusedml.engine.routes.few_listed import FewListedPairs
from fusedml.engine.routes.fused import FusedPairs
from fusedml.engine.routes.pair_losses import ListedLosses, PairLosses, Together
from fusedml.engine.routes.term_losses import term_losses
from fusedml.formulas import Hyperparameter, SumFormula, beside, pack
from fusedml.hyperparameters import Checks, any_number
from fusedml.losses.base import LossOptions, Promises
from fusedml.losses.sums import TermwiseLoss
from fusedml.reducers import mean
from fusedml.terms import identity, squared_hinge

if TYPE_CHECKING:
    from typing_extensions import Unpack


class IntraPairVarianceLoss(TermwiseLoss):
    """L = mean_P [(1 - pos_eps) mu_P - s]+^2 + mean_N [s - (1 + neg_eps) mu_N]+^2.

    mu_P and mu_N are the means of s over all positive and over all negative pairs, which have
    gradients, too; the loss keeps the similarities of each kind together.  With a distance d in
    place of the similarity the losses are [d - (1 + pos_eps) mu_P]+^2 and
    [(1 - neg_eps) mu_N - d]+^2.  It is a regulariser, to be added to another loss.

    Args:
        pos_eps: the share of the mean by which positives may fall short of it.
        neg_eps: the share of the mean by which negatives may exceed it.

    Source: Yu et al., "Deep Metric Learning with Intra-Pair Variance Constraint" (Intra-Pair
    Variance Loss), ACM MM 2019.
    """

    pml_hooks = ("variance_with_eps",)
    default_distance = CosineSimilarity
    hyperparameters: ClassVar[Checks] = {"pos_eps": any_number, "neg_eps": any_number}
    stands_alone = False
    promises = Promises({128: 6.0})
    terms = (squared_hinge(True), squared_hinge(False))

    def __init__(
        self,
        pos_eps: float | Tensor = 0.01,
        neg_eps: float | Tensor = 0.01,
        **kwargs: Unpack[LossOptions],
    ) -> None:
        super().__init__(**kwargs)
        self.pos_eps = pos_eps
        self.neg_eps = neg_eps

    def logit(self, sign: float) -> Tensor:
        raise NotImplementedError("the logits depend on the means over all pairs")

    def _logit(self, sign: float, pos_mean: Tensor, neg_mean: Tensor) -> Tensor:
        pos_share = beside(pos_mean, self._share(sign, True))
        neg_share = beside(neg_mean, self._share(sign, False))
        return pack(-sign, sign * pos_share * pos_mean, sign, -sign * neg_share * neg_mean)

    def losses_of_terms(
        self, pairs: Pairs, formula: SumFormula, sign: float, may_repeat: bool
    ) -> list[PairLosses]:
        if isinstance(pairs, FewListedPairs):
            both = Together(2, self._together(pairs, sign, None))
            few = [self._few_losses(pairs, kind, may_repeat) for kind in (True, False)]
            return [replace(each, together=both) for each in few]
        # once they are asked for; others may ask in a block that is computed again
        means = [] if isinstance(pairs, FusedPairs) else [*self._means(pairs)]

        def logit(sign: float) -> Tensor:
            if not means:
                means.extend(self._means(pairs))
            return self._logit(sign, *means)

        losses = term_losses(pairs, formula._replace(logit=logit), sign, may_repeat=may_repeat)
        if not isinstance(pairs, FusedPairs):
            return losses
        both = Together(len(losses), self._together(pairs, sign, losses[0].together))
        return [replace(each, together=both) for each in losses]

    def _together(
        self, pairs: FusedPairs | FewListedPairs, sign: float, otherwise: Together | None
    ) -> Callable[[float | None, float | None], Tensor | None]:
        """See ``PairLosses``: of all losses without looking for their means first."""
        given = [self._share(sign, kind) for kind in (True, False)]
        shares = [share for share in given if not isinstance(share, Tensor)]

        def together(low: float | None, high: float | None) -> Tensor | None:
            value = None
            if low is None and high is None and len(shares) == len(given):
                value = pairs.centred_means(pack(-sign, sign), self.terms, shares)
            return otherwise.mean(low, high) if value is None and otherwise is not None else value

        return together

    def _few_losses(self, pairs: FewListedPairs, kind: bool, may_repeat: bool) -> PairLosses:
        """By the list, in as few calls as will do."""

        def listed() -> ListedLosses:
            x, i, j = pairs.measures_of(kind)
            share = beside(x, self._share(pairs.sign, kind))
            if isinstance(share, Tensor):
                gap = x - share * mean(x)
            else:
                gap = torch.sub(x, mean(x), alpha=share)
            is_least = kind == (pairs.sign > 0)  # positives are to be as similar as the share
            beyond = gap.clamp(max=0) if is_least else torch.relu(gap)
            return ListedLosses(beyond.square(), i, j)

        return PairLosses(None, listed, "pos_pair" if kind else "neg_pair", may_repeat)

    def _share(self, sign: float, kind: bool) -> Hyperparameter:
        """The share of the mean that positives, or negatives, are compared with."""
        eps = self.value_of("pos_eps" if kind else "neg_eps")
        return 1 - sign * eps if kind else 1 + sign * eps

    def _means(self, pairs: Pairs) -> Tensor:
        """Of the measures of all positives and of all negatives."""
        measured = SumFormula(lambda _: pack(1.0, 0.0, 1.0, 0.0), (identity(True), identity(False)))
        sums = pairs.pair_sums(measured)
        numbers = torch.stack([sums.num_positive.sum(), sums.num_negative.sum()])
        return sums.sums.sum(1) / numbers.clamp(min=1)
