"""From the measure of a pair to its logit: what a formula's four numbers are numbers of.

A formula says (scale+, shift+, scale-, shift-), and names a curve.  For each kind of pair

    z = scale f(x) + shift g(x),

f(x) = x and g(x) = 1 unless the curve says otherwise.  The curves that do are of cosines, x in
[-1, 1] up to rounding.  A curve has a twin in ``csrc/logits``, and is called ``name`` there.

Backwards take a curve's ``slope`` for dz/dx: Circle's is not the derivative of its value.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

Number = float | Tensor


class Curve:
    """z = scale x + shift on both kinds of pair: the base of all curves, which bend one or both.

    scale and shift are those of the pair's kind: Python numbers in the sweeps, which have no
    autograd; in ``logits`` 0-d tensors, or a shift for each column.
    """

    name: ClassVar[str] = "affine"
    #: whether the slope is the derivative of the value
    has_derivative: ClassVar[bool] = True

    def bends(self, is_positive: bool) -> bool:
        """Whether the logits of that kind are other than affine."""
        return False

    def logits(self, x: Tensor, scale: Number, shift: Number, is_positive: bool) -> Tensor:
        """z, in PyTorch whose gradient is the slope."""
        if isinstance(scale, float) and abs(scale) == 1:  # one call less
            return x + shift if scale > 0 else torch.rsub(x, shift)
        return x * scale + shift

    def slope(
        self, x: Tensor, scale: float, shift: float, is_positive: bool, out: Tensor | None = None
    ) -> Tensor | float:
        """dz/dx, in ``out`` unless it is a number."""
        return scale

    def number_gradient(
        self, of_logits: Tensor, x: Tensor, scale: float, shift: float, is_positive: bool
    ) -> Tensor:
        """(dL/dscale, dL/dshift) from dL/dz of pairs of one kind, 0 for all others; [2]."""
        return torch.stack([torch.dot(of_logits.flatten(), x.flatten()), of_logits.sum()])

    # A sweep computes z = scale' y + shift' with y = bent(x), and no running maximum where the
    # largest |scale' y| is small.  Without a bend y = x.

    def remaining(self, scale: float, shift: float, is_positive: bool) -> tuple[float, float]:
        """(scale', shift')."""
        return (1.0, 0.0) if self.bends(is_positive) else (scale, shift)

    def largest(self, x: float, scale: float, shift: float, is_positive: bool) -> float:
        """The largest |scale' y|, x being the largest |x|."""
        return abs(scale) * x

    def bent(
        self, x: Tensor, scale: float, shift: float, is_positive: bool, out: Tensor | None = None
    ) -> Tensor:
        """y, in ``out``, which may be x; without a bend x itself."""
        return x


class Circle(Curve):
    """z+ = scale+ [1 + m - x]+ (x - (1 - m)),  z- = scale- [x + m]+ (x - m),  the zeros being
    -shift / scale.

    The brackets are constants of the backward.  With u = 1 - x on positives and u = x on negatives
    both are |scale| (max(u, -m)^2 - m^2), which rounds once less.

    Source: Sun et al., "Circle Loss: A Unified Perspective of Pair Similarity Optimization",
    CVPR 2020, eq. (6) and (8).
    """

    name = "circle"
    has_derivative = False

    def bends(self, is_positive: bool) -> bool:
        return True

    def _bracket(self, x: Tensor, scale: Number, shift: Number, is_positive: bool) -> Tensor:
        """[1 + m - x]+ or [x + m]+."""
        minus_zero = shift / scale
        return torch.relu((2 + minus_zero) - x if is_positive else x - minus_zero)

    def logits(self, x: Tensor, scale: Number, shift: Number, is_positive: bool) -> Tensor:
        with torch.no_grad():
            bracket = self._bracket(x, scale, shift, is_positive)
        return bracket * (x * scale + shift)

    def slope(
        self, x: Tensor, scale: float, shift: float, is_positive: bool, out: Tensor | None = None
    ) -> Tensor:
        minus_zero = shift / scale
        if is_positive:
            bracket = torch.neg(x, out=out).add_(2 + minus_zero)
        else:
            bracket = torch.sub(x, minus_zero, out=out)
        return bracket.clamp_(min=0).mul_(scale)

    def number_gradient(
        self, of_logits: Tensor, x: Tensor, scale: float, shift: float, is_positive: bool
    ) -> Tensor:
        of_affine = of_logits * self._bracket(x, scale, shift, is_positive)
        return super().number_gradient(of_affine, x, scale, shift, is_positive)

    @staticmethod
    def _square(scale: float, shift: float, is_positive: bool) -> tuple[float, float]:
        """|scale| and m of the square."""
        return (-scale, 1 + shift / scale) if is_positive else (scale, -shift / scale)

    # y = |scale| (max(u, -m)^2 - 1/2) lies in the middle of what negatives have
    def remaining(self, scale: float, shift: float, is_positive: bool) -> tuple[float, float]:
        factor, m = self._square(scale, shift, is_positive)
        return 1.0, factor * (0.5 - m * m)

    def largest(self, x: float, scale: float, shift: float, is_positive: bool) -> float:
        factor, m = self._square(scale, shift, is_positive)
        u = max(1 + x if is_positive else x, -m)
        return abs(factor) * max(0.5, u * u - 0.5)

    def bent(
        self, x: Tensor, scale: float, shift: float, is_positive: bool, out: Tensor | None = None
    ) -> Tensor:
        factor, m = self._square(scale, shift, is_positive)
        u = torch.neg(x, out=out).add_(1) if is_positive else x
        root = torch.clamp(u, min=-m, out=out)
        return torch.mul(root, root, out=out).sub_(0.5).mul_(factor)


class AngularMargin(Curve):
    """z+ = scale+ x + shift+ sqrt(1 - x^2),  z- = scale- x + shift-.

    With scale+ = cos m and shift+ = sin m the positives have z = cos(theta - m), theta their angle.
    1 - x^2 is at least the dtype's epsilon, and the slope of the root 0 below: it is infinite at
    x = 1, where it meets a dx/da of length sqrt(1 - x^2).

    Source: Yu & Tao, "Deep Metric Learning With Tuplet Margin Loss", ICCV 2019.
    """

    name = "angular_margin"

    def bends(self, is_positive: bool) -> bool:
        return is_positive

    @staticmethod
    def _square(x: Tensor) -> Tensor:
        """1 - x^2 before the clamp."""
        return (1 - x) * (1 + x)

    def logits(self, x: Tensor, scale: Number, shift: Number, is_positive: bool) -> Tensor:
        if not is_positive:
            return super().logits(x, scale, shift, is_positive)
        return x * scale + shift * self._square(x).clamp(min=torch.finfo(x.dtype).eps).sqrt()

    def slope(
        self, x: Tensor, scale: float, shift: float, is_positive: bool, out: Tensor | None = None
    ) -> Tensor | float:
        if not is_positive:
            return scale
        square = self._square(x)
        # 1 / sqrt, and 0 where the clamp holds the root
        inverse = torch.where(square >= torch.finfo(x.dtype).eps, square, math.inf).rsqrt_()
        slope = inverse.mul_(x).mul_(-shift).add_(scale)
        return slope if out is None else out.copy_(slope)

    def number_gradient(
        self, of_logits: Tensor, x: Tensor, scale: float, shift: float, is_positive: bool
    ) -> Tensor:
        of_scale, of_shift = super().number_gradient(of_logits, x, scale, shift, is_positive)
        if is_positive:
            root = self.logits(x, 0.0, 1.0, True)
            of_shift = torch.dot(of_logits.flatten(), root.flatten())
        return torch.stack([of_scale, of_shift])

    def largest(self, x: float, scale: float, shift: float, is_positive: bool) -> float:
        if not is_positive:
            return abs(scale) * x
        return math.hypot(scale, shift) * max(1.0, x)

    def bent(
        self, x: Tensor, scale: float, shift: float, is_positive: bool, out: Tensor | None = None
    ) -> Tensor:
        if not is_positive:
            return x
        z = self.logits(x, scale, shift, is_positive)
        return z if out is None else out.copy_(z)


AFFINE, CIRCLE, ANGULAR_MARGIN = Curve(), Circle(), AngularMargin()
CURVES: dict[str, Curve] = {curve.name: curve for curve in (AFFINE, CIRCLE, ANGULAR_MARGIN)}
