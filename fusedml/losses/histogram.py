"""Histogram loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fusedml.distances import CosineSimilarity
from fusedml.engine.arguments import check_number
from fusedml.engine.few_triplets import number_of_triplets
from fusedml.engine.inputs import Batch, pair_indices
from fusedml.engine.pairs import PairProblem
from fusedml.engine.positives import num_positives
from fusedml.engine.reductions.entries import add_at
from fusedml.engine.routes.distinct_pairs import PairIndices, first_listed
from fusedml.engine.routes.histograms import Grid, pair_histograms, ranked_problem
from fusedml.engine.routes.pair_losses import PairLosses
from fusedml.losses.base import BaseLoss, IndicesTuple, LossOptions, Promises, already_reduced
from fusedml.reducers import LossInfo

if TYPE_CHECKING:
    from typing_extensions import Unpack


class HistogramLoss(BaseLoss):
    """L = sum_k h-_k sum_{l <= k} h+_l, h+ and h- the soft histograms of the cosines of all pairs.

    Each is divided by the number of its pairs, unordered; the edges are -1, -1 + delta, ..., 1.
    L estimates the probability that a negative pair is more alike than a positive one.  A pair of
    two samples that both have no positive is left out; 0 without a triplet.  A cosine of 1 lies in
    the last bin, where pytorch-metric-learning raises; its bins are found in float32.

    An index tuple lists triplets, or pairs that make them where the anchors agree; each of their
    pairs counts once, in any order.

    Args:
        n_bins: number of the bins; None: 2 / delta, or 100.
        delta: width of the bins; None: 2 / n_bins.

    Raises:
        ValueError: without labels, with references, or if delta is not 2 / n_bins.
        DistanceError: (a ValueError and AssertionError) for a distance that is no cosine.

    Source: Ustinova and Lempitsky, "Learning Deep Embeddings with Histogram Loss", NIPS 2016.
    """

    pml_hooks = ("compute_density",)
    default_distance = required_distance = CosineSimilarity
    takes_references = False
    has_second_derivative = False
    takes_label_sets = False
    needs_labels = True
    agrees_with_pml = False
    has_single_losses = False
    gradient_jumps = True  # at the edges of the bins
    switches = ("n_bins", "delta")
    promises = Promises(relative={128: 10.0})

    def __init__(
        self,
        n_bins: int | None = None,
        delta: float | None = None,
        **kwargs: Unpack[LossOptions],
    ) -> None:
        super().__init__(**kwargs)
        for name, value in (("n_bins", n_bins), ("delta", delta)):
            if value is not None:
                check_number(name, value)
        if n_bins is not None and delta is not None and delta != 2 / n_bins:
            raise ValueError(f"delta must be 2 / n_bins = {2 / n_bins}, got {delta}")
        if (n_bins is not None and n_bins < 1) or (delta is not None and not 0 < delta <= 2):
            raise ValueError(
                f"n_bins must be > 0 and delta in (0, 2], got n_bins={n_bins} and delta={delta}"
            )
        self.n_bins = n_bins
        self.delta = delta

    def grid(self) -> Grid:
        """The lowest edge, the width of the bins, and the number of edges."""
        width = self.delta or 2 / (self.n_bins or 100)
        return -1.0, width, round(1 + 2 / width)

    def sub_losses(
        self, batch: Batch, indices_tuple: IndicesTuple | None
    ) -> dict[str, LossInfo | PairLosses]:
        if indices_tuple is not None:
            indices = pair_indices(indices_tuple, batch)
            if number_of_triplets(indices, len(indices_tuple) == 4) == 0:
                return self.losses_without_pairs(batch)
            return {"loss": already_reduced(self._of_list(batch, indices))}
        problem = ranked_problem(batch)
        positives = num_positives(problem)
        is_alone = positives == 0
        negatives = batch.embeddings.shape[0] - 1 - positives
        of_alone = is_alone.sum()
        # of two samples without positives: one label for all of them, whose pairs are left out
        labels = problem.anchor_labels.masked_fill(is_alone, -1)
        histograms = self._histograms(problem._replace(anchor_labels=labels))
        numbers = positives.sum(), negatives.sum() - of_alone * (of_alone - 1)
        h_positive, h_negative = (
            h / number.clamp(min=1) for h, number in zip(histograms, numbers, strict=True)
        )
        return {"loss": already_reduced(_reversed(h_positive, h_negative))}

    def _histograms(self, problem: PairProblem) -> tuple[Tensor, Tensor]:
        name = type(self).__name__
        histograms = pair_histograms(problem, self.distance, self.backend, name, self.grid(), False)
        return histograms[0, 0], histograms[1, 0]

    def _of_list(self, batch: Batch, indices: PairIndices) -> Tensor:
        pairs, size = self.listed_pairs(indices, batch), batch.embeddings.shape[0]
        # both kinds at once: rows of negatives, and their bins, follow those of positives
        rows, columns = indices.ends().chunk(2)
        is_negative = rows.new_zeros(rows.shape)
        is_negative[indices.positive_rows.shape[0] :] = 1
        counted = _of_both_kinds(rows, columns, is_negative, size)
        lowest, width, num_edges = self.grid()
        x = torch.cat(pairs.both_measures())
        z = (x - lowest) / width
        cells = torch.floor(z.detach()).clamp(0, num_edges - 2)
        upper, cells = z - cells, cells.long().add_(is_negative, alpha=num_edges)
        upper, lower = torch.where(counted, torch.stack([upper, 1 - upper]), 0).unbind()
        h = add_at(add_at(x.new_zeros(2 * num_edges), cells, lower), cells + 1, upper)
        number = counted.to(x.dtype)
        numbers = torch.stack([(number * (1 - is_negative)).sum(), (number * is_negative).sum()])
        means = h.view(2, num_edges) / numbers.clamp(min=1)[:, None]
        return pairs.poisoned(_reversed(*means.unbind()))


def _of_both_kinds(rows: Tensor, columns: Tensor, is_negative: Tensor, size: int) -> Tensor:
    """Which listed pairs are of anchors that have pairs of both kinds: each once, in whichever
    direction it is listed.
    """
    of_kind = rows + size * is_negative
    has_kind = rows.new_zeros(2 * size, dtype=torch.bool).index_fill_(0, of_kind, True)
    has_other = has_kind[(of_kind + size) % (2 * size)]
    first, second = torch.minimum(rows, columns), torch.maximum(rows, columns)
    keys = torch.where(has_other, first + size * is_negative, 2 * size), second
    return has_other & first_listed(keys, size)


def _reversed(positive: Tensor, negative: Tensor) -> Tensor:
    """The probability that a negative is more alike than a positive, from their histograms."""
    return (negative * positive.cumsum(0)).sum()
