"""Pairs on the wrong side of a margin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fusedml.engine.arguments import check_number
from fusedml.engine.pairs import widest_dtype
from fusedml.engine.routes.row_strips import RowStrips
from fusedml.engine.routes.window_lists import pairs_within
from fusedml.engine.routes.windows import Window, above, below
from fusedml.miners.base import BaseMiner, Mined, MinerOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PairMarginMiner(BaseMiner):
    """Positives with d > pos_margin, negatives with d < neg_margin.

    With a similarity: positives with s < pos_margin, negatives with s > neg_margin.

    Args:
        pos_margin: up to which a positive pair is easy.
        neg_margin: from which on a negative pair is easy.

    Records with ``collect_stats``: ``pos_pair_dist`` and ``neg_pair_dist``, the means over all
    pairs, 0 without any.

    Source: the pairs with a loss of Hadsell, Chopra and LeCun, "Dimensionality Reduction by
    Learning an Invariant Mapping", CVPR 2006.
    """

    pml_hooks = ("set_stats",)

    def __init__(
        self, pos_margin: float = 0.2, neg_margin: float = 0.8, **kwargs: Unpack[MinerOptions]
    ) -> None:
        super().__init__(**kwargs)
        check_number("pos_margin", pos_margin)
        check_number("neg_margin", neg_margin)
        self.pos_margin, self.neg_margin = pos_margin, neg_margin
        self.add_to_recordable_attributes(list_of_names=["pos_margin", "neg_margin"])
        self.add_to_recordable_attributes(
            list_of_names=["pos_pair_dist", "neg_pair_dist"], is_stat=True
        )

    def mine(
        self, embeddings: Tensor, labels: Tensor | None, ref_emb: Tensor, ref_labels: Tensor | None
    ) -> Mined:
        pairs = self.pairs_of(embeddings, labels, ref_emb, ref_labels)
        if self.collect_stats:
            self.pos_pair_dist, self.neg_pair_dist = mean_measures(pairs)
        largest_below = below(self.pos_margin if pairs.sign > 0 else self.neg_margin, pairs.like)
        smallest_above = above(self.neg_margin if pairs.sign > 0 else self.pos_margin, pairs.like)
        near, far = Window(high=largest_below), Window(low=smallest_above)
        windows = (near, far) if pairs.sign > 0 else (far, near)
        return pairs_within(pairs, lambda _: windows, self.check_size)


def mean_measures(pairs: RowStrips) -> tuple[float, float]:
    """The means of x over all positive and over all negative pairs, 0 without any."""
    sums = torch.zeros(2, dtype=widest_dtype(pairs.device), device=pairs.device)
    for strip in pairs.strips():
        for k, mask in enumerate((strip.positive, strip.negative)):
            sums[k] += torch.where(mask, strip.x, 0).sum(dtype=sums.dtype)
    counts = pairs.num_positives().sum(), pairs.num_negatives().sum()
    positive, negative = (
        (total / count.clamp(min=1)).item() for total, count in zip(sums, counts, strict=True)
    )
    return positive, negative
