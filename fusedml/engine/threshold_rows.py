"""Triplets, ranks and histograms where there are compiled kernels: operators made of operators;
and each positive pair's hardest negative beyond it.

``threshold_sums`` adds what each row's pairs make of thresholds of its own, and
``threshold_gradient`` weighs the pairs.  The thresholds of a row are its positives, listed from the
labels and measured by ``pair_values``; so a row's negatives meet them without a triplet being
listed.  There may be n^2 positives: their rows come in strips of bounded size, of which nothing is
kept, and the backward measures each strip again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fusedml.engine.pairs import PairProblem, accumulation_dtype, problem_of, widest_dtype
from fusedml.engine.positives import positives_of
from fusedml.engine.reductions.extrema import NO_COLUMN
from fusedml.engine.reductions.ranks import RankLosses
from fusedml.engine.reductions.thresholds import ABSENT
from fusedml.engine.tiled.thresholds import MOST_DIRECT, rectangle_of
from fusedml.reducers import zero_loss

# thresholds of a strip, 16 MB in float32
STRIP_ELEMENTS = 1 << 22


class _Strips:
    """A problem in strips of rows, each with the hardnesses x / unit of its positives.

    is_whole: all rows are one strip.
    """

    def __init__(self, operators: Any, problem: PairProblem, unit: float) -> None:
        self.operators, self.problem, self.unit = operators, problem, unit
        self.positives = positives_of(problem)
        self.dtype = accumulation_dtype(problem.anchors.dtype)
        self.wide = widest_dtype(problem.anchors.device)
        n = problem.shape[0]
        most = int(self.positives.counts.max()) if n else 0
        self.height = max(1, STRIP_ELEMENTS // max(1, most))
        self.is_whole = self.height >= n

    def __iter__(self) -> Iterator[_Strip]:
        n = self.problem.shape[0]
        for begin in range(0, n, self.height):
            yield _Strip(self, slice(begin, min(begin + self.height, n)))

    def poison(self) -> Tensor:
        """0, or NaN if any embedding is not finite."""
        return zero_loss(*self.problem[:2]).to(self.dtype)


class _Strip:
    """Some rows.  t: [rows, k], ascending, padded."""

    def __init__(self, strips: _Strips, rows: slice) -> None:
        self.strips, self.rows = strips, rows
        problem = strips.problem
        self.sides, self.excluded = problem[:4], None
        # codes of one side are alike: of a row with itself no negative is made
        if problem.references is not None and problem.excluded is not None:
            self.excluded = (problem.excluded + rows.start) % max(1, problem.shape[1])
        if not strips.is_whole:
            rectangle = rectangle_of(problem)
            anchors, labels = rectangle.anchors[rows], rectangle.anchor_labels[rows]
            self.sides = anchors, rectangle.references, labels, rectangle.reference_labels
        self.pairs = strips.positives.of_rows(rows.start, rows.stop)
        self._lines = self.pairs[0] - rows.start
        counts = torch.bincount(self._lines, minlength=rows.stop - rows.start)
        within = torch.arange(len(self._lines), device=counts.device)
        self._places = within - (counts.cumsum(0) - counts)[self._lines]
        self.num_positives = counts
        x = strips.operators.pair_values(*problem[:2], *self.pairs, problem.measure)
        t = x.new_full((len(counts), int(counts.max())), ABSENT)
        t[self._lines, self._places] = x / strips.unit
        self.t, self._order = t.sort(1)

    def sums(self, form: str, numbers: list[float]) -> Tensor:
        return self.strips.operators.threshold_sums(*self.arguments(form, numbers))

    def arguments(self, form: str, numbers: list[float]) -> tuple[Any, ...]:
        view = self.strips.problem.measure, self.excluded
        return *self.sides, *view, None, self.t, self.t.shape[1], form, numbers

    def of_pairs(self, weights: Tensor) -> Tensor:
        """Those of the listed pairs from [rows, k], as t."""
        placed = torch.empty_like(weights).scatter_(1, self._order, weights)
        return placed[self._lines, self._places]


class _Gradients:
    """The gradients of both sides, added up."""

    def __init__(self, strips: _Strips, needs: list[bool]) -> None:
        self.strips, problem = strips, strips.problem
        self.is_self = problem.references is None
        self.needs = [needs[0], needs[1] and not self.is_self]
        self.anchors, self.references = (
            torch.zeros(x.shape if x is not None and need else 0, dtype=strips.dtype, device=device)
            for x, need, device in zip(
                problem[:2], self.needs, [problem.anchors.device] * 2, strict=True
            )
        )

    def add_negatives(
        self, strip: _Strip, form: str, numbers: list[float], grad: Tensor, largest: Tensor
    ) -> None:
        """Those of the sums, weighted by ``grad``, but through t.  largest: bounds of dL/dy."""
        of_sides = self.needs[0], self.needs[0] if self.is_self else self.needs[1]
        of_rows, of_others = self.strips.operators.threshold_gradient(
            *strip.arguments(form, numbers), grad.contiguous(), largest, list(of_sides)
        )
        if self.needs[0]:
            self.anchors[strip.rows] += of_rows
        if of_others.numel():
            others = self.anchors if self.is_self else self.references
            others += of_others

    def add_positives(self, strip: _Strip, weights: Tensor) -> None:
        """Those through t.  weights: dL/dt, [rows, k]."""
        problem = self.strips.problem
        grad = strip.of_pairs(weights / self.strips.unit)
        of_sides = self.strips.operators.pair_values_gradient(
            *problem[:2], *strip.pairs, problem.measure, grad, self.needs
        )
        self.anchors += of_sides[0]
        self.references += of_sides[1]

    def results(self) -> tuple[Tensor, Tensor]:
        dtype = self.strips.problem.anchors.dtype
        return self.anchors.to(dtype), self.references.to(dtype)


def _taken(args: tuple[Any, ...]) -> tuple[PairProblem, Tensor, str, float]:
    """Problem, numbers, form and sign of the arguments of ``triplet_losses`` or ``rank_losses``."""
    anchors, references, labels, others, numbers, measure, self_offset, form = args
    problem = problem_of(anchors, references, labels, others, measure, self_offset)
    return problem, numbers, form, 1.0 if measure == "dot" else -1.0


def triplet_losses(operators: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As ``engine.tiled.triplet_losses``; the last result is kept of few positives in one strip."""
    problem, numbers, form, sign = _taken(args)
    strips, terms = _Strips(operators, problem, sign), [0.0, sign, *numbers.tolist()]
    n, anchors = problem.shape[0], problem.anchors
    losses, of_margin = anchors.new_zeros(2, n, dtype=strips.dtype)
    counts = torch.zeros(n, dtype=torch.int64, device=anchors.device)
    met = anchors.new_zeros(MOST_DIRECT, n, dtype=strips.dtype)
    for strip in strips:
        sums = strip.sums(form, terms)
        losses[strip.rows] = sums[0].sum(1, dtype=strips.wide).to(strips.dtype)
        of_margin[strip.rows] = sums[1].sum(1)
        counts[strip.rows] = sums[2].sum(1, dtype=strips.wide).to(torch.int64)
        if _keeps_met(strips, strip):
            met[: sums.shape[2]] = sums[1].T
    return losses + strips.poison(), counts, of_margin, met


def _keeps_met(strips: _Strips, strip: _Strip) -> bool:
    return strips.is_whole and strip.t.shape[1] <= MOST_DIRECT


def triplet_gradient(operators: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    """As ``engine.tiled.triplet_gradient``."""
    *of_losses, of_margin, met, losses_grad, needs = args
    problem, numbers, form, sign = _taken(tuple(of_losses))
    strips, terms = _Strips(operators, problem, sign), [0.0, sign, *numbers.tolist()]
    gradients = _Gradients(strips, needs)
    for strip in strips if needs[0] or needs[1] else ():
        grad = losses_grad[strip.rows].to(strips.dtype)
        gradients.add_negatives(strip, form, terms, grad, grad * strip.num_positives)
        k = strip.t.shape[1]
        slopes = met[:k].T if _keeps_met(strips, strip) else strip.sums(form, terms)[1]
        gradients.add_positives(strip, -grad[:, None] * slopes)
    numbers_grad = numbers.new_zeros(numbers.shape if needs[2] else 0)
    if needs[2]:
        numbers_grad[0] = (of_margin * losses_grad).sum()
    return *gradients.results(), numbers_grad


def semihard_triplets(operators: Any, problem: PairProblem) -> tuple[Tensor, Tensor, Tensor]:
    """(i, p, n) [k], row by row: for each positive pair the hardest negative that is easier, or
    the easiest where none is; no triplet of a row without negatives.
    """
    sign = 1.0 if problem.measure == "dot" else -1.0
    parts = [torch.zeros((3, 0), dtype=torch.int64, device=problem.anchors.device)]
    for strip in _Strips(operators, problem, sign):
        columns = operators.threshold_pairs(*strip.sides, problem.measure, strip.excluded, strip.t)
        parts.append(torch.stack([*strip.pairs, strip.of_pairs(columns)]))
    rows, p, n = torch.cat(parts, 1)
    if bool((n == NO_COLUMN).any()):
        _, easiest = operators.extreme_pairs(*problem.arguments, None, [True, sign < 0])
        n = torch.where(n == NO_COLUMN, easiest[1][rows], n)
        (kept,) = torch.where(n != NO_COLUMN)
        rows, p, n = rows[kept], p[kept], n[kept]
    return rows, p, n


def rank_losses(operators: Any, *args: Any) -> tuple[Tensor, Tensor]:
    """As ``engine.tiled.rank_losses``; of the ranks nothing is kept."""
    problem, numbers, form, sign = _taken(args)
    unit = sign * numbers[0].item()
    strips = _Strips(operators, problem, unit)
    losses = problem.anchors.new_zeros(problem.shape[0], dtype=strips.dtype)
    for strip in strips:
        ranks = strip.sums("sigmoid", _plain(unit))[0]
        losses[strip.rows] = RankLosses(strip.t, ranks, numbers, form).values()
    return losses + strips.poison(), losses.new_zeros(MOST_DIRECT, len(losses))


def _plain(unit: float, origin: float = 0.0) -> list[float]:
    """The numbers of a form without a window."""
    return [origin, unit, 0.0, -math.inf, -math.inf, math.inf]


def rank_gradient(operators: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    """As ``engine.tiled.rank_gradient``."""
    *of_losses, _, losses_grad, needs = args
    problem, numbers, form, sign = _taken(tuple(of_losses))
    unit = sign * numbers[0].item()
    strips = _Strips(operators, problem, unit)
    gradients = _Gradients(strips, needs)
    numbers_grad = numbers.new_zeros(numbers.shape if needs[2] else 0)
    for strip in strips:
        ranks, slopes, moments = strip.sums("sigmoid", _plain(unit))
        losses = RankLosses(strip.t, ranks, numbers, form)
        upstream = losses_grad[strip.rows].to(strips.dtype)
        g, of_t, of_parameters, of_log = losses.gradient(upstream)
        if needs[0]:
            largest = g.abs().sum(1) / 4  # the slope of a step is at most 1/4
            gradients.add_negatives(strip, "sigmoid", _plain(unit), g, largest)
            gradients.add_positives(strip, of_t - g * slopes)
        if needs[2]:
            of_log = of_log - (g * moments).sum(1)
            of_temperature = of_log / numbers[0].to(of_log)
            numbers_grad += torch.cat([of_temperature[None], of_parameters]).to(numbers).sum(1)
    return *gradients.results(), numbers_grad


def pair_histograms(
    operators: Any,
    anchors: Tensor,
    labels: Tensor,
    measure: str,
    lowest: float,
    delta: float,
    num_edges: int,
    per_row: bool,
) -> Tensor:
    """As ``engine.tiled.pair_histograms``."""
    arguments = _grid(anchors, labels, measure, lowest, delta, num_edges)
    histograms: Tensor = operators.threshold_sums(*arguments)
    histograms[0].masked_fill_((labels < 0)[:, None], 0)
    if not per_row:
        wide = widest_dtype(anchors.device)
        histograms = histograms.sum(1, keepdim=True, dtype=wide).to(histograms.dtype)
    return histograms + zero_loss(anchors).to(histograms.dtype)


def pair_histograms_gradient(operators: Any, *args: Any) -> Tensor:
    """As ``engine.tiled.pair_histograms_gradient``."""
    anchors, labels, *grid, _, histograms_grad, needs = args
    grad = histograms_grad.to(accumulation_dtype(anchors.dtype))
    grad = grad.expand(2, anchors.shape[0], -1).clone(memory_format=torch.contiguous_format)
    grad[0].masked_fill_((labels < 0)[:, None], 0)
    largest = grad.diff(dim=2).abs().amax((0, 2))
    arguments = _grid(anchors, labels, *grid)
    needs = [needs[0], False]
    of_anchors: Tensor = operators.threshold_gradient(*arguments, grad, largest, needs)[0]
    return of_anchors


def _grid(
    anchors: Tensor, labels: Tensor, measure: str, lowest: float, delta: float, num_edges: int
) -> tuple[Any, ...]:
    sides = anchors, None, labels, None
    return *sides, measure, 0, None, None, num_edges, "pulse", _plain(delta, lowest)


#: operators made of the others of their namespace, which is their first argument
KERNELS: dict[str, Callable[..., Any]] = {
    "triplet_losses": triplet_losses,
    "triplet_gradient": triplet_gradient,
    "rank_losses": rank_losses,
    "rank_gradient": rank_gradient,
    "pair_histograms": pair_histograms,
    "pair_histograms_gradient": pair_histograms_gradient,
}
