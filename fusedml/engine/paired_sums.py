"""Sums of terms of two sets, row i of one belonging to row i of the other, and to no other.

A strip of rows of the matrix of products makes its sums and, as what these are asked for is mostly
one number in the end, the gradients of both sides by all of them, in the forward.  So a step takes
three matrix products, no matrix is kept, and the positives are a list.  Where the sums have other
gradients than one number the backward sweeps again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fusedml.curves import AFFINE
from fusedml.engine.pairs import PairProblem
from fusedml.engine.reductions.entries import Entries, MatrixSide, Side
from fusedml.engine.reductions.logits import Logits
from fusedml.engine.reductions.sums import Sums
from fusedml.engine.whole import Gradients, Needs, may_hold_matrices
from fusedml.terms import Term

# Pairs of a strip: 2 MB in float32, of which six stay in the cache that cores share.
STRIP_ELEMENTS = 1 << 19
# Rows of a strip, so that its products are products of matrices, and the columns that leaves.
LEAST_ROWS = 32
MOST_COLUMNS = STRIP_ELEMENTS // LEAST_ROWS


def may_be_paired_sums(backend: str, problem: PairProblem) -> bool:
    """Whether the problem is this module's, if row i belongs to row i and to no other."""
    return (
        problem.references is not None
        and not problem.exclude_diagonal
        and problem.extent is None
        and not problem.normalize
        and problem.measure == "dot"
        and problem.curve == AFFINE.name
        and 0 < problem.shape[0] == problem.shape[1] <= MOST_COLUMNS
        and may_hold_matrices(backend, problem.anchors)
        and not torch._C._are_functorch_transforms_active()
    )


class _Line:
    """The lines that some of the positives feed, one each."""

    def __init__(self, lines: slice) -> None:
        self.lines = lines

    def spread(self, of_lines: Tensor) -> Tensor:
        return of_lines

    def sum(self, values: Tensor) -> Tensor:
        return values

    def largest(self, values: Tensor) -> Tensor:
        return values


class _Part:
    """Negatives of a strip, or positives, as ``engine.reductions.entries.Entries``.

    x: [rows, n], or [rows].  memory: by the number, of as many rows or more.  begin: the strip's
    first row.
    """

    def __init__(
        self,
        x: Tensor,
        sides: Sequence[Side],
        is_positive: bool,
        begin: int,
        memory: dict[int, Tensor],
    ) -> None:
        self.x, self.sides, self.begin = x, sides, begin
        self.is_positive, self._memory = is_positive, memory

    def kinds(self) -> tuple[bool, ...]:
        return (self.is_positive,)

    def only_(self, values: Tensor, is_positive: bool, otherwise: float = 0.0) -> Tensor:
        if not is_positive:
            values.diagonal(self.begin).fill_(otherwise)
        return values

    def scratch(self, number: int) -> Tensor:
        memory = self._memory.get(number)
        if memory is None:
            memory = self._memory[number] = torch.empty_like(self.x)
        rows = self.x.shape[0]
        return memory if memory.shape[0] == rows else memory[:rows]


class _Found(NamedTuple):
    """The gradients that are asked for, of the sum of all sums or of a weighted one."""

    anchors: Tensor | None
    references: Tensor | None
    logit: Tensor | None


# dL/dz of some entries of one kind; None for 0
_Weigh = Callable[[Entries, bool], Tensor | None]


class PairedSums:
    """Outputs: F and C, [K, lines], and the numbers of pairs, [2, lines].

    The lines are the rows, with ``both_sides`` the rows and then the columns.  The same steps as
    ``engine.whole.WholeMatrix`` for ``SmallOperator``.
    """

    def __init__(
        self,
        problem: PairProblem,
        logit: Tensor,
        terms: tuple[Term, ...],
        shifts: Tensor | None,
        both_sides: bool,
        needs: Sequence[bool],
    ) -> None:
        """needs: whether anchors, references and logit are to have gradients."""
        self.operands: Sequence[Any] = (*problem[:2], shifts)
        self.dtypes = [side.dtype for side in problem[:2] if side is not None]
        self.logits, self.terms, self.both_sides = Logits(logit), terms, both_sides
        self.needs = needs

    def evaluate(self) -> tuple[Tensor, ...] | None:
        """The outputs; None if not all is finite, or products cannot have the negatives' scale."""
        if self.logits.of(False)[0] == 0:
            return None
        self._load()
        norms = (torch.linalg.vector_norm(side) for side in self.sides)
        if not all(math.isfinite(norm.item()) for norm in norms):
            return None
        sums = self._reduction()
        weighs = any(self.needs)
        self.found = self._swept(lambda entries, _: sums.add(entries, weighs))
        n = len(self.sides[0])
        device = self.sides[0].device
        numbers = torch.ones(2, self._num_lines(), dtype=torch.int64, device=device)
        numbers[1] = n - 1
        values, self.slopes, self.counts = sums.end(numbers)
        return values, self.counts, numbers

    def _load(self) -> None:
        anchors, references, shifts = self.operands
        wide = torch.promote_types(anchors.dtype, torch.float32)
        self.sides = anchors.to(wide), references.to(wide)
        self.shifts = None if shifts is None else shifts.to(wide)

    def _num_lines(self) -> int:
        return len(self.sides[0]) * (2 if self.both_sides else 1)

    def _reduction(self) -> Sums:
        return Sums(self.terms, self.logits, self._num_lines(), self.sides[0], self.shifts)

    def parted(self, needs_logit: bool) -> tuple[PairedSums, list[Tensor | None]]:
        """An object without tensors, and the tensors."""
        bare = object.__new__(PairedSums)
        for name in ("dtypes", "logits", "terms", "both_sides", "needs"):
            setattr(bare, name, getattr(self, name))
        # what needs a gradient is the caller's, and is watched
        anchors, references, shifts = (
            x if x is None or x.requires_grad else x.clone() for x in self.operands
        )
        return bare, [*self.found, anchors, references, shifts, self.slopes, self.counts]

    def joined(self, tensors: Sequence[Any]) -> PairedSums:
        """The object that was ``parted``."""
        paired = object.__new__(PairedSums)
        paired.__dict__ = self.__dict__.copy()
        size = len(_Found._fields)
        paired.found = _Found(*tensors[:size])
        *paired.operands, paired.slopes, paired.counts = tensors[size:]
        return paired

    def gradient(self, grad: Tensor, needs: Needs) -> Gradients:
        """The gradients that are needed of anchors, references, logit and shifts."""
        low, high = (end.item() for end in torch.aminmax(grad))
        if low == high:
            found = _Found(*(None if x is None else x * low for x in self.found))
        else:
            self._load()
            sums = self._reduction()
            sums.begin_backward(grad, self.counts)
            found = self._swept(sums.weights)
        of_shifts, shifts = None, self.operands[2]
        if needs[3]:
            reduction = self._shifts_reduction(grad)
            of_shifts = reduction.shifts_gradient(grad, self.slopes).to(shifts.dtype)
        sides = zip(found[:2], self.dtypes, strict=True)
        of_sides = [None if x is None else x.to(dtype) for x, dtype in sides]
        return of_sides[0], of_sides[1], found.logit, of_shifts

    def _shifts_reduction(self, grad: Tensor) -> Sums:
        return Sums(self.terms, self.logits, grad.shape[1], grad)

    # ------------------------------------------------------------------------------- the sweep

    def _swept(self, weigh: _Weigh) -> _Found:
        """Shows all pairs to ``weigh``, strip by strip, and multiplies with what it finds."""
        a, r = self.sides
        n, scale = len(a), self.logits.of(False)[0]
        ratio = self.logits.of(True)[0] / scale
        step = min(n, max(LEAST_ROWS, STRIP_ELEMENTS // n))
        memory: dict[int, Tensor] = {0: a.new_empty(step, n)}
        listed: dict[int, Tensor] = {}
        own = torch.empty_like(a) if self.needs[0] else None
        others = torch.empty_like(r) if self.needs[1] else None
        logit = a.new_zeros(4) if self.needs[2] else None
        for begin in range(0, n, step):
            rows = slice(begin, min(begin + step, n))
            x = torch.mm(a[rows], r.T, out=memory[0][: rows.stop - begin])
            diagonal = x.diagonal(begin).clone()
            w = weigh(_Part(x, self._sides_of(rows), False, begin, memory), False)
            of_positives = _Part(diagonal, self._lines_of(rows), True, begin, listed)
            positive = weigh(of_positives, True)
            if not any(self.needs):
                continue
            if w is None:
                w = torch.zeros_like(x)
            if logit is not None:
                self._add_logit(logit, ((positive, diagonal), (w, x)))
            if positive is not None:
                w.diagonal(begin).copy_(positive.mul_(ratio))
            if own is not None:
                torch.addmm(own[rows], w, r, beta=0, alpha=scale, out=own[rows])
            if others is not None:
                beta = 1 if begin else 0  # 0: not read
                torch.addmm(others, w.T, a[rows], beta=beta, alpha=scale, out=others)
        return _Found(own, others, logit)

    def _add_logit(self, total: Tensor, of_kinds: Sequence[tuple[Tensor | None, Tensor]]) -> None:
        for begin, (weights, x) in zip((0, 2), of_kinds, strict=True):
            if weights is not None:
                part = self.logits.number_gradient(weights, x, begin == 0)
                total[begin : begin + 2] += part

    def _sides_of(self, rows: slice) -> tuple[Side, ...]:
        n = len(self.sides[0])
        sides = MatrixSide(rows, 1), MatrixSide(slice(n, 2 * n), 0)
        return sides if self.both_sides else sides[:1]

    def _lines_of(self, rows: slice) -> tuple[Side, ...]:
        n = len(self.sides[0])
        sides = _Line(rows), _Line(slice(n + rows.start, n + rows.stop))
        return sides if self.both_sides else sides[:1]
