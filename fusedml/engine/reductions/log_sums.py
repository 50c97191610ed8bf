"""Reduction L: log-sum-exps of the logits of both kinds of pair, and the positives' sum.

    lse+ = log sum_P e^z,   lse- = log sum_N e^z,   sum+ = sum_P z

of the pairs that feed a line; the log-sum-exp of none is -inf.  The weight of a pair is
g_lse e^{z - lse}, and g_sum more for a positive, with the gradients g of each line it feeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fusedml.engine.reductions.entries import Entries, Side
from fusedml.engine.reductions.logits import Logits

_EMPTY = -math.inf


def _most_exponent(like: Tensor) -> float:
    """Of a sum whose largest term is 1: e^-x is nothing beside it.

    The exponentials of what is less, times a gradient, are numbers below the normal ones, and take
    ten times as long; so does that of -inf.
    """
    return 610.0 if like.dtype == torch.float64 else 60.0


class OnlineLse:
    """Log-sum-exp of a stream of logits per line, kept as (max, sum) with lse = max + log(sum).

    Milakov & Gimelshein 2018, "Online normalizer calculation for softmax".
    """

    def __init__(self, num_lines: int, like: Tensor) -> None:
        self.max = like.new_full((num_lines,), _EMPTY)
        self.sum = like.new_zeros(num_lines)

    def push(self, side: Side, logits: Tensor, out: Tensor | None = None) -> None:
        """Takes in entries with these logits, -inf of none.  out: scratch memory of their shape."""
        lines = side.lines
        before = self.max[lines]
        largest = torch.maximum(before, side.largest(logits))
        # a set that is still empty keeps -inf, whatever its sum: (-inf) - (-inf) would be NaN
        shift = largest.masked_fill(largest == _EMPTY, 0)
        exponents = torch.sub(logits, side.spread(shift), out=out)
        self.sum[lines] *= torch.exp(before - shift)
        self.sum[lines] += side.sum(exponents.clamp_(min=-_most_exponent(logits)).exp_())
        self.max[lines] = largest

    def value(self) -> Tensor:
        return torch.where(self.sum > 0, self.max + self.sum.log(), self.max)


class LogSums:
    """Log-sum-exps and sums over the pairs of each line, whatever their logits.

    thresholds: None, or [2, num_lines]: a positive counts below the first of its line and a
        negative above the second, in hardness, which is sign times the measure.
    """

    def __init__(
        self,
        logits: Logits,
        num_lines: int,
        like: Tensor,
        thresholds: Tensor | None = None,
        sign: float = 1.0,
    ) -> None:
        self.logits, self.thresholds, self.sign = logits, thresholds, sign
        self.lse = {kind: OnlineLse(num_lines, like) for kind in (True, False)}
        self.sum_positive = like.new_zeros(num_lines)
        # of the pairs that the thresholds leave
        self.counts = like.new_zeros((2, num_lines), dtype=torch.int64)

    def _seen_alike(self, entries: Entries) -> Iterator[Sequence[Side]]:
        """Sides whose lines see the same logits: all, unless lines have thresholds."""
        if self.thresholds is None:
            yield entries.sides
        else:
            yield from ((side,) for side in entries.sides)

    def _z(self, entries: Entries, is_positive: bool) -> Tensor:
        """The logits of all entries as if they were of one kind, in scratch 1."""
        return self.logits.logits(entries.x, is_positive, entries.scratch(1))

    def _only_(
        self,
        values: Tensor,
        entries: Entries,
        is_positive: bool,
        side: Side,
        otherwise: float = 0.0,
    ) -> Tensor:
        """``values``, with ``otherwise`` in place where one side's lines count no such pair."""
        entries.only_(values, is_positive, otherwise)
        if self.thresholds is None:
            return values
        hardness = entries.x if self.sign > 0 else -entries.x
        bound = side.spread(self.thresholds[0 if is_positive else 1, side.lines])
        # negated, so that NaN stays in
        leaves_out = hardness >= bound if is_positive else hardness <= bound
        return values.masked_fill_(leaves_out, otherwise)

    def add(self, entries: Entries) -> None:
        """Takes in some entries."""
        for kind in entries.kinds():
            for sides in self._seen_alike(entries):
                z = self._z(entries, kind)
                if kind:
                    own = self._only_(entries.scratch(2).copy_(z), entries, kind, sides[0])
                    for side in sides:
                        self.sum_positive[side.lines] += side.sum(own)
                self._only_(z, entries, kind, sides[0], _EMPTY)
                if self.thresholds is not None:
                    kept = (z != _EMPTY).long()
                    self.counts[0 if kind else 1, sides[0].lines] += sides[0].sum(kept)
                for side in sides:
                    self.lse[kind].push(side, z, entries.scratch(2))

    def end(self) -> Tensor:
        """lse+, lse- and sum+, [3, lines]."""
        return torch.stack([self.lse[True].value(), self.lse[False].value(), self.sum_positive])

    def begin_backward(self, statistics: Tensor, statistics_grad: Tensor) -> None:
        """Before ``weights``: the results of the forward and their gradients, [3, lines]."""
        is_empty = statistics[:2] == _EMPTY
        # an empty set has no pair to weigh; 0 keeps exp(z - lse) finite
        self.of_lse = statistics_grad[:2].masked_fill(is_empty, 0)
        self.of_sum = statistics_grad[2]
        self.has_sum = bool(self.of_sum.any())
        self.finite_lse = statistics[:2].masked_fill(is_empty, 0)

    def weights(self, entries: Entries, is_positive: bool) -> Tensor | None:
        """dL/dz of the entries of one kind, all their lines together."""
        total, is_first = entries.scratch(4 if is_positive else 5), True
        for sides in self._seen_alike(entries):
            part = self._part(
                entries, is_positive, sides, total if is_first else entries.scratch(3)
            )
            total, is_first = part if is_first else total.add_(part), False
        return total

    def _part(
        self, entries: Entries, is_positive: bool, sides: Sequence[Side], part: Tensor
    ) -> Tensor:
        """The weights of sides that see the same logits, in ``part``."""
        z, k = self._z(entries, is_positive), 0 if is_positive else 1
        most = _most_exponent(entries.x)
        for number, side in enumerate(sides):
            lse, of_lse = self.finite_lse[k, side.lines], self.of_lse[k, side.lines]
            exponents = torch.sub(z, side.spread(lse), out=entries.scratch(2))
            # what is left out below may have any
            share = exponents.clamp_(-most, most).exp_()
            if number:
                part.addcmul_(share, side.spread(of_lse))
            else:
                torch.mul(share, side.spread(of_lse), out=part)
            if is_positive and self.has_sum:
                part.add_(side.spread(self.of_sum[side.lines]))
        return self._only_(part, entries, is_positive, sides[0])
