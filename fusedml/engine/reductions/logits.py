"""The logits of a formula as the sweeps compute them: numbers, without autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from fusedml.curves import CURVES


class Logits:
    """z = scale y + shift for each kind of pair, with Python numbers.

    y is the measure x, or what a curve bends it to, see ``fusedml.curves``.
    offsets: None, or what is added to the logits of each column of x, [c].
    """

    def __init__(self, logit: Tensor, curve: str = "affine", offsets: Tensor | None = None) -> None:
        self.offsets = offsets
        numbers = logit.tolist()
        self.curve = CURVES[curve]
        self.numbers = {True: (numbers[0], numbers[1]), False: (numbers[2], numbers[3])}
        self._remaining = {
            kind: self.curve.remaining(*self.numbers[kind], kind) for kind in self.numbers
        }

    def of(self, is_positive: bool) -> tuple[float, float]:
        """(scale, shift) of one kind of pair."""
        return self._remaining[is_positive]

    def bends(self, is_positive: bool) -> bool:
        """Whether y is not x on one kind of pair."""
        return self.curve.bends(is_positive)

    def bent(self, x: Tensor, is_positive: bool, out: Tensor | None = None) -> Tensor:
        """y of one kind of pair, in ``out``; x itself without a bend."""
        return self.curve.bent(x, *self.numbers[is_positive], is_positive, out)

    def logits(self, x: Tensor, is_positive: bool, out: Tensor | None = None) -> Tensor:
        """z of one kind of pair, in ``out``."""
        scale, shift = self.of(is_positive)
        z = torch.mul(self.bent(x, is_positive, out), scale, out=out)
        if shift:
            z.add_(shift)
        return z if self.offsets is None else z.add_(self.offsets)

    def slope(self, x: Tensor, is_positive: bool, out: Tensor | None = None) -> Tensor | float:
        """dz/dx of one kind of pair, in ``out`` unless it is a number."""
        return self.curve.slope(x, *self.numbers[is_positive], is_positive, out)

    def number_gradient(self, of_logits: Tensor, x: Tensor, is_positive: bool) -> Tensor:
        """(dL/dscale, dL/dshift) from dL/dz of pairs of one kind, 0 for all others; [2]."""
        return self.curve.number_gradient(of_logits, x, *self.numbers[is_positive], is_positive)
