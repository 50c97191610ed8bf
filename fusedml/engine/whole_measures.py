"""Small problems that are reduced by something else than exponentials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fusedml.engine.whole import Side, WholeMatrix


class WholeMeasures(WholeMatrix):
    """The measures of a small problem's pairs, and what a subclass keeps of their reduction.

    are_unit: whether all rows are known to be unit rows.
    kept, constants: the attributes, tensors or None, and others, that its gradient needs.
    """

    constants: ClassVar[tuple[str, ...]]

    def measure_pairs(self) -> bool:
        """Both sides and x; False if there are no pairs or some are not finite."""
        if 0 in self.problem.shape:
            return False
        self.are_unit = self._measure_sides()
        return self.are_unit or all(math.isfinite(end.item()) for end in torch.aminmax(self.x))

    def parted(self, needs_logit: bool) -> tuple[WholeMeasures, list[Tensor | None]]:
        bare = object.__new__(type(self))
        for name in (*self.constants, "measure", "is_self", "dtypes"):
            setattr(bare, name, getattr(self, name))
        references = () if self.is_self else self.references
        own = (getattr(self, name) for name in self.kept)
        return bare, [*self.anchors, *references, *own]

    def joined(self, tensors: Sequence[Any]) -> WholeMeasures:
        size = len(Side._fields)
        whole = object.__new__(type(self))
        whole.__dict__ = self.__dict__.copy()
        whole.anchors = whole.references = Side(*tensors[:size])
        if not self.is_self:
            whole.references = Side(*tensors[size : 2 * size])
            size *= 2
        whole.__dict__.update(zip(self.kept, tensors[size:], strict=True))
        return whole
