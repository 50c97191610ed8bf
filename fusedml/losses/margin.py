"""Margin loss."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from fusedml.distances import sign_of
from fusedml.engine.arguments import check_count, check_count_or_all, check_flag
from fusedml.engine.few_triplets import number_of_triplets
from fusedml.engine.foreign import check_local
from fusedml.engine.inputs import Batch, pair_indices, require_labels
from fusedml.engine.reductions.entries import numbered
from fusedml.engine.routes.choice import Pairs
from fusedml.engine.routes.distinct_pairs import PairIndices
from fusedml.engine.routes.few_listed import FewListedPairs
from fusedml.engine.routes.fused import FusedPairs
from fusedml.engine.routes.pair_losses import ListedLosses, PairLosses
from fusedml.engine.routes.proxies import check_class_labels
from fusedml.engine.routes.triplets import TripletIndices, all_pairs, as_listed, joined
from fusedml.engine.triplet_lists import random_triplets
from fusedml.formulas import Hyperparameter, SumFormula, pack
from fusedml.heads import PairSums
from fusedml.hyperparameters import Checks, any_number
from fusedml.losses.base import BaseLoss, IndicesTuple, LossOptions, Promises, already_reduced
from fusedml.reducers import DivisorReducer, LossInfo, RowSums
from fusedml.terms import hinge

if TYPE_CHECKING:
    from typing_extensions import Unpack


class MarginLoss(BaseLoss):
    """L_ipn = [d_ip - beta_i + margin]+ + [beta_i - d_in + margin]+.

    The sum over all triplets, divided by the number of its terms above 0 (DivisorReducer); 0
    without triplets.  With a similarity in place of the Euclidean distance the signs of d and
    beta change.  beta is one number, or one for the class of each anchor; where it is learnt
    nu beta is added, and for classes nu sum beta_i over all triplets / the divisor.

    All triplets by label are summed without being listed, whatever their number: the hinges of an
    anchor's pairs are, times the number of its other pairs; likewise those of an index tuple of
    pairs, all positives and negatives with the same anchor.  Triplets that are listed or drawn at
    random, and reducers other than the mean, the sum, DivisorReducer and AvgNonZeroReducer, take
    memory for each triplet.

    Args:
        margin: a distance.
        nu: the weight of beta, where that is learnt.
        beta: the distance between positives and negatives; a tensor is taken as it is.
        triplets_per_anchor: "all", or how many to draw at random, from PyTorch's generator.
        learn_beta: whether a number becomes a parameter, ``beta``, [1] or [num_classes].
        num_classes: None, or how many classes have a beta of their own; labels are integers in
            [0, num_classes).

    Raises:
        ValueError: for another ``triplets_per_anchor``; with ``num_classes`` without labels.
        LabelError: (a ValueError and RuntimeError) with ``num_classes`` for labels that are not
            integers in [0, num_classes), the range being checked on the CPU only.

    Source: Wu et al., "Sampling Matters in Deep Embedding Learning", ICCV 2017, section 4.
    """

    pml_hooks = ("compute_reg_loss", "initialize_beta")
    default_reducer = DivisorReducer
    hyperparameters: ClassVar[Checks] = {
        "margin": any_number,
        "nu": any_number,
        "beta": any_number,
    }
    vector_hyperparameters = frozenset({"beta"})
    switches = ("triplets_per_anchor", "learn_beta", "num_classes")
    promises = Promises({128: 6.0})
    value_jumps = True
    lists_sub_losses = True
    has_row_losses = False

    def __init__(
        self,
        margin: float | Tensor = 0.2,
        nu: float | Tensor = 0,
        beta: float | Tensor = 1.2,
        triplets_per_anchor: int | str = "all",
        learn_beta: bool = False,
        num_classes: int | None = None,
        **kwargs: Unpack[LossOptions],
    ) -> None:
        super().__init__(**kwargs)
        self.margin = margin
        self.nu = nu
        self.learn_beta = check_flag("learn_beta", learn_beta)
        self.num_classes = None if num_classes is None else check_count("num_classes", num_classes)
        self.beta = self._initial(beta)
        self.triplets_per_anchor = check_count_or_all("triplets_per_anchor", triplets_per_anchor)

    def _initial(self, beta: float | Tensor) -> float | Tensor:
        if isinstance(beta, Tensor) or not (self.learn_beta or self.num_classes):
            return beta
        # on the default device, as the parameters of a module are
        device = torch.get_default_device()
        values = torch.full((self.num_classes or 1,), float(beta), device=device)
        return nn.Parameter(values) if self.learn_beta else values

    def _sub_loss_names(self) -> list[str]:
        return ["margin_loss", "beta_reg_loss"]

    def _beta_of_rows(self, batch: Batch) -> Tensor | None:
        """[n], or None where all have the same."""
        beta = self.tensor_of("beta")
        if beta is None or beta.numel() == 1:
            return None
        check_local(beta, "beta")
        require_labels(batch.embeddings, batch.labels)
        assert batch.labels is not None
        check_class_labels(batch.labels, beta.numel())
        return beta.to(batch.embeddings.device)[batch.labels.long()]

    def _common_beta(self) -> Hyperparameter:
        beta = self.value_of("beta")
        if self.tensor_of("beta") is not None:
            return beta
        # pytorch-metric-learning holds a number in float32, whatever the embeddings are
        if isinstance(beta, Tensor):  # compiled: an input, on the CPU
            return beta.float().double()
        return ctypes.c_float(beta).value

    def _formula(self, beta: Tensor | None) -> SumFormula:
        """z+ = d - beta + margin and z- = beta - d + margin.  beta: that of the rows, or None."""
        margin = self.value_of("margin")
        common = 0.0 if beta is not None else self._common_beta()

        def logit(sign: float) -> Tensor:
            return pack(-sign, sign * common + margin, sign, margin - sign * common)

        sign = sign_of(self.distance)
        shifts = None if beta is None else torch.stack([sign * beta, -sign * beta])
        return SumFormula(logit, (hinge(True), hinge(False)), shifts)

    def sub_losses(
        self, batch: Batch, indices_tuple: IndicesTuple | None
    ) -> dict[str, LossInfo | PairLosses]:
        beta, indices, is_of_pairs = self._beta_of_rows(batch), None, False
        if indices_tuple is not None:
            indices, is_of_pairs = pair_indices(indices_tuple, batch), len(indices_tuple) == 4
            if number_of_triplets(indices, is_of_pairs) == 0:
                return self.losses_without_pairs(batch)
        triplets = self._triplets(batch, self._formula(beta), indices, is_of_pairs)
        return {
            "margin_loss": PairLosses(
                triplets.rows,
                triplets.listed,
                "triplet",
                between=triplets.between,
                divisor=triplets.divisor,
                quotient=triplets.quotient,
            ),
            "beta_reg_loss": self._regularization(batch, beta, triplets),
        }

    def _triplets(
        self, batch: Batch, formula: SumFormula, indices: PairIndices | None, is_of_pairs: bool
    ) -> _Triplets:
        """Of an index tuple's, or None for all or some by label."""
        if is_of_pairs or (indices is None and self.triplets_per_anchor == "all"):
            return _OfPairs(self, batch, formula, indices)
        if indices is None:
            assert isinstance(self.triplets_per_anchor, int)  # else "all"
            indices = random_triplets(batch.problem(), self.triplets_per_anchor)
        return _Listed(self, batch, formula, as_listed(indices))

    def _regularization(
        self, batch: Batch, beta: Tensor | None, triplets: _Triplets
    ) -> LossInfo | PairLosses:
        if not self.learn_beta:
            return already_reduced(batch.embeddings.new_zeros(()))
        nu = self.value_of("nu")
        if beta is None:
            has_triplets = triplets.numbers().sum() > 0
            return already_reduced(nu * self.value_of("beta") * has_triplets)
        return _of_rows(nu * beta, triplets)


class _Triplets:
    """What the triplets of a batch make of their terms."""

    def rows(self) -> RowSums:
        """Losses and numbers of the triplets of each anchor."""
        raise NotImplementedError

    def numbers(self) -> Tensor:
        """The numbers of the triplets of each anchor, or of each triplet 1."""
        numbers = self.rows().counts
        assert numbers is not None
        return numbers

    def divisor(self) -> Tensor:
        """The number of terms above 0, each as often as there are triplets with it."""
        raise NotImplementedError

    def quotient(self) -> Tensor | None:
        """The sum of the losses, divided by the divisor, 0-d; None where both are to be found."""
        return None

    def listed(self) -> ListedLosses:
        raise NotImplementedError

    def between(self, low: float | None, high: float | None) -> RowSums:
        losses = self.listed().losses
        kept = _is_between(losses, low, high)
        return RowSums(torch.where(kept, losses, 0), kept.long())


def _is_between(losses: Tensor, low: float | None, high: float | None) -> Tensor:
    # negated, so that NaN stays in
    kept = torch.ones_like(losses, dtype=torch.bool)
    if low is not None:
        kept = kept & ~(losses <= low)
    return kept if high is None else kept & ~(losses >= high)


class _OfPairs(_Triplets):
    """All triplets that the pairs make, from sums over those of each row.

    indices: the pairs of a tuple, or None for those by label.
    """

    def __init__(
        self, loss: MarginLoss, batch: Batch, formula: SumFormula, indices: PairIndices | None
    ) -> None:
        self.loss, self.batch, self.formula, self.indices = loss, batch, formula, indices
        self._sums: PairSums | None = None

    @property  # no cached_property: torch.compile cannot enter the lock of Python 3.11's
    def sums(self) -> PairSums:
        if self._sums is None:
            self._sums = self._pairs().pair_sums(self.formula)
        return self._sums

    def _pairs(self) -> Pairs:
        loss, batch, indices = self.loss, self.batch, self.indices
        if indices is None:
            return loss.pairs_of(batch.problem())
        return loss.listed_pairs(indices, batch)

    def quotient(self) -> Tensor | None:
        pairs = self._pairs()
        if self.loss.learn_beta or not isinstance(pairs, FewListedPairs | FusedPairs):
            return None
        return pairs.mean_terms(self.formula, (1.0, 1.0), "triplets")

    def rows(self) -> RowSums:
        sums = self.sums
        total = (sums.sums * self._repeats()).sum(0)
        return RowSums(total, sums.num_positive * sums.num_negative)

    def _repeats(self) -> Tensor:
        """In how many triplets each row's positive pairs, and its negative ones, are: [2, n]."""
        return torch.stack([self.sums.num_negative, self.sums.num_positive])

    def divisor(self) -> Tensor:
        return (self.sums.counts * self._repeats()).sum()

    def between(self, low: float | None, high: float | None) -> RowSums:
        if low != 0 or high is not None:
            return super().between(low, high)
        # a triplet's loss is 0 where both of its terms are
        sums = self.sums
        of_positives, of_negatives = sums.counts
        zero = (sums.num_positive - of_positives) * (sums.num_negative - of_negatives)
        return RowSums(self.rows().sums, self.numbers() - zero)

    def listed(self) -> ListedLosses:
        indices = all_pairs(self.batch.problem()) if self.indices is None else self.indices
        return _Listed(self.loss, self.batch, self.formula, joined(indices)).listed()


class _Listed(_Triplets):
    """Triplets of listed pairs."""

    def __init__(
        self,
        loss: MarginLoss,
        batch: Batch,
        formula: SumFormula,
        triplets: TripletIndices,
    ) -> None:
        self.loss, self.formula, self.triplets = loss, formula, triplets
        self.pairs = loss.listed_pairs(triplets.pairs, batch)
        self._terms: tuple[Tensor, Tensor] | None = None
        self._losses: ListedLosses | None = None

    @property
    def terms(self) -> tuple[Tensor, Tensor]:
        """Both terms of each triplet."""
        if self._terms is None:
            formula, measures = self.formula, self.pairs.both_measures()
            logit, terms = formula.logit(self.pairs.sign), []
            indices, *places = self.triplets
            for side, (x, rows) in enumerate(zip(measures, indices[::2], strict=True)):
                scale, shift = logit.to(x)[2 * side : 2 * side + 2]
                z = scale * x + shift
                if formula.shifts is not None:
                    z = z + formula.shifts[side].to(z)[rows]
                terms.append(numbered(torch.relu(z), places[side]))
            self._terms = terms[0], terms[1]
        return self._terms

    def quotient(self) -> Tensor | None:
        if self.triplets.positives is not None or self.loss.learn_beta:
            return None
        if not isinstance(self.pairs, FewListedPairs):
            return None
        # the sums over triplets are those over both lists
        return self.pairs.mean_terms(self.formula, (1.0, 1.0), "together")

    def listed(self) -> ListedLosses:
        if self._losses is None:
            self._losses = self._made()
        return self._losses

    def _made(self) -> ListedLosses:
        (rows, columns, _, negatives), of_positives, of_negatives = self.triplets
        rows, columns = numbered(rows, of_positives), numbered(columns, of_positives)
        negatives = numbered(negatives, of_negatives)
        of_positives, of_negatives = self.terms
        losses = self.pairs.poisoned(of_positives + of_negatives)
        return ListedLosses(losses, rows, columns, negatives)

    def rows(self) -> RowSums:
        losses = self.listed().losses
        return RowSums(losses, torch.ones_like(losses, dtype=torch.int64))

    def divisor(self) -> Tensor:
        of_positives, of_negatives = self.terms
        return (of_positives > 0).sum() + (of_negatives > 0).sum()


def _of_rows(values: Tensor, triplets: _Triplets) -> PairLosses:
    """values[i] for each triplet of anchor i."""

    def rows() -> RowSums:
        return between(None, None)

    def between(low: float | None, high: float | None) -> RowSums:
        if isinstance(triplets, _Listed):
            of_each = listed().losses
            numbers = torch.ones_like(of_each, dtype=torch.int64)
        else:
            of_each, numbers = values, triplets.numbers()
        kept = _is_between(of_each, low, high)
        return RowSums(torch.where(kept, of_each * numbers, 0), numbers * kept)

    def listed() -> ListedLosses:
        anchors = triplets.listed().rows
        return ListedLosses(values[anchors], anchors, anchors)

    return PairLosses(rows, listed, "element", between=between, divisor=triplets.divisor)
