"""Negatives drawn so that their distances are spread evenly."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fusedml.engine.arguments import check_number
from fusedml.engine.label_sets import are_sets
from fusedml.engine.pairs import widest_dtype
from fusedml.engine.positives import positives_of
from fusedml.engine.routes.row_strips import RowStrips
from fusedml.miners.base import BaseMiner, Mined, MinerOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


class DistanceWeightedMiner(BaseMiner):
    """Triplets whose negatives are drawn with a probability in proportion to 1 / q(d).

    log q(d) = (dim - 2) log d + (dim - 3) / 2 log(1 - d^2 / 4) is the density of the distances of
    points spread evenly over the sphere; d is at least ``cutoff``, and negatives with
    d >= ``nonzero_loss_cutoff`` are never drawn.  Each anchor has as many triplets as its class has
    members among the references, with positives drawn evenly; one without positives, or without a
    negative that may be drawn, has none.  The order is by label, then by anchor; of several labels
    a row by anchor.

    Drawn by the inverse of the distribution: each draw takes the first column at which the running
    sum of the row's weights exceeds a uniform number times their sum.  Two uniform numbers per
    triplet, drawn by ``torch.rand`` on the CPU, are all the randomness: the same triplets follow
    ``torch.manual_seed`` on every device, but where a number lies within rounding of a step.
    Weights are taken relative to the row's largest, so that no row vanishes whose weights are
    small beside those of others; pytorch-metric-learning drops it.

    Args:
        cutoff: distances below count as this one.
        nonzero_loss_cutoff: distances from which on no negative is drawn.
        distance: LpDistance(p=2, power=1, normalize_embeddings=True), which is the default.

    Source: Wu et al., "Sampling Matters in Deep Embedding Learning", ICCV 2017, section 4.
    """

    needs_euclidean_distance = True

    def __init__(
        self,
        cutoff: float = 0.5,
        nonzero_loss_cutoff: float = 1.4,
        **kwargs: Unpack[MinerOptions],
    ) -> None:
        super().__init__(**kwargs)
        check_number("cutoff", cutoff)
        check_number("nonzero_loss_cutoff", nonzero_loss_cutoff)
        self.cutoff = float(cutoff)
        self.nonzero_loss_cutoff = float(nonzero_loss_cutoff)
        self.add_to_recordable_attributes(list_of_names=["cutoff", "nonzero_loss_cutoff"])

    def mine(
        self, embeddings: Tensor, labels: Tensor | None, ref_emb: Tensor, ref_labels: Tensor | None
    ) -> Mined:
        pairs = self.pairs_of(embeddings, labels, ref_emb, ref_labels)
        positives, labels = positives_of(pairs.problem), pairs.problem.anchor_labels
        if are_sets(labels):
            rows = torch.arange(len(labels), device=labels.device)
        else:
            rows = torch.argsort(labels, stable=True)
        rows = rows[(pairs.num_positives() > 0)[rows] & (pairs.num_negatives() > 0)[rows]]
        draws = positives.counts[rows]  # the anchor itself is a member of its class
        size = int(draws.sum())
        self.check_size(size)
        dtype, device = widest_dtype(pairs.device), pairs.device
        of_positives = torch.rand(size, dtype=torch.float64, device="cpu").to(device, dtype)
        of_negatives = torch.rand(size, dtype=torch.float64, device="cpu").to(device, dtype)
        negatives = self._drawn(pairs, embeddings.shape[1], rows, draws, of_negatives)
        anchors = rows.repeat_interleave(draws)
        (found,) = torch.where(negatives >= 0)
        anchors, of_positives = anchors[found], of_positives[found]
        return anchors, positives.drawn(anchors, of_positives), negatives[found]

    def _drawn(
        self, pairs: RowStrips, dimension: int, rows: Tensor, draws: Tensor, uniform: Tensor
    ) -> Tensor:
        """The columns of the negatives of each row, draws[k] of row k; -1 where there is none."""
        drawn = torch.empty_like(uniform, dtype=torch.int64)
        begin = done = 0
        for strip in pairs.strips(rows):
            number = draws[begin : begin + len(strip.lines)]
            begin += len(number)
            weights = self._log_weights(strip.x, dimension)
            weights.masked_fill_(~strip.negative, -math.inf)
            largest = weights.amax(1, keepdim=True)
            has_any = largest > -math.inf
            weights = torch.exp(weights - largest.masked_fill(~has_any, 0))
            running = weights.cumsum(1, dtype=uniform.dtype)
            total = running[:, -1:]
            # one row of draws for each anchor, as long as the longest
            is_drawn = torch.arange(int(number.max()), device=rows.device) < number[:, None]
            these = slice(done, done + int(number.sum()))
            done = these.stop
            aims = uniform.new_zeros(is_drawn.shape)
            aims[is_drawn] = uniform[these]
            aims = torch.minimum(aims * total, torch.nextafter(total, torch.zeros_like(total)))
            columns = torch.searchsorted(running, aims, right=True)
            drawn[these] = columns.masked_fill_(~has_any, -1)[is_drawn]
        return drawn

    def _log_weights(self, distances: Tensor, dimension: int) -> Tensor:
        """log(1 / q(d)), -inf where a negative is never drawn."""
        d = distances.clamp(min=self.cutoff)
        weights = (2.0 - dimension) * d.log()
        weights -= (dimension - 3) / 2 * torch.log(1 - 0.25 * d.square())
        is_out = ~weights.isfinite() | (d >= self.nonzero_loss_cutoff)
        return weights.masked_fill_(is_out, -math.inf)
