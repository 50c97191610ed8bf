"""Sums of each row's pairs against thresholds of its own, a block of rows after the other: what the
kernels of ``engine.threshold_rows`` compute, as the definition says it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fusedml.engine.labels import alike
from fusedml.engine.pairs import accumulation_dtype, fill_excluded, problem_of
from fusedml.engine.precision import row_norms
from fusedml.engine.reductions.thresholds import ABSENT, Window
from fusedml.engine.tiled.plan import measured_block, operand
from fusedml.heads import softplus

# pairs of a block of rows, 4 MB in float32
_BLOCK_ELEMENTS = 1 << 20


class _Terms(NamedTuple):
    """f, f' and what else is summed at y and t; which pairs add to it; the numbers of f."""

    form: str
    origin: float
    unit: float
    window: Window

    def of(self, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u = y - t
        if self.form == "pulse":
            return torch.relu(1 - u.abs()), -u.sign() * (u.abs() < 1), u
        if self.form == "sigmoid":
            step = torch.sigmoid(u)
            return step, step * (1 - step), u * step * (1 - step)
        counted = self._inside(u, is_hinge=False).to(u.dtype)
        u = u + self.window.margin
        if self.form == "softplus":
            return softplus(u) * counted, torch.sigmoid(u) * counted, counted
        inside = self._inside(y - t, is_hinge=True).to(u.dtype)
        return u * inside, inside, counted

    def _inside(self, u: Tensor, is_hinge: bool) -> Tensor:
        least, is_taken = self.window.lower(is_hinge)
        return ((u >= least) if is_taken else (u > least)) & (u < self.window.below)


class _Block(NamedTuple):
    """Some rows: what is measured of their pairs, hardnesses, and both kinds of pairs.

    share: how much of dL/dy is through x; not all of it where the harder of two counts.
    """

    rows: slice
    x: Tensor
    y: Tensor
    kinds: tuple[Tensor, Tensor]
    share: Tensor | float = 1.0


class _Thresholds:
    """A problem and its thresholds."""

    def __init__(
        self,
        anchors: Tensor,
        references: Tensor | None,
        anchor_labels: Tensor,
        reference_labels: Tensor | None,
        measure: str,
        self_offset: int | None,
        others: Tensor | None,
        thresholds: Tensor | None,
        count: int,
        form: str,
        numbers: list[float],
    ) -> None:
        labels = anchor_labels, reference_labels
        self.problem = problem_of(anchors, references, *labels, measure, self_offset)
        self.dtype, self.count = accumulation_dtype(anchors.dtype), count
        origin, unit, *window = numbers
        self.terms = _Terms(form, origin, unit, Window(*window))
        n = anchors.shape[0]
        if form == "pulse" or thresholds is None:
            grid = torch.arange(count, dtype=self.dtype, device=anchors.device)
            thresholds = grid.expand(n, count)
        self.t = thresholds
        self.a = anchors.to(self.dtype)
        self.r = self.a if references is None else references.to(self.dtype)
        self.others = None if others is None else others.to(self.dtype)

    def blocks(self) -> Iterator[_Block]:
        problem = self.problem
        n, m = problem.shape
        a, r, *second = (
            operand(x, row_norms(x), problem.measure)
            for x in (self.a, self.r, self.others)
            if x is not None
        )
        labels = problem.anchor_labels
        others = labels if problem.reference_labels is None else problem.reference_labels
        height = max(1, _BLOCK_ELEMENTS // max(1, m))
        for begin in range(0, n, height):
            rows = slice(begin, min(begin + height, n))
            x = a.new_empty(rows.stop - begin, m)
            measured_block(a[rows], r, problem.measure, x)
            same = alike(labels[rows], others)
            exists = fill_excluded(torch.ones_like(same), problem, False, begin)
            y = (x - self.terms.origin) / self.terms.unit
            kinds = same & exists, ~same & exists
            if second:
                measured = measured_block(second[0][rows], r, problem.measure, torch.empty_like(x))
                of_others = (measured - self.terms.origin) / self.terms.unit
                share = (y > of_others).to(y) + (y == of_others).to(y) / 2
                yield _Block(rows, x, torch.maximum(y, of_others), kinds, share)
            else:
                yield _Block(rows, x, y, kinds)

    @property
    def kinds(self) -> tuple[int, ...]:
        """Of the pairs that are summed: both of a grid, else the negatives."""
        return (0, 1) if self.terms.form == "pulse" else (1,)


def threshold_sums(*args: object) -> Tensor:
    """[3, n, count], see ``threshold_sums`` of csrc/kernels/api.h; of pulses [2, n, count]."""
    of = _Thresholds(*args)  # type: ignore[arg-type]
    num_sums = 2 if len(of.kinds) == 2 else 3
    sums = of.a.new_zeros(num_sums, of.a.shape[0], of.count)
    for block in of.blocks():
        for k in range(of.count):
            t = of.t[block.rows, k, None]
            terms = of.terms.of(block.y, t)
            for s in range(num_sums):
                kind, term = (s, terms[0]) if num_sums == 2 else (1, terms[s])
                counted = block.kinds[kind] & (t < ABSENT)
                sums[s, block.rows, k] = torch.where(counted, term, 0).sum(1)
    return sums


def threshold_gradient(*args: object) -> tuple[Tensor, Tensor]:
    """Of anchors and references; takes the arguments of ``threshold_sums``, then sums_grad,
    largest_weights and needs, see csrc/kernels/api.h.
    """
    *of_sums, sums_grad, _, needs = args
    of = _Thresholds(*of_sums)  # type: ignore[arg-type]
    assert isinstance(sums_grad, Tensor) and isinstance(needs, list)
    # contiguous, also of no rows
    a_grad, r_grad = (x.new_zeros(x.shape) for x in (of.a, of.r))
    for block in of.blocks():
        w = torch.zeros_like(block.y)
        for kind in of.kinds:
            g = sums_grad[kind] if of.terms.form == "pulse" else sums_grad
            weight = _weights_of(of, block, g[block.rows])
            w += torch.where(block.kinds[kind], weight, 0)
        w = block.share * w / of.terms.unit * _slope(of.problem.measure, block.x)
        a, a_of = of.a[block.rows], w @ of.r
        r_of = w.T @ a
        if of.problem.measure != "dot":
            a_of -= w.sum(1, keepdim=True) * a
            r_of -= w.sum(0)[:, None] * of.r
        a_grad[block.rows] += a_of
        r_grad += r_of
    dtype, none = of.problem.anchors.dtype, of.a.new_zeros(0)
    if of.problem.references is None:
        a_grad, r_grad = a_grad + r_grad, none
    return (
        (a_grad if needs[0] else none).to(dtype),
        (r_grad if needs[1] else none).to(dtype),
    )


def _weights_of(of: _Thresholds, block: _Block, g: Tensor) -> Tensor:
    """dL/dy of the pairs of a block, whatever their kind."""
    if of.terms.form == "pulse":  # the slope between two edges
        cells = block.y.floor().clamp(0, of.count - 2).long()
        return torch.gather(g.diff(dim=1), 1, cells)
    of_threshold: Callable[[int], Tensor] = (
        (lambda k: g[:, k, None]) if of.terms.form == "sigmoid" else (lambda _: g[:, None])
    )
    weight = torch.zeros_like(block.y)
    for k in range(of.count):
        t = of.t[block.rows, k, None]
        slope = of.terms.of(block.y, t)[1]
        weight += torch.where(t < ABSENT, of_threshold(k) * slope, 0)
    return weight


def _slope(measure: str, x: Tensor) -> Tensor:
    """dx/ds of the dot product s; 0 where a distance is 0."""
    if measure == "dot":
        return torch.ones_like(x)
    if measure == "squared_euclidean":
        return torch.where(x == 0, 0, torch.full_like(x, -2))
    return torch.where(x == 0, 0, -1 / x)
