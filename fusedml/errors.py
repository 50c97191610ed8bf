"""Errors about the values in labels and index tuples, and about distances.

Each is a ValueError and also what pytorch-metric-learning raises in its place, so that code written
for either catches it.
"""

from __future__ import annotations


class LabelError(ValueError, RuntimeError):
    """A proxy loss got labels that are not class numbers in [0, num_classes)."""


class PairConflictError(ValueError, AssertionError):
    """An index tuple lists the same pair as positive and as negative."""


class DistanceError(ValueError, AssertionError):
    """A loss got a distance of another kind than it is defined for."""


class TupleError(ValueError, AssertionError):
    """A miner made an index tuple whose tensors do not belong together."""
