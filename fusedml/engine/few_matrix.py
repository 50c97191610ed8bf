"""Two operands with few positives: a softmax of the negatives in a matrix, the positives listed.

The few places of the positives are left out of the matrix, and added to its gradients: no mask is
as large as the matrix.  Every pair costs one product and one exponential forward, and two products
backward, in memory that is written once: fresh memory costs more than arithmetic.

The softmax is kept for the backward, autograd's like every saved tensor, if it fits in
``kept.MOST_BYTES``.  Otherwise some strips of rows are kept, and the others computed again.
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
from fusedml.engine.pairs import PairProblem, accumulation_dtype, crossed, widest_dtype
from fusedml.engine.whole import Gradients, Needs, Side, side_of
from fusedml.heads import PAIR_FORMS, ROW_FORMS

# Of two directions: how far below the largest log-sum-exp of a row that of a column may lie, so
# that terms which count in the column have not underflowed in their rows.
_MOST_GAP = 60.0

# Elements of the weights that both directions need at a time: 1 MB in float32.
_WEIGHTS = 1 << 18
# Elements of embeddings gathered for listed pairs at a time: 4 MB in float32.
_LIST_ELEMENTS = 1 << 20

# Embedding size from which the product of a pair costs more than what else is done with it.
_WIDE = 256

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
        self.diagonals = problem.diagonals
        self.dtype = accumulation_dtype(problem.anchors.dtype)
        self.step = min(self.n, max(1, few_positives.STRIP_ELEMENTS // self.m))
        self.num_kept = self._num_kept() if keeps else 0
        self.most = 0.0

    def _num_kept(self) -> int:
        """Rows whose shares are kept: all, or what fits beside a strip of the others.

        Of a matrix that does not fit much is kept only where products cost more than memory.
        """
        row_bytes, most = self.m * self.dtype.itemsize, kept.MOST_BYTES
        if self.n * row_bytes <= most:
            return self.n
        if self.problem.anchors.shape[1] < _WIDE:
            most //= 4
        return max(0, most // row_bytes - self.step)

    def parted(self, needs_logit: bool) -> tuple[FewPositives, list[Tensor | None]]:
        """What ``joined`` makes one again: an object without tensors, and the tensors."""
        bare = object.__new__(type(self))
        own = self.__dict__
        names = ("shares", "lse_negative", "place", "scaled_positive", *self.needed)
        bare.__dict__ = {
            **{name: own[name] for name in _NUMBERS},
            "names": names,
            "strips": self.strips,
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
        self.strips = self._cut(rows)
        self._sum_rows()
        total = self.lse_negative.sum() + self.scaled_positive.sum()
        if not are_finite:
            # a column of -inf alone leaves no trace
            total = total + torch.linalg.vector_norm(self.references.rows)
        if not math.isfinite(total.item()):
            return False
        return not self.both_sides or self._take_columns()

    def _cut(self, rows: Tensor) -> list[tuple[slice, slice]]:
        """Strips of rows, and which of the listed positives are theirs; what is kept first."""
        starts = [*range(0, self.num_kept, self.step), *range(self.num_kept, self.n, self.step)]
        ends = [*starts[1:], self.n]
        if len(starts) == 1:
            return [(slice(0, self.n), slice(0, rows.shape[0]))]
        last = torch.searchsorted(rows, rows.new_tensor(ends)).tolist()
        of_rows, of_listed = zip(starts, ends, strict=True), zip([0, *last], last, strict=False)
        return [(slice(*x), slice(*y)) for x, y in zip(of_rows, of_listed, strict=True)]

    def _sum_rows(self) -> None:
        self.shares = self.anchors.rows.new_empty(self.num_kept, self.m)
        lse, positive = [], []
        self.most = _EMPTY
        self.of_columns: Tensor | None = None
        for rows, listed, shares in self._rooms():
            positive.append(self._multiply(rows, listed, shares, True))
            most = shares.amax(1)
            torch.softmax(shares, 1, out=shares)
            # without negatives NaN: that is left to others
            of_rows = most.sub_(shares.amax(1).log_())
            if self.negative_shift:
                of_rows.add_(self.negative_shift)
            lse.append(of_rows)
            if self.both_sides:
                self._sum_columns(of_rows, shares)
        self.lse_negative, self.scaled_positive = _joined(lse), _joined(positive)

    def _sum_columns(self, of_rows: Tensor, shares: Tensor) -> None:
        """Adds sum_i exp(z_ij - most) over the rows of a strip to ``of_columns``."""
        most = max(self.most, of_rows.max().item())
        of_strip = torch.mv(shares.T, (of_rows - most).exp_())
        if self.of_columns is not None:
            of_strip.add_(self.of_columns, alpha=math.exp(self.most - most))
        self.of_columns, self.most = of_strip, most

    def _take_columns(self) -> bool:
        """Appends the log-sum-exps of the columns; False if the rows' shares do not tell them."""
        assert self.of_columns is not None
        logs = self.of_columns.log_()
        self.lse_negative = torch.cat([self.lse_negative, logs + self.most])
        return logs.min().item() >= -_MOST_GAP

    def _rooms(self, skipped: int = 0) -> Iterator[tuple[slice, slice, Tensor]]:
        """Rows after the skipped, which listed positives are theirs, and where their shares are.

        One scratch matrix serves all that are not kept.
        """
        scratch: Tensor | None = None
        for rows, listed in self.strips:
            if rows.stop <= self.num_kept:
                if rows.start >= skipped:
                    yield rows, listed, self._part(self.shares, rows)
                continue
            if scratch is None:
                scratch = self.anchors.rows.new_empty(self.step, self.m)
            yield rows, listed, scratch[: rows.stop - rows.start]

    def _part(self, x: Tensor, part: slice) -> Tensor:
        """What belongs to a strip; a slice costs as much as a small operation."""
        return x if len(self.strips) == 1 else x[part]

    def _multiply(self, rows: slice, listed: slice, out: Tensor, reads: bool) -> Tensor:
        """Writes scale- x_ij of negatives, -inf elsewhere; that of positives if it ``reads``."""
        a, place = self._part(self.anchors.rows, rows), self._part(self.place, listed)
        r, scale = self.references.rows, self.negative_scale
        torch.addmm(out, a, r.T, beta=0, alpha=scale, out=out)  # 0: not read
        flat = out.view(-1)
        if rows.start:
            place = place - rows.start * self.m
        x = flat.index_select(0, place) if reads else flat
        flat.index_fill_(0, place, _EMPTY)
        for k in self.diagonals:
            out.diagonal(rows.start + k).fill_(_EMPTY)
        return x

    def _known_shares(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows and their shares: all that are kept, and those that are computed again."""
        if self.num_kept:
            yield slice(0, self.num_kept), self.shares
        for rows, listed, shares in self._rooms(self.num_kept):
            self._multiply(rows, listed, shares, False)
            yield rows, torch.softmax(shares, 1, out=shares)

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
        for rows, columns in crossed(self.diagonals, self.n, self.m):
            counts[: self.n][rows] -= 1
            counts[self.n :][columns] -= 1
        return counts - self.num_positive

    @property
    def lse(self) -> Tensor:
        return torch.stack([self.lse_positive, self.lse_negative])

    @property
    def counts(self) -> Tensor:
        return torch.stack([self.num_positive, self.num_negative])

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
        own = a.new_empty(self.n, r.shape[1]) if needs[0] or needs[2] else None
        others: Tensor | None = None
        # with one side the factors are those of the products' rows
        factored = a if self.both_sides or not needs[1] else a * factors[:, None]
        for rows, w in self._both_weights(factors) if self.both_sides else self._known_shares():
            if own is not None:
                torch.mm(w, r, out=own[rows])
            if needs[1]:
                others = _plus_product(others, w.T, factored[rows])
        if own is not None and not self.both_sides:
            own.mul_(factors[:, None])
        self._add_positives(own, others, weights)
        return own, others

    def _both_weights(self, factors: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Rows and dL/dx of their negatives, a few rows at a time."""
        # exp(z - lse of the column) is the row's share times e^(lse of the row - most) and
        # e^(most - lse of the column)
        of_rows = factors[: self.n, None]
        exp_rows = torch.exp(self.lse_negative[: self.n, None] - self.most)
        of_columns = factors[self.n :] * torch.exp(self.most - self.lse_negative[self.n :])
        room: Tensor | None = None
        for known, shares in self._known_shares():
            step = max(few_positives.LEAST_ROWS, _WEIGHTS // self.m)
            for begin in range(0, shares.shape[0], step):
                part = shares[begin : begin + step]
                rows = slice(known.start + begin, known.start + begin + part.shape[0])
                if room is None:
                    room = torch.empty_like(part)
                w = room[: part.shape[0]]
                yield (
                    rows,
                    torch.addcmul(of_rows[rows], exp_rows[rows], of_columns, out=w).mul_(part),
                )

    def _add_positives(self, own: Tensor | None, others: Tensor | None, weights: Tensor) -> None:
        """Adds the weights of the positives times the other side's rows."""
        sides = (own, 0, self.references.rows), (others, 1, self.anchors.rows)
        for grad, side, rows in sides:
            if grad is None:
                continue
            if self.positives.per_row and self.positives.per_column:
                grad.addcmul_(rows, weights[:, None])
                continue
            to, of = self.positives.places(side), self.positives.places(1 - side)
            step = max(1, _LIST_ELEMENTS // max(1, rows.shape[1]))
            for begin in range(0, weights.shape[0], step):
                part = slice(begin, begin + step)
                grad.index_add_(0, to[part], rows[of[part]] * weights[part, None])


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _plus_product(total: Tensor | None, one: Tensor, other: Tensor) -> Tensor:
    """total + one other, in place."""
    if total is None:
        return torch.mm(one, other)
    return torch.addmm(total, one, other, out=total)


# the attributes that are no tensors, and stay with the object
_NUMBERS = (
    *("n", "m", "step", "num_kept", "dtypes", "diagonals", "most"),
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
        value, d_lse, self.d_sum = ROW_FORMS[self.head](self, self.head_parameters)
        self.d_positive, self.d_negative = d_lse.unbind()
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
