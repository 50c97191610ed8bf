"""What a loss of sums adds up: functions of a pair's logit, five numbers and an interval each.

    f(z) = e^{exponent z} (square z^2 + linear z + constant)   where floor < z < ceiling, else 0,

or softplus.  Hinges, squares, counts and exponential weights are such functions; a loss sums a few
of them over its positives and its negatives (``fusedml.formulas.SumFormula``).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Term(NamedTuple):
    """One function of z, summed over the pairs of one kind.

    The numbers are constants: what is to be learnt, or may change between calls of a compiled
    module, belongs into the logit.

    is_closed: whether z = floor counts, too.  is_softplus: f(z) = log(1 + e^z) instead.
    """

    is_positive: bool
    exponent: float = 0.0
    square: float = 0.0
    linear: float = 0.0
    constant: float = 0.0
    floor: float = -math.inf
    ceiling: float = math.inf
    is_closed: bool = False
    is_softplus: bool = False

    def counts(self, z: Tensor) -> Tensor:
        """Which z are in the interval, bool."""
        above = z >= self.floor if self.is_closed else z > self.floor
        if self.floor == -math.inf:
            above = torch.ones_like(z, dtype=torch.bool)
        return above if self.ceiling == math.inf else above & (z < self.ceiling)

    def values(self, z: Tensor) -> Tensor:
        """f(z), in ordinary PyTorch: the definition."""
        if self.is_softplus:
            return torch.nn.functional.softplus(z, threshold=40)
        if self[1:7] in _HINGES:
            # at 0 their slopes are 1 and 0
            root = z.clamp(min=0) if self.is_closed else torch.relu(z)
            return root.square() if self.square else root
        counts = self.counts(z)
        # what does not count is replaced before it is computed with: inf x 0 would be NaN
        z = torch.where(counts, z, 0)
        value = (self.square * z + self.linear) * z + self.constant
        if self.exponent:
            value = value * torch.exp(self.exponent * z)
        return torch.where(counts, value, 0)


# max(0, z) and its square
_HINGES = ((0.0, 0.0, 1.0, 0.0, 0.0, math.inf), (0.0, 1.0, 0.0, 0.0, 0.0, math.inf))


def hinge(is_positive: bool, *, is_closed: bool = False) -> Term:
    """max(0, z), counted where z > 0, or with ``is_closed`` where z >= 0."""
    return Term(is_positive, linear=1.0, floor=0.0, is_closed=is_closed)


def squared_hinge(is_positive: bool) -> Term:
    """max(0, z)^2."""
    return Term(is_positive, square=1.0, floor=0.0)


def identity(is_positive: bool) -> Term:
    """z."""
    return Term(is_positive, linear=1.0)


def square(is_positive: bool) -> Term:
    """z^2."""
    return Term(is_positive, square=1.0)


def softplus(is_positive: bool) -> Term:
    """log(1 + e^z)."""
    return Term(is_positive, is_softplus=True)


def packed(terms: tuple[Term, ...]) -> Tensor:
    """The numbers of the terms, [K, 9], as the operators take them."""
    return torch.tensor(
        [[float(x) for x in term] for term in terms], dtype=torch.float64, device="cpu"
    )


def unpacked(numbers: Tensor) -> tuple[Term, ...]:
    """The terms of :func:`packed`."""
    terms = []
    for kind, exponent, square, linear, constant, floor, ceiling, *flags in numbers.tolist():
        polynomial = exponent, square, linear, constant
        terms.append(Term(bool(kind), *polynomial, floor, ceiling, *map(bool, flags)))
    return tuple(terms)
