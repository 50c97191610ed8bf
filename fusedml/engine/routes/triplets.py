"""Losses of triplets (anchor, positive, negative): all by label, or those of an index tuple.

Each has the loss f(u + margin), u = y_n - y_p the difference of two hardnesses, f the hinge or the
softplus.  Those by label are summed without being listed, by whichever route the distance takes.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from fusedml import dense
from fusedml.distances import Measure, check_distance, fused_measure, sign_of
from fusedml.engine import autograd
from fusedml.engine.backends import DENSE, require_backend
from fusedml.engine.inputs import Batch
from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.positives import negative_pairs, positive_pairs
from fusedml.engine.precision import is_free_to_read, tile_dtype
from fusedml.engine.reductions.entries import numbered
from fusedml.engine.routes.blocks import BlockedPairs, recomputed, row_blocks
from fusedml.engine.routes.choice import listed_pairs, require_any_backend, warn_once
from fusedml.engine.routes.dense_pairs import DensePairs, matrix_of
from fusedml.engine.routes.few_listed import FewListedPairs
from fusedml.engine.routes.fused import normalized_within, without_shared_tensors
from fusedml.engine.routes.listed import ListedPairs, PairIndices
from fusedml.engine.routes.pair_losses import ListedLosses, PairLosses
from fusedml.engine.routes.swapped_triplets import swapped_triplets
from fusedml.formulas import Hyperparameter, nan_or_zero, pack
from fusedml.heads import softplus
from fusedml.reducers import RowSums, zero_loss

HINGE, SOFTPLUS = "hinge", "softplus"

# comparisons of positives' with negatives' anchors that cost less than sorting these
_FEW_COMPARED = 1 << 16
# the same in a compiled graph, where a list of unknown length costs calls and may break the graph
_MOST_COMPARED = 1 << 20
_CAPTURES_LISTS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)


class TripletFormula(NamedTuple):
    """f, and which triplets count: those with u >= at_least and u < below.

    form: "hinge" or "softplus".
    """

    margin: Hyperparameter
    form: str = HINGE
    at_least: Hyperparameter = -math.inf
    below: Hyperparameter = math.inf

    def numbers(self, low: float | None = None, high: float | None = None) -> Tensor:
        """(margin, at_least, above, below) of the triplets whose loss is between two bounds."""
        plain = self._plain(low, high)
        if plain is not None:
            return pack(*plain)
        numbers = pack(self.margin, self.at_least, -math.inf, self.below)
        margin, at_least, above, below = numbers.unbind()
        if low is not None:
            above = torch.maximum(above, pack(self._least(low))[0].to(margin) - margin)
        if high is not None:
            below = torch.minimum(below, pack(self._least(high))[0].to(margin) - margin)
        return torch.stack([margin, at_least.detach(), above.detach(), below.detach()])

    def _plain(self, low: float | None, high: float | None) -> tuple[float, ...] | None:
        """The same of hyper-parameters that are plain numbers, in one call; None of others."""
        margin, at_least, above, below = self.margin, self.at_least, -math.inf, self.below
        if isinstance(margin, Tensor) or isinstance(at_least, Tensor) or isinstance(below, Tensor):
            return None
        if low is not None:
            above = self._least(low) - margin
        if high is not None:
            below = min(below, self._least(high) - margin)
        return margin, at_least, above, below

    def poison(self) -> Tensor | None:
        """NaN of a margin that is NaN, with which no triplet counts; 0 of any other tensor."""
        return nan_or_zero(self.margin) if isinstance(self.margin, Tensor) else None

    def _least(self, loss: float) -> float:
        """What u + margin exceeds where there is more than that loss."""
        if self.form == HINGE:
            return -math.inf if loss < 0 else loss
        return -math.inf if loss <= 0 else loss + math.log(-math.expm1(-loss))

    def losses(self, u: Tensor) -> Tensor:
        """f(u + margin)."""
        u = u + self.margin
        return torch.relu(u) if self.form == HINGE else softplus(u)

    def counts(self, u: Tensor) -> Tensor | None:
        """Which of the triplets count; None for all."""
        if _is(self.at_least, -math.inf) and _is(self.below, math.inf):
            return None
        return (u >= self.at_least) & (u < self.below)


def _is(number: Hyperparameter, value: float) -> bool:
    return not isinstance(number, Tensor) and number == value


class RowTriplets(Protocol):
    """All triplets by label."""

    def sums(self, numbers: Tensor, form: str) -> RowSums:
        """Their losses added over each anchor, and how many count; see ``TripletFormula``."""


class FusedTriplets:
    """By the tiles, in bounded memory.  problem: with the embeddings as given."""

    def __init__(self, problem: PairProblem, measure: Measure, backend: str) -> None:
        problem = problem._replace(measure=measure.name, normalize=measure.normalize)
        self.backend = backend
        self.problem = normalized_within(problem, self.backend, tile_dtype(problem.anchors))
        if torch.compiler.is_compiling():
            self.problem = without_shared_tensors(self.problem)

    def sums(self, numbers: Tensor, form: str) -> RowSums:
        return RowSums(*autograd.triplet_losses(self.problem, numbers, form, self.backend))

    def mean(self, numbers: Tensor, form: str) -> Tensor | None:
        """The mean of the losses that count, 0-d; None where the sums tell it."""
        return autograd.mean_triplet_loss(self.problem, numbers, form, self.backend)


class BlockedTriplets(BlockedPairs):
    """Any other distance, by blocks of rows."""

    def sums(self, numbers: Tensor, form: str) -> RowSums:
        def of_block(block: slice, x: Tensor, numbers: Tensor) -> tuple[Tensor, ...]:
            masks = self._masks(block)
            return autograd.matrix_triplet_losses(x, *masks, numbers, self.sign, form)

        sums, counts = self._by_blocks(of_block, numbers)
        return RowSums(self.poisoned(sums), counts)


class DenseTriplets(DensePairs):
    """Every triplet in ordinary PyTorch: cubic work, a block of rows at a time."""

    def sums(self, numbers: Tensor, form: str) -> RowSums:
        problem = self.problem
        references = problem.anchors if problem.references is None else problem.references
        x = self.matrix(problem.anchors, references)
        y = self.sign * x.to(accumulation_dtype(x.dtype))
        positive, negative = dense.pair_masks(problem)
        most = int(positive.sum(1).max()) if positive.numel() else 0
        # positive x negative pairs of a row
        blocks = list(row_blocks(len(y), most * y.shape[1] // 8)) or [slice(0, 0)]

        def of_block(
            y: Tensor, positive: Tensor, negative: Tensor, numbers: Tensor
        ) -> tuple[Tensor, Tensor]:
            return dense.triplet_losses_of_rows(y, positive, negative, numbers, form)

        parts = []
        for block in blocks:
            arguments = y[block], positive[block], negative[block], numbers
            whole = len(blocks) == 1
            parts.append(of_block(*arguments) if whole else recomputed(of_block, *arguments))
        sums, counts = (torch.cat(part) for part in zip(*parts, strict=True))
        poison = zero_loss(problem.anchors.detach(), references.detach())
        return RowSums(sums + poison, counts)


def row_triplets(
    problem: PairProblem, distance: nn.Module, backend: str, owner: str, swaps: bool = False
) -> RowTriplets:
    """All triplets of a problem with the embeddings as given, by the route its distance takes.

    owner: the name of the loss, for the warning that a distance is not fused.  swaps: see
    ``TripletLosses``; not of the dense formula, which lists them.
    """
    measure, sign = fused_measure(distance), sign_of(distance)
    if backend == DENSE:
        return DenseTriplets(problem, distance if measure is None else matrix_of(measure), sign)
    if measure is not None:
        require_backend(backend, problem.anchors, "threshold_sums")
    else:
        require_any_backend(backend, distance)
        check_distance(distance)
        warn_once(owner, distance)
    if swaps:
        return swapped_triplets(problem, distance, measure, sign, backend)
    if measure is not None:
        return FusedTriplets(problem, measure, backend)
    return BlockedTriplets(problem, distance, sign, watched=distance.parameters())


class TripletIndices(NamedTuple):
    """Triplet k is made of the positives[k]-th positive pair and the negatives[k]-th negative.

    None of both: of the k-th of each kind.
    """

    pairs: PairIndices
    positives: Tensor | None
    negatives: Tensor | None


class TripletLosses:
    """The losses of the triplets of a batch, by one formula and one distance.

    swaps: whether a negative is measured against the positive, too, and the harder one counts.
    """

    def __init__(
        self,
        batch: Batch,
        formula: TripletFormula,
        distance: nn.Module,
        backend: str,
        owner: str,
        swaps: bool = False,
    ) -> None:
        self.batch, self.formula, self.swaps = batch, formula, swaps
        self.distance, self.backend, self.owner = distance, backend, owner

    def by_label(self) -> PairLosses | ListedLosses:
        """All of them."""
        problem = self.batch.problem()

        def listed() -> ListedLosses:
            return self._listed(joined(all_pairs(problem)))

        if self.swaps and (self.backend == DENSE or torch.compiler.is_compiling()):
            return listed()
        form, poison = self.formula.form, self.formula.poison()
        triplets = row_triplets(problem, self.distance, self.backend, self.owner, self.swaps)

        def sums(low: float | None = None, high: float | None = None) -> RowSums:
            found = triplets.sums(self.formula.numbers(low, high), form)
            return found if poison is None else found._replace(sums=found.sums + poison)

        def mean(low: float | None, high: float | None) -> Tensor | None:
            if not isinstance(triplets, FusedTriplets):
                return None
            found = triplets.mean(self.formula.numbers(low, high), form)
            return found if found is None or poison is None else found + poison.to(found.dtype)

        return PairLosses(sums, listed, "triplet", between=sums, mean=mean)

    def of_list(self, triplets: TripletIndices) -> PairLosses | ListedLosses:
        """Of these."""
        pairs = None if self.swaps else self._pairs(triplets.pairs)
        if not isinstance(pairs, FewListedPairs):
            return self._listed(triplets)
        few = pairs

        def mean(low: float | None, high: float | None) -> Tensor | None:
            formula = self.formula
            if formula.at_least != -math.inf or formula.below != math.inf:
                return None
            return few.mean_triplet(formula.margin, formula.form, triplets[1:], (low, high))

        def listed() -> ListedLosses:
            return self._listed(triplets)

        return PairLosses(None, listed, "triplet", mean=mean)

    def of_few(self, indices: PairIndices, joins: bool) -> PairLosses | ListedLosses:
        """Of few triplets: joins, see ``engine.few_triplets``."""

        def triplets() -> TripletIndices:
            return joined(indices) if joins else as_listed(indices)

        margin, form, at_least, below = self.formula
        is_plain = form == HINGE and not isinstance(margin, Tensor) and not self.swaps
        is_plain = is_plain and _is(at_least, -math.inf) and _is(below, math.inf)
        pairs = self._pairs(indices) if is_plain else None
        if not isinstance(pairs, FewListedPairs):
            return self.of_list(triplets())
        few, constant = pairs, float(margin)

        def mean(low: float | None, high: float | None) -> Tensor | None:
            return few.mean_few_triplets(constant, joins, (low, high))

        return PairLosses(None, lambda: self._listed(triplets()), "triplet", mean=mean)

    def _listed(self, triplets: TripletIndices) -> ListedLosses:
        indices, positives, negatives = triplets
        rows, p = (numbered(x, positives) for x in indices[:2])
        n = numbered(indices.negative_columns, negatives)
        x_p, x_n, pairs = self._measures(indices)
        x_p = numbered(x_p, positives)
        u = numbered(x_n, negatives) - x_p
        u = u if pairs.sign > 0 else -u
        if self.swaps:
            u = torch.maximum(u, self._of_positives(p, n) - pairs.sign * x_p)
        losses = pairs.poisoned(self.formula.losses(u))
        counted = self.formula.counts(u)
        if counted is not None:
            kept = counted.nonzero().squeeze(1)
            losses, rows, p, n = (x[kept] for x in (losses, rows, p, n))
        return ListedLosses(losses, rows, p, n)

    def _measures(self, indices: PairIndices) -> tuple[Tensor, Tensor, ListedPairs]:
        """Of the listed positives and negatives; and the pairs."""
        pairs = self._pairs(indices)
        x_p, x_n = pairs.both_measures()
        return x_p, x_n, pairs

    def _pairs(self, indices: PairIndices) -> ListedPairs:
        batch, options = self.batch, (self.distance, self.backend, self.owner)
        return listed_pairs(indices, batch.embeddings, batch.references, *options)

    def _of_positives(self, p: Tensor, n: Tensor) -> Tensor:
        """The hardness of negatives measured against positives."""
        batch = self.batch
        others = batch.embeddings if batch.references is None else batch.references
        none = p[:0]
        options = self.distance, self.backend, self.owner
        pairs = listed_pairs(PairIndices(p, n, none, none), others, None, *options)
        return pairs.sign * pairs.both_measures()[0]

    def of_all_pairs(self, indices: PairIndices) -> PairLosses:
        """Of all positives and negatives that are listed with the same anchor, in a compiled graph.

        With the matrix of all of them: nothing depends on the data.
        """

        def sums(low: float | None, high: float | None) -> RowSums:
            x_p, x_n, pairs = self._measures(indices)
            u = pairs.sign * (x_n - x_p[:, None])
            losses = self.formula.losses(u)
            is_one = indices.positive_rows[:, None] == indices.negative_rows
            _, at_least, above, below = self.formula.numbers(low, high).to(u)
            counted = is_one & (u >= at_least) & (u > above) & (u < below)
            sums = pairs.poisoned(torch.where(counted, losses, 0).sum(1))
            return RowSums(sums, counted.sum(1))

        def listed() -> ListedLosses:
            return self._listed(joined(indices))

        return PairLosses(lambda: sums(None, None), listed, "triplet", between=sums)


def all_pairs(problem: PairProblem) -> PairIndices:
    """All positive and negative pairs by label, row by row."""
    return PairIndices(*positive_pairs(problem), *negative_pairs(problem))


def may_be_compared(indices: PairIndices) -> bool:
    """Whether each positive is compared with each negative, in a graph where sizes may not depend
    on data: of short lists, and before PyTorch 2.13 of all.
    """
    if not torch.compiler.is_compiling():
        return False
    # not at import, for which it is slow
    from torch.fx.experimental.symbolic_shapes import guard_or_false  # noqa: PLC0415

    num_pairs = indices.positive_rows.shape[0] * indices.negative_rows.shape[0]
    return not _CAPTURES_LISTS or guard_or_false(num_pairs <= _MOST_COMPARED)


def as_listed(indices: PairIndices) -> TripletIndices:
    """Those of an index tuple of triplets."""
    return TripletIndices(indices, None, None)


def joined(indices: PairIndices) -> TripletIndices:
    """All that are made of a positive and a negative pair with the same anchor.

    In the order of the positive pairs, and then of the negative ones.
    """
    rows, negative_rows = indices.positive_rows, indices.negative_rows
    if is_free_to_read(rows) and rows.shape[0] * negative_rows.shape[0] <= _FEW_COMPARED:
        positives, negatives = torch.where(rows.unsqueeze(1) == negative_rows)
        return TripletIndices(indices, positives, negatives)
    # of a transposed list they are columns
    rows, negative_rows = rows.contiguous(), negative_rows.contiguous()
    order = torch.argsort(negative_rows, stable=True)
    begins, ends = (
        torch.searchsorted(negative_rows[order], rows, right=right) for right in (False, True)
    )
    of_pair = ends - begins
    positives = torch.repeat_interleave(of_pair)
    within = torch.arange(len(positives), device=rows.device)
    within = within - (of_pair.cumsum(0) - of_pair)[positives]
    return TripletIndices(indices, positives, order[begins[positives] + within])
