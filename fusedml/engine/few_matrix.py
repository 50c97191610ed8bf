"""Two operands with few positives: a softmax of the negatives in a matrix, the positives listed.

The few places of the positives are left out of the matrix, and written into its gradient: no mask
is as large as the matrix.  Every pair costs one product and one exponential forward, and one
multiplication and two products backward.

The softmax is kept for the backward, autograd's like every saved tensor, as many strips of rows as
fit in ``kept.MOST_BYTES``; the others are computed again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from fusedml.engine import few_positives, kept
from fusedml.engine.few_positives import Positives
from fusedml.engine.pairs import PairProblem, accumulation_dtype, widest_dtype
from fusedml.engine.whole import Gradients, Needs, Side, side_of
from fusedml.heads import PAIR_FORMS, ROW_FORMS

# Of two directions: how far below the largest log-sum-exp of a row that of a column may lie, so
# that terms which count in the column have not underflowed in their rows.
_MOST_GAP = 60.0

_EMPTY = -math.inf


class FewPositives:
    """The pairs of such a problem, from the forward of an operator to its backward.

    The same steps as ``engine.whole.WholeMatrix`` for ``SmallOperator``.  Statistics are of
    *lines*: the rows; with ``both_sides`` the rows and then the columns.  It is its own
    ``fusedml.heads.Rows``.

    shares: [kept rows, m], exp(z_ij - lse-_i) of negatives, 0 elsewhere.
    """

    both_sides: ClassVar[bool] = False
    needed: ClassVar[
        tuple[str, ...]
    ] = ()  # tensors, or None, that only this class's gradient needs
    lse_negative: Tensor

    def evaluate(self) -> tuple[Tensor, ...] | None:
        """The outputs, the first of them differentiable; None where this does not serve."""
        raise NotImplementedError

    def gradient(self, grad: Tensor, needs: Needs) -> Gradients:
        """The gradients that are needed, from that of the first output."""
        raise NotImplementedError

    def __init__(
        self, problem: PairProblem, positives: Positives, logit: Tensor, keeps: bool
    ) -> None:
        """keeps: whether a backward may follow."""
        self.problem, self.positives, self.logit = problem, positives, logit
        self.n, self.m = problem.shape
        self.dtypes = problem[0].dtype, problem[1].dtype  # type: ignore[union-attr]
        self.excludes_diagonal = problem.exclude_diagonal
        self.dtype = accumulation_dtype(problem.anchors.dtype)
        self.step = min(self.n, max(1, few_positives.STRIP_ELEMENTS // self.m))
        self.num_kept = self._num_kept() if keeps else 0
        self.most = 0.0

    def _num_kept(self) -> int:
        """Rows whose exponentials are kept: all, or what fits beside the strips of the others."""
        rows = kept.MOST_BYTES // (self.m * self.dtype.itemsize)
        if self.n + self.step <= rows:
            return self.n
        return min(self.n, max(0, rows - 2 * self.step) // self.step * self.step)

    def parted(self, needs_logit: bool) -> tuple[FewPositives, list[Tensor | None]]:
        """What ``joined`` makes one again: an object without tensors, and the tensors."""
        bare = object.__new__(type(self))
        own = self.__dict__
        names = ("shares", "lse_negative", "place", "scaled_positive", *self.needed)
        bare.__dict__ = {
            **{name: own[name] for name in _NUMBERS},
            "names": names,
            "ends": self.ends,
            "per_line": self.positives[2:],
        }
        listed = self.positives[:2]
        return bare, [*self.anchors, *self.references, *listed, *(own[name] for name in names)]

    def joined(self, tensors: Sequence[Any]) -> FewPositives:
        """The object that was ``parted``, as far as ``gradient`` needs it."""
        size = len(Side._fields)
        few = object.__new__(type(self))
        few.__dict__ = self.__dict__.copy()
        few.anchors, few.references = Side(*tensors[:size]), Side(*tensors[size : 2 * size])
        rows, columns, *others = tensors[2 * size :]
        few.positives = Positives(rows, columns, *self.__dict__["per_line"])
        few.__dict__.update(zip(self.__dict__["names"], others, strict=True))
        return few

    # ---------------------------------------------------------------------------------- forward

    def load(self) -> bool:
        """Shares and log-sum-exps; False if some are not finite, or out of what serves here."""
        problem = self.problem
        assert problem.references is not None
        self.scale, self.shift, self.negative_scale, self.negative_shift = self.logit.tolist()
        if self.negative_scale == 0:
            return False
        self.anchors, _ = side_of(problem.anchors, problem.normalize)
        self.references, are_finite = side_of(problem.references, problem.normalize)
        rows, columns = self.positives[:2]
        self.place = rows * self.m + columns
        starts = range(0, self.n, self.step)
        self.ends = [rows.shape[0]]
        if len(starts) > 1:
            borders = rows.new_tensor([*starts[1:], self.n])
            self.ends = torch.searchsorted(rows, borders).tolist()
        self._sum_rows()
        total = self.lse_negative.sum() + self.scaled_positive.sum()
        if not are_finite:
            # a column of -inf alone leaves no trace
            total = total + torch.linalg.vector_norm(self.references.rows)
        return math.isfinite(total.item()) and (not self.both_sides or self._sum_columns())

    def _sum_rows(self) -> None:
        a = self.anchors.rows
        self.shares = a.new_empty(self.num_kept, self.m)
        lse, scaled_positive = [], []
        for rows, place, logits, shares in self._strips():
            scaled_positive.append(self._multiply(rows, place, logits, True))
            torch.softmax(logits, 1, out=shares)
            # without negatives NaN: that is left to others
            lse.append(logits.amax(1).sub_(shares.amax(1).log_()))
        self.lse_negative, self.scaled_positive = _joined(lse), _joined(scaled_positive)
        if self.negative_shift:
            self.lse_negative.add_(self.negative_shift)

    def _strips(self) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """Rows, places of their positives in the strip, a scratch matrix, and that of their shares.

        Where these are not kept it is scratch, too.
        """
        a, begin = self.anchors.rows, 0
        scratch = [a.new_empty(self.step, self.m)]
        if self.num_kept < self.n:
            scratch.append(a.new_empty(self.step, self.m))
        if len(self.ends) == 1:
            shares = self.shares if self.num_kept else scratch[1]
            yield slice(0, self.n), self.place, scratch[0], shares
            return
        for row, end in zip(range(0, self.n, self.step), self.ends, strict=True):
            rows = slice(row, min(row + self.step, self.n))
            place = self.place[begin:end] - row * self.m
            begin = end
            room = [x[: rows.stop - row] for x in scratch]
            yield rows, place, room[0], self.shares[rows] if self._is_kept(rows) else room[1]

    def _part(self, of_rows: Tensor, rows: slice) -> Tensor:
        """What belongs to some rows; a slice costs as much as a small operation."""
        return of_rows if len(self.ends) == 1 else of_rows[rows]

    def _is_kept(self, rows: slice) -> bool:
        return rows.stop <= self.num_kept

    def _multiply(self, rows: slice, place: Tensor, out: Tensor, reads: bool) -> Tensor:
        """Writes scale- x_ij of negatives, -inf elsewhere; that of positives if it ``reads``."""
        a, scale = self._part(self.anchors.rows, rows), self.negative_scale
        torch.addmm(out, a, self.references.rows.T, beta=0, alpha=scale, out=out)  # 0: not read
        flat = out.view(-1)
        x = flat.index_select(0, place) if reads else flat
        flat.index_fill_(0, place, _EMPTY)
        if self.excludes_diagonal and rows.start < self.m:
            out.diagonal(rows.start).fill_(_EMPTY)
        return x

    def _sum_columns(self) -> bool:
        """Appends the log-sum-exps of the columns; False if the rows' shares do not tell them."""
        of_rows = self.lse_negative
        self.most = of_rows.max().item()
        factors = (of_rows - self.most).exp_()
        sums: Tensor | None = None
        for rows, place, logits, shares in self._strips():
            if not self._is_kept(rows):
                self._multiply(rows, place, logits, False)
                torch.softmax(logits, 1, out=shares)
            of_strip = torch.mv(shares.T, self._part(factors, rows))
            sums = of_strip if sums is None else sums.add_(of_strip)
        assert sums is not None
        of_columns = sums.log_()
        self.lse_negative = torch.cat([of_rows, of_columns + self.most])
        return of_columns.min().item() >= -_MOST_GAP

    # ------------------------------------------------------------- statistics of the lines

    def _over_lines(self, of_pairs: Tensor) -> Tensor:
        """Numbers of the positives, [P], summed over each line."""
        parts = [self._over_side(of_pairs, 0)]
        if self.both_sides:
            parts.append(self._over_side(of_pairs, 1))
        return _joined(parts)

    def _over_side(self, of_pairs: Tensor, side: int) -> Tensor:
        if self.positives.per_line(side):
            return of_pairs
        size = (self.n, self.m)[side]
        return of_pairs.new_zeros(size).index_add_(0, self.positives.places(side), of_pairs)

    def _of_rows(self, of_lines: Tensor, side: int = 0) -> Tensor:
        """Numbers of the lines, or rows, at each positive's row (or column)."""
        begin = self.n if side else 0
        part = of_lines[begin : begin + (self.n, self.m)[side]] if self.both_sides else of_lines
        return (
            part
            if self.positives.per_line(side)
            else part.index_select(0, self.positives.places(side))
        )

    @cached_property
    def z_positive(self) -> Tensor:
        """z of the positives, [P]."""
        z = self.scaled_positive
        if self.scale != self.negative_scale:
            z = z * (self.scale / self.negative_scale)
        return z + self.shift if self.shift else z

    @cached_property
    def num_positive(self) -> Tensor:
        return self._over_lines(torch.ones_like(self.scaled_positive))

    @cached_property
    def num_negative(self) -> Tensor:
        counts = torch.full_like(self.num_positive, self.m)
        counts[self.n :] = self.n
        if self.excludes_diagonal:
            both = min(self.n, self.m)
            counts[:both] -= 1
            counts[self.n : self.n + both] -= 1
        return counts - self.num_positive

    @cached_property
    def sum_positive(self) -> Tensor:
        return self._over_lines(self.z_positive)

    @cached_property
    def lse_positive(self) -> Tensor:
        parts = [self._lse_of_side(side) for side in range(1 + self.both_sides)]
        return _joined(parts)

    def _lse_of_side(self, side: int) -> Tensor:
        z = self.z_positive
        if self.positives.per_line(side):
            return z
        places = self.positives.places(side)
        largest = z.new_full(((self.n, self.m)[side],), _EMPTY)
        largest.scatter_reduce_(0, places, z, "amax")
        sums = self._over_side(torch.exp(z - largest[places]), side)
        return sums.log_().add_(largest)

    # --------------------------------------------------------------------------------- gradients

    def of_positives(self, of_lse: Tensor, of_sum: Tensor | None) -> Tensor:
        """dL/dz of the positives, [P], from the gradients of lse+ and sum+ of the lines."""
        total: Tensor | None = None
        for side in range(1 + self.both_sides):
            of_pairs = self._of_rows(of_lse, side)
            if not self.positives.per_line(side):
                lse = self._lse_of_side(side)[self.positives.places(side)]
                of_pairs = of_pairs * torch.exp(self.z_positive - lse)
            if of_sum is not None:
                of_pairs = of_pairs + self._of_rows(of_sum, side)
            total = of_pairs if total is None else total + of_pairs
        assert total is not None
        return total

    def gradients(self, of_positives: Tensor, of_lse: Tensor, needs: Needs) -> Gradients:
        """Of anchors, references and logit, from dL/dz of the positives and those of lse-."""
        weights = of_positives * self.scale
        own, others = self._products(of_lse * self.negative_scale, weights, needs)
        logit_grad = None
        if needs[2]:
            assert own is not None
            x = self.scaled_positive / self.negative_scale
            # sum of w_ij x_ij over all pairs, the positives' taken out
            total = torch.linalg.vecdot(own, self.anchors.rows).sum(dtype=widest_dtype(own.device))
            of_negatives = (total - (weights * x).sum()) / self.negative_scale
            logit_grad = torch.stack(
                [
                    (of_positives * x).sum(),
                    of_positives.sum(),
                    of_negatives.to(own),
                    of_lse.sum(),
                ]
            )
        of_anchors = self.anchors.gradient(own) if needs[0] and own is not None else None
        of_references = None if others is None else self.references.gradient(others)
        grads = (
            None if grad is None else grad.to(dtype)
            for grad, dtype in zip((of_anchors, of_references), self.dtypes, strict=True)
        )
        return *grads, logit_grad, None  # type: ignore[return-value]

    def _products(
        self, factors: Tensor, weights: Tensor, needs: Needs
    ) -> tuple[Tensor | None, Tensor | None]:
        """W R and W^T A, W being dL/dx: ``weights`` of the positives, and of the negatives

        factors_i exp(z_ij - lse-_i), with both sides + factors_{n + j} exp(z_ij - lse-_{n + j}).
        """
        a, r = self.anchors.rows, self.references.rows
        of_rows = factors[: self.n, None]
        if self.both_sides:
            # exp(z - lse of the column) is the row's share times e^(lse of the row - most) and
            # e^(most - lse of the column)
            exp_rows = torch.exp(self.lse_negative[: self.n, None] - self.most)
            of_columns = factors[self.n :] * torch.exp(self.most - self.lse_negative[self.n :])
        own = a.new_empty(self.n, r.shape[1]) if needs[0] or needs[2] else None
        others: Tensor | None = None
        begin = 0
        for (rows, place, scratch, shares), end in zip(self._strips(), self.ends, strict=True):
            if not self._is_kept(rows):
                self._multiply(rows, place, scratch, False)
                torch.softmax(scratch, 1, out=shares)
            if self.both_sides:
                w = torch.addcmul(
                    self._part(of_rows, rows), self._part(exp_rows, rows), of_columns, out=scratch
                )
                w.mul_(shares)
            else:
                w = torch.mul(shares, self._part(of_rows, rows), out=scratch)
            w.view(-1).index_copy_(0, place, self._part(weights, slice(begin, end)))
            begin = end
            if own is not None:
                torch.mm(w, r, out=self._part(own, rows))
            if needs[1]:
                others = _plus_product(others, w.T, self._part(a, rows))
        return own, others


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _plus_product(total: Tensor | None, one: Tensor, other: Tensor) -> Tensor:
    """total + one other, in place."""
    if total is None:
        return torch.mm(one, other)
    return torch.addmm(total, one, other, out=total)


# the attributes that are no tensors, and stay with the object
_NUMBERS = (
    *("n", "m", "step", "num_kept", "dtypes", "excludes_diagonal", "most"),
    *("scale", "shift", "negative_scale", "negative_shift"),
)


class FewStatistics(FewPositives):
    """Outputs: statistics [3, lines] (lse+, lse-, sum+) and counts [2, lines] (n+, n-)."""

    def evaluate(self) -> tuple[Tensor, Tensor] | None:
        if not self.load():
            return None
        statistics = torch.stack([self.lse_positive, self.lse_negative, self.sum_positive])
        return statistics, torch.stack([self.num_positive, self.num_negative]).long()

    def gradient(self, grad: Tensor, needs: Needs) -> Gradients:
        return self.gradients(self.of_positives(grad[0], grad[2]), grad[1], needs)


class FewRowLosses(FewPositives):
    """Output: L of each line."""

    needed = ("d_positive", "d_negative", "d_sum")

    def __init__(self, *args: Any, head: str, head_parameters: Tensor) -> None:
        super().__init__(*args)
        self.head, self.head_parameters = head, head_parameters

    def evaluate(self) -> tuple[Tensor] | None:
        if not self.load():
            return None
        row = ROW_FORMS[self.head](self, self.head_parameters)
        value, self.d_positive, self.d_negative, self.d_sum = row
        return (value,)

    def gradient(self, grad: Tensor, needs: Needs) -> Gradients:
        of_sum = None if self.d_sum is None else self.d_sum * grad
        of_positives = self.of_positives(self.d_positive * grad, of_sum)
        return self.gradients(of_positives, self.d_negative * grad, needs)


class TwoSidedStatistics(FewStatistics):
    """:class:`FewStatistics` of the rows and of the columns."""

    both_sides = True


class TwoSidedLosses(FewRowLosses):
    """:class:`FewRowLosses` of the rows and of the columns."""

    both_sides = True


class FewPairLosses(FewPositives):
    """Outputs: the losses of the positive pairs, summed over each row, and their number, [1, n]."""

    needed = ("d_logit", "d_anchor_lse", "d_reference_lse")

    def __init__(self, *args: Any, reference_lse: Tensor | None, head: str) -> None:
        super().__init__(*args)
        self.reference_lse, self.head = reference_lse, head

    def evaluate(self) -> tuple[Tensor, Tensor] | None:
        if not self.load():
            return None
        z, lse = self.z_positive, self.reference_lse
        # zeros for a head that does not ask for it
        reference_lse = torch.zeros_like(z) if lse is None else lse[self.positives.columns]
        value, self.d_logit, self.d_anchor_lse, self.d_reference_lse = PAIR_FORMS[self.head](
            z, self._of_rows(self.lse_negative), reference_lse
        )
        return self._over_lines(value), self.num_positive.long().unsqueeze(0)

    def gradient(self, grad: Tensor, needs: Needs) -> Gradients:
        upstream = self._of_rows(grad)
        of_lse = self._over_lines(upstream * self.d_anchor_lse)
        *grads, _ = self.gradients(upstream * self.d_logit, of_lse, needs)
        of_reference_lse = None
        if needs[3]:
            of_reference_lse = grad.new_zeros(self.m)
            if self.d_reference_lse is not None:
                columns = self.positives.columns
                of_reference_lse.index_add_(0, columns, upstream * self.d_reference_lse)
        return *grads, of_reference_lse  # type: ignore[return-value]
