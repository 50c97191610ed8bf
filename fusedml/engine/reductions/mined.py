"""The Multi-Similarity mining rule among given pairs: by the extrema of each line."""

from __future__ import annotations

import math

from torch import Tensor

from fusedml.engine.reductions.entries import GivenEntries


def mined(
    positives: GivenEntries, negatives: GivenEntries, epsilon: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Which of the pairs are mined, bool, in the shape of the entries.

    Their x is hardness y.  A positive is kept if y - epsilon < max_N y of its line, a negative if
    y + epsilon > min_P y.  Wang et al., CVPR 2019, eq. (11) and (12).
    """
    (side,), (other,) = positives.sides, negatives.sides
    y, z = positives.x, negatives.x
    hardest_positive = -side.largest(positives.only_(-y, True, -math.inf))
    hardest_negative = other.largest(negatives.only_(z.clone(), False, -math.inf))
    kept = y - epsilon < side.spread(hardest_negative), z + epsilon > other.spread(hardest_positive)
    return _both(positives.masks[0], kept[0]), _both(negatives.masks[1], kept[1])


def _both(counted: Tensor | None, kept: Tensor) -> Tensor:
    return kept if counted is None else counted & kept
