"""Reduction S: sums of functions of the logits, and how many pairs they count.

    F_k = sum f_k(z),   D_k = sum f_k'(z),   C_k = number of pairs in f_k's interval,

over the pairs of f_k's kind that feed a line, z = logit + the line's own shift.  The weight of a
pair is sum_k g_k f_k'(z) with g_k = dL/dF_k of each line it feeds; D is dF/d(shift), so that the
backward reduces nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fusedml.engine.pairs import widest_dtype
from fusedml.engine.reductions.entries import Entries, Side
from fusedml.engine.reductions.logits import Logits
from fusedml.terms import Term


class Sums:
    """Sums of terms over the pairs of each line.

    like: a tensor of the device and dtype of the measures.
    shifts: None, or what is added to the logits of each line's positives and of its negatives,
        [2, num_lines].
    """

    def __init__(
        self,
        terms: Sequence[Term],
        logits: Logits,
        num_lines: int,
        like: Tensor,
        shifts: Tensor | None = None,
    ) -> None:
        self.terms, self.logits, self.shifts = terms, logits, shifts
        # a line's sum grows over many tiles
        shape, dtype = (len(terms), num_lines), widest_dtype(like.device)
        self.dtype = like.dtype
        self.sums = like.new_zeros(shape, dtype=dtype)
        self.slopes = like.new_zeros(shape if shifts is not None else 0, dtype=dtype)
        self.counts = like.new_zeros(shape, dtype=torch.int64)

    def _of_kind(self, is_positive: bool) -> list[tuple[int, Term]]:
        return [(k, term) for k, term in enumerate(self.terms) if term.is_positive == is_positive]

    def _seen_alike(self, entries: Entries) -> Iterator[Sequence[Side]]:
        """Sides whose lines see the same logits: all, unless lines have shifts of their own."""
        if self.shifts is None:
            yield entries.sides
        else:
            yield from ((side,) for side in entries.sides)

    def _z(self, entries: Entries, is_positive: bool, side: Side) -> Tensor:
        logits, out = self.logits, entries.scratch(1)
        if self.shifts is None:
            return logits.logits(entries.x, is_positive, out)
        shifts = self.shifts[0 if is_positive else 1, side.lines]
        if logits.bends(is_positive) or logits.offsets is not None:
            return logits.logits(entries.x, is_positive, out).add_(side.spread(shifts))
        scale, shift = logits.of(is_positive)
        return torch.add(side.spread(shifts + shift), entries.x, alpha=scale, out=out)

    def add(self, entries: Entries, weighs: bool = False) -> Tensor | None:
        """Takes in some entries.

        weighs: whether to return dL/dz of the sum of all F, of entries of one kind; None if that is
        0.
        """
        total: Tensor | None = None
        for kind in entries.kinds():
            terms = self._of_kind(kind)
            for sides in self._seen_alike(entries) if terms else ():
                z = self._z(entries, kind, sides[0])
                for k, term in terms:
                    # the first slope is where the others are added to
                    out = entries.scratch(4 if weighs and total is None else 2)
                    slope = self._add_term(k, term, z, entries, sides, weighs, out)
                    if not weighs or slope is None:
                        continue
                    if total is None:
                        total = slope if len(sides) == 1 else slope.mul_(len(sides))
                    else:
                        total.add_(slope, alpha=len(sides))
        return total

    def _add_term(
        self,
        k: int,
        term: Term,
        z: Tensor,
        entries: Entries,
        sides: Sequence[Side],
        weighs: bool,
        out: Tensor,
    ) -> Tensor | None:
        """f' of the entries, in ``out``, if it is looked at."""
        kind = term.is_positive
        value = entries.only_(values(term, z, out, entries.scratch(3)), kind)
        for side in sides:
            self.sums[k, side.lines].add_(side.sum(value))
        if counts_all(term):
            active = None
        elif is_above_zero(term):
            active = value.sign_()
        else:
            active = entries.only_(counted(term, z, out), kind)
        numbers = None if active is None else [side.sum(active) for side in sides]
        for side, number in zip(sides, numbers or (), strict=False):
            self.counts[k, side.lines].add_(number.long())
        if self.shifts is None and not weighs:
            return None
        if active is not None and is_straight(term):
            slope, of_lines = active, numbers
        else:
            slope = entries.only_(slopes(term, z, out, entries.scratch(3)), kind)
            of_lines = None
        assert slope is not None
        if self.shifts is not None:
            of_lines = of_lines or [side.sum(slope) for side in sides]
            for side, of_line in zip(sides, of_lines, strict=True):
                self.slopes[k, side.lines].add_(of_line)
        return slope

    def end(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """F [K, lines], D [K, lines], empty without shifts, and C [K, lines].

        numbers: of each line's positives and negatives, [2, lines].
        """
        for k, term in enumerate(self.terms):
            if counts_all(term):
                self.counts[k] = numbers[0 if term.is_positive else 1]
        return self.sums.to(self.dtype), self.slopes.to(self.dtype), self.counts

    def begin_backward(self, sums_grad: Tensor, counts: Tensor) -> None:
        """Before ``weights``: dL/dF, and C of the forward; both [K, lines]."""
        self.grad = sums_grad
        # a line without pairs in the interval weighs none; NaN stays NaN
        self.weighs = (counts > 0) & (sums_grad != 0)
        self.weighs |= ~torch.isfinite(sums_grad)

    def weights(self, entries: Entries, is_positive: bool) -> Tensor | None:
        """dL/dz of the entries of one kind, all their lines together; None if all are 0."""
        total: Tensor | None = None
        for sides in self._seen_alike(entries):
            terms = [
                (k, term)
                for k, term in self._of_kind(is_positive)
                if any(bool(self.weighs[k, side.lines].any()) for side in sides)
            ]
            z = self._z(entries, is_positive, sides[0]) if terms else None
            for k, term in terms:
                assert z is not None
                slope = slopes(term, z, entries.scratch(2), entries.scratch(3))
                factor = self._factor(k, entries, sides)
                if total is None:
                    out = entries.scratch(4 if is_positive else 5)
                    total = torch.mul(slope, factor, out=out)
                else:
                    total.addcmul_(slope, factor)
        return None if total is None else entries.only_(total, is_positive)

    def _factor(self, k: int, entries: Entries, sides: Sequence[Side]) -> Tensor:
        """dL/dF_k of the lines of these sides, added up for each entry."""
        factors = [side.spread(self.grad[k, side.lines]) for side in sides]
        if len(factors) == 1:
            return factors[0]
        one, other = factors
        return torch.add(one, other, out=entries.scratch(3))

    def shifts_gradient(self, sums_grad: Tensor, slopes: Tensor) -> Tensor:
        """dL/d(shifts), [2, lines], from dL/dF and D of the forward."""
        grad = sums_grad.new_zeros(2, sums_grad.shape[1])
        for k, term in enumerate(self.terms):
            grad[0 if term.is_positive else 1] += sums_grad[k] * slopes[k]
        return grad


def counts_all(term: Term) -> bool:
    """Whether each pair is counted: the numbers of pairs are known without looking."""
    return term.is_softplus or (term.floor == -math.inf and term.ceiling == math.inf)


def is_above_zero(term: Term) -> bool:
    """Whether f(z) > 0 exactly where z is counted."""
    is_open = term.floor == 0 and not term.is_closed and term.ceiling == math.inf
    return is_open and not term.is_softplus and not term.exponent and term[2:5] in _POSITIVE


def is_straight(term: Term) -> bool:
    """Whether f' = 1 where z is counted."""
    return term.linear == 1 and not (term.square or term.exponent or term.is_softplus)


_POSITIVE = {(0.0, 1.0, 0.0), (1.0, 0.0, 0.0)}


def counted(term: Term, z: Tensor, out: Tensor) -> Tensor:
    """1 where z is in the term's interval, else 0."""
    if term.floor == -math.inf:
        out.fill_(1)
    elif term.is_closed:
        torch.ge(z, term.floor, out=out)
    else:
        torch.gt(z, term.floor, out=out)
    return out if term.ceiling == math.inf else out.mul_(z < term.ceiling)


def values(term: Term, z: Tensor, out: Tensor, other: Tensor) -> Tensor:
    """f(z), in ``out``; ``other`` is scratch memory, too."""
    if term.is_softplus:
        return torch.nn.functional.softplus(z, threshold=40)
    if is_above_zero(term):
        root = torch.clamp(z, min=0, out=out)
        return root if term.linear else root.square_()
    value = _polynomial(z, term.square, term.linear, term.constant, out)
    return _times_interval_(value, term, z, other)


def slopes(term: Term, z: Tensor, out: Tensor, other: Tensor) -> Tensor:
    """f'(z), in ``out``; ``other`` is scratch memory, too."""
    if term.is_softplus:
        return torch.sigmoid(z, out=out)
    if is_above_zero(term):
        if term.linear:
            return torch.gt(z, 0, out=out)
        return torch.clamp(z, min=0, out=out).mul_(2)
    # (e^{Tz} p)' = e^{Tz} (T p + p')
    exponent, square, linear = term.exponent, term.square, term.linear
    coefficients = (
        exponent * square,
        exponent * linear + 2 * square,
        exponent * term.constant + linear,
    )
    return _times_interval_(_polynomial(z, *coefficients, out), term, z, other)


def _polynomial(z: Tensor, square: float, linear: float, constant: float, out: Tensor) -> Tensor:
    if square:
        return torch.mul(z, square, out=out).add_(linear).mul_(z).add_(constant)
    if linear:
        return torch.mul(z, linear, out=out).add_(constant)
    return out.fill_(constant)


def _times_interval_(value: Tensor, term: Term, z: Tensor, other: Tensor) -> Tensor:
    """``value``, of z, times e^{exponent z}, and 0 outside of the interval; in place."""
    if term.exponent:
        # the ends of the interval in the place of what is beyond: inf x 0 would be NaN
        inside = torch.clamp(z, min=term.floor, max=term.ceiling, out=other)
        value.mul_(inside.mul_(term.exponent).exp_())
    return value if counts_all(term) else value.mul_(counted(term, z, other))


def of_term(term: Term, z: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """f(z); 1 for the pairs in its interval, else 0, None for all; and f'(z)."""
    value = term.values(z)
    if counts_all(term):
        return value, None, slopes(term, z, torch.empty_like(z), torch.empty_like(z))
    active = value.sign() if is_above_zero(term) else counted(term, z, torch.empty_like(z))
    if is_straight(term):
        return value, active, active
    return value, active, slopes(term, z, torch.empty_like(z), torch.empty_like(z))
