"""Multi-Similarity mining: the pairs that are nearly as hard as the hardest of the other kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from fusedml.distances import CosineSimilarity
from fusedml.engine.arguments import check_number
from fusedml.engine.routes.choice import Look
from fusedml.engine.routes.window_lists import pairs_within
from fusedml.engine.routes.windows import Window, Windows, above, below
from fusedml.miners.base import BaseMiner, Mined, MinerOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


class MultiSimilarityMiner(BaseMiner):
    """Positives with s - epsilon < max_N s, negatives with s + epsilon > min_P s.

    s is the similarity; with a distance in its place the signs change.  An anchor without
    positives (negatives) has no negatives (positives) either.  A row's pairs are listed by
    ascending similarity (distance).  ``MultiSimilarityLoss(mining_epsilon=epsilon)`` mines the same
    pairs by itself, without a list.

    An embedding is never mined against itself if ``ref_emb`` is the embeddings or ``ref_labels``
    the labels; in the second case pytorch-metric-learning lists such pairs, as both kinds.

    Args:
        epsilon: how much easier than the hardest pair of the other kind one may be.

    Source: Wang et al., "Multi-Similarity Loss with General Pair Weighting for Deep Metric
    Learning", CVPR 2019, eq. (11) and (12).
    """

    default_distance = CosineSimilarity

    def __init__(self, epsilon: float = 0.1, **kwargs: Unpack[MinerOptions]) -> None:
        super().__init__(**kwargs)
        check_number("epsilon", epsilon)
        self.epsilon = epsilon
        self.add_to_recordable_attributes(name="epsilon")

    def mine(
        self, embeddings: Tensor, labels: Tensor | None, ref_emb: Tensor, ref_labels: Tensor | None
    ) -> Mined:
        is_self = True if ref_emb is embeddings else None
        pairs = self.pairs_of(embeddings, labels, ref_emb, ref_labels, exclude_diagonal=is_self)
        is_similarity = pairs.sign > 0
        largest = pairs.largest((False, True))

        def windows(rows: Look) -> Windows:
            easiest, hardest = rows.extreme_measures(largest)
            # of distances the signs change
            of_positives = _beyond(hardest, not is_similarity, self.epsilon)
            return of_positives, _beyond(easiest, is_similarity, self.epsilon)

        return pairs_within(pairs, windows, self.check_size, ascending=True)

    def instead_of_list(self) -> str:
        return (
            f"MultiSimilarityLoss(mining_epsilon={self.epsilon}) mines the same pairs without a "
            "list"
        )


def _beyond(bounds: Tensor, is_above: bool, epsilon: float) -> Window:
    """x + epsilon above, or x - epsilon below, the bound of each row."""
    if is_above:
        return Window(low=above(bounds, bounds), shift=epsilon)
    return Window(high=below(bounds, bounds), shift=-epsilon)
