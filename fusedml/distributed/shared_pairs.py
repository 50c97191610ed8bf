"""All pairs of the rows of all ranks, each rank reducing its own rows.

A rank has rows a_i of its own and meets all others r_j.  It reduces its rows' logits to statistics,
a few floats a row, and these are gathered: heads and reducers see those of all rows.  The measures
being symmetric, the whole gradient of an own row,

    dL/da_i = sum_j (w_ij + w_ji) dx_ij/da_i,

comes of the measures x_ij of the strip of own rows, w_ij being made of the statistics of row i and
w_ji of those of row j, which are known.  No gradient travels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fusedml.distances import Measure
from fusedml.distributed.exchange import Exchange
from fusedml.distributed.gradients import (
    Side,
    gradient_of_anchors,
    gradient_of_rows,
    statistics_of_parts,
)
from fusedml.engine import autograd
from fusedml.engine.pairs import PairProblem
from fusedml.engine.positives import num_positives
from fusedml.engine.precision import prepare, tile_dtype, without_autocast
from fusedml.engine.reductions.entries import add_at
from fusedml.engine.routes.choice import Pairs
from fusedml.engine.routes.pair_losses import (
    ListedLosses,
    ListedMeasures,
    PairLosses,
    has_negative,
    losses_of_positives,
)
from fusedml.formulas import Formula, Hyperparameter, PairFormula, RowFormula, SumFormula
from fusedml.heads import PairSums, RowStatistics
from fusedml.reducers import RowSums


class Strip:
    """Own rows [n, d] against those of all ranks, as they are measured.

    codes: labels of all rows, [N].  columns: makes the rows of the other ranks, a part at a time,
    each with its places among all; it is called once for every sweep.
    """

    def __init__(
        self,
        exchange: Exchange,
        own: Tensor,
        codes: Tensor,
        columns: Callable[[], Iterator[tuple[slice, Tensor]]],
        measure: str,
        backend: str,
    ) -> None:
        self.exchange, self.own, self.codes, self.columns = exchange, own, codes, columns
        self.measure, self.backend = measure, backend

    def own_problem(self, curve: str = "affine") -> PairProblem:
        """The own rows among themselves."""
        codes = self.codes[self.exchange.own]
        return PairProblem(self.own, None, codes, None, self.measure, curve=curve)

    def problems(self, curve: str = "affine") -> Iterator[tuple[slice, PairProblem]]:
        """The own rows against those of others, a part at a time."""
        own_codes = self.codes[self.exchange.own]
        for places, rows in self.columns():
            if len(rows) and len(self.own):
                codes = self.codes[places]
                yield (
                    places,
                    PairProblem(self.own, rows, own_codes, codes, self.measure, False, curve=curve),
                )

    @torch.no_grad()
    def thresholds(self, epsilon: Hyperparameter) -> Tensor:
        """[2, n], see ``FusedPairs.mining_thresholds``."""
        positive, negative = autograd.pair_extrema(self.own_problem(), self.backend)
        for _, problem in self.problems():
            others = autograd.pair_extrema(problem, self.backend)
            positive = torch.minimum(positive, others[0])
            negative = torch.maximum(negative, others[1])
        return torch.stack([negative + epsilon, positive - epsilon]).to(positive)

    def statistics(
        self, logit: Tensor, curve: str, thresholds: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Of the own rows: [3, n] and the counts [2, n]."""

        def all_of_them() -> Iterator[PairProblem]:
            yield self.own_problem(curve)
            yield from (problem for _, problem in self.problems(curve))

        return statistics_of_parts(self.own, all_of_them(), logit, thresholds, self.backend)

    def gradient(
        self,
        logit: Tensor,
        curve: str,
        thresholds: Tensor | None,
        statistics: Tensor,
        grad: Tensor,
        needs_logit: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Of the own rows, and the own rows' part of that of the logit.

        thresholds, statistics, grad: of all rows, [2, N] and [3, N].
        """

        def of_lines(lines: slice) -> tuple[Tensor | None, Side]:
            mined = None if thresholds is None else thresholds[:, lines].contiguous()
            return mined, (statistics[:, lines], grad[:, lines])

        mined, own = of_lines(self.exchange.own)
        needs = [True, False, needs_logit]
        given = self.own_problem(curve), self.backend, logit, mined, own, needs
        total, _, of_logit = gradient_of_rows(*given)
        for places, problem in self.problems(curve):
            of_them, theirs = of_lines(places)
            of_both = mined, of_them
            sides = problem, self.backend, logit, own, theirs, of_both, needs_logit
            rows, part = gradient_of_anchors(*sides)
            total = total + rows
            # a pair of two ranks is met by both, each time as a row's and as a column's
            of_logit = of_logit + part / 2 if needs_logit else of_logit
        return total, of_logit if needs_logit else None


class _SharedStatistics(torch.autograd.Function):
    """The statistics of all rows, [3, N], and their counts, [2, N], from the own rows."""

    @staticmethod
    def forward(
        ctx: Any,
        own: Tensor,
        logit: Tensor,
        strip: Strip,
        curve: str,
        thresholds: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        exchange = strip.exchange
        with without_autocast(own):
            floats, counts = strip.statistics(logit, curve, thresholds)
        statistics, numbers = (exchange.gather(x.T).T.contiguous() for x in (floats, counts))
        of_all = None if thresholds is None else exchange.gather(thresholds.T).T.contiguous()
        ctx.strip, ctx.curve = strip, curve
        ctx.save_for_backward(logit, statistics, of_all, own)  # the last for the version check
        ctx.mark_non_differentiable(numbers)
        ctx.set_materialize_grads(False)
        return statistics, numbers

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> Any:
        if grad is None:
            return (None,) * 5
        logit, statistics, thresholds, _ = ctx.saved_tensors
        needs_logit = ctx.needs_input_grad[1]
        given = ctx.curve, thresholds, statistics, grad, needs_logit
        with torch.no_grad(), without_autocast(grad):
            rows, of_logit = ctx.strip.gradient(logit, *given)
        scale = ctx.strip.exchange.num_ranks  # as in exchange._Joined
        return rows * scale, None if of_logit is None else of_logit * scale, None, None, None


class SharedPairs:
    """All pairs of the rows of all ranks, every rank having the results of all rows.

    problem: of all rows, its embeddings joined as by ``Exchange.joined``; NaN where they do not
        travel as a whole.  own: this rank's embeddings, as given.
    whole: makes the pairs of the problem on this rank alone, for what strips do not serve.
    """

    def __init__(
        self,
        exchange: Exchange,
        kind: str,
        problem: PairProblem,
        own: Tensor,
        measure: Measure,
        backend: str,
        whole: Callable[[], Pairs],
    ) -> None:
        self.problem, self.kind, self._whole = problem, kind, whole
        self.sign = measure.sign
        dtype = tile_dtype(own)
        rows = prepare(own, dtype, measure.normalize)
        constant = rows.detach()

        def in_turn() -> Iterator[tuple[slice, Tensor]]:
            return exchange.ring(constant)

        def at_once() -> Iterator[tuple[slice, Tensor]]:
            for places in (slice(0, exchange.begin), slice(exchange.end, exchange.num_rows)):
                yield places, all_rows[places]

        if kind == "gather":
            with torch.no_grad():
                all_rows = prepare(problem.anchors.detach(), dtype, measure.normalize)
        columns = in_turn if kind == "ring" else at_once
        codes = problem.anchor_labels
        self.rows = rows
        self.strip = Strip(exchange, constant, codes, columns, measure.name, backend)

    @cached_property
    def whole(self) -> Pairs:
        """The pairs on this rank alone.  Raises ValueError where not all rows are here."""
        if self.kind == "ring":
            raise ValueError(
                "exchange='ring' serves losses of one term per anchor; for others take "
                "exchange='gather'"
            )
        return self._whole()

    def _statistics(self, formula: Formula, epsilon: Hyperparameter | None = None) -> RowStatistics:
        thresholds = None if epsilon is None else self.strip.thresholds(epsilon)
        logit = formula.logit(self.sign)
        given = self.rows, logit, self.strip, formula.curve, thresholds
        statistics, counts = _SharedStatistics.apply(*given)
        return RowStatistics(*statistics.unbind(0), *counts.unbind(0))

    def row_losses(self, formula: RowFormula, epsilon: Hyperparameter | None = None) -> Tensor:
        return formula.losses(self._statistics(formula, epsilon))

    def row_statistics(self, formula: Formula) -> RowStatistics:
        return self._statistics(formula)

    def pair_losses(self, formula: PairFormula) -> PairLosses:
        """The log-sum-exps by strips; the positive pairs are listed, by every rank all of them."""

        def listed() -> ListedLosses:
            x, i, j = self.whole.measures_of(True)[:3]
            lse = self._statistics(formula).lse_negative
            return ListedLosses(losses_of_positives(formula, self.sign, x, lse[i], lse[j]), i, j)

        def rows() -> RowSums:
            single = listed()
            counts = num_positives(self.problem)
            sums = add_at(single.losses.new_zeros(len(counts)), single.rows, single.losses)
            return RowSums(sums, counts)

        return PairLosses(rows, listed)

    def pair_sums(self, formula: SumFormula) -> PairSums:
        return self.whole.pair_sums(formula)

    def measures_of(self, is_positive: bool) -> ListedMeasures:
        return self.whole.measures_of(is_positive)

    def has_negative(self) -> Tensor | bool:
        return has_negative(self.problem)
