"""What a reduction does, and what becomes of its weights: the same for all that drives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from fusedml.engine.reductions.entries import Entries
from fusedml.engine.reductions.logits import Logits


class Reduction(Protocol):
    """A few numbers per line.  What they are at the end, and what their gradients are, it says
    itself; entries come in any order, each pair once for each line it feeds.
    """

    @property
    def logits(self) -> Logits: ...

    def add(self, entries: Entries) -> object:
        """Forward: takes in some entries."""

    def weights(self, entries: Entries, is_positive: bool) -> Tensor | None:
        """Backward: dL/dz of the entries of one kind, 0 of all others, as all their lines together
        see them; None if all are 0, which is known without measuring.
        """


def pair_weights(
    reduction: Reduction,
    entries: Entries,
    add_logit: Callable[[Tensor, bool], None] | None = None,
) -> Tensor | None:
    """dL/dx of the entries; None if all are 0.

    add_logit: receives (dL/dscale, dL/dshift), [2], of each kind of pair.
    """
    total: Tensor | None = None
    for kind in entries.kinds():
        weight = reduction.weights(entries, kind)
        if weight is None:
            continue
        logits, x = reduction.logits, entries.x
        if add_logit is not None:
            add_logit(logits.number_gradient(weight, x, kind), kind)
        slope = logits.slope(x, kind, entries.scratch(1))
        if not isinstance(slope, float) or slope != 1:
            weight.mul_(slope)
        total = weight if total is None else total.add_(weight)
    return total
