"""Losses of two sets of features, each rank reducing its own rows of both.

A row of one set meets all rows of the other.  As in ``shared_pairs`` its whole gradient comes of
its own statistics and of those of all others, and no gradient travels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fusedml.distributed.exchange import Exchange
from fusedml.distributed.gradients import Side, gradient_of_anchors, statistics_of_parts
from fusedml.engine.pairs import PairProblem
from fusedml.engine.precision import without_autocast
from fusedml.formulas import pack
from fusedml.heads import ROW_FORMS, RowStatistics


class Towers:
    """Own rows of two sets, [n, d] and [m, d], m >= n, as they are measured: dot products.

    Row i of one set belongs to row i of the other, on every rank.
    """

    def __init__(self, exchanges: tuple[Exchange, Exchange], kind: str, backend: str) -> None:
        self.exchanges, self.kind, self.backend = exchanges, kind, backend
        of_queries, of_others = exchanges
        codes, spare, begin = [], of_queries.num_rows, 0
        for n, m in zip(of_queries.sizes, of_others.sizes, strict=True):
            codes += [_numbers(begin, n), _numbers(spare, m - n)]
            begin, spare = begin + n, spare + m - n
        self.codes = _numbers(0, begin), torch.cat(codes)
        self.parts: list[Tensor] = []

    def load(self, own: tuple[Tensor, Tensor]) -> None:
        """Takes the own rows of both sets, and those of all ranks unless they come in turn."""
        self.own = own
        if self.kind == "gather":
            given = zip(self.exchanges, own, strict=True)
            self.parts = [exchange.gather(x) for exchange, x in given]

    def problems(self, side: int) -> Iterator[tuple[slice, PairProblem]]:
        """The own rows of a set against all of the other, with the places of these."""
        own, exchange = self.own[side], self.exchanges[1 - side]
        device = own.device
        own_codes = self.codes[side][self.exchanges[side].own].to(device)
        for places, rows in self._columns(exchange, 1 - side):
            if len(own) and len(rows):
                codes = self.codes[1 - side][places].to(device)
                yield places, PairProblem(own, rows, own_codes, codes, "dot", False)

    def _columns(self, exchange: Exchange, side: int) -> Iterator[tuple[slice, Tensor]]:
        if self.kind == "gather":
            yield slice(0, exchange.num_rows), self.parts[side]
            return
        yield exchange.own, self.own[side]
        yield from exchange.ring(self.own[side])


def _numbers(begin: int, size: int) -> Tensor:
    return torch.arange(begin, begin + size, device="cpu")


class _SharedTowers(torch.autograd.Function):
    """Statistics of all rows of the first set, [3, N], and of the second, [3, M], if ``both``."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, others: Tensor, logit: Tensor, towers: Towers, both: bool
    ) -> tuple[Tensor, ...]:
        towers.load((features.detach(), others.detach()))
        statistics: list[Tensor] = []
        counts: list[Tensor] = []
        with without_autocast(features):
            for side in range(1 + both):
                problems = (problem for _, problem in towers.problems(side))
                given = towers.own[side], problems, logit, None, towers.backend
                for made, x in zip((statistics, counts), statistics_of_parts(*given), strict=True):
                    made.append(towers.exchanges[side].gather(x.T).T.contiguous())
        ctx.towers = towers
        ctx.save_for_backward(logit, *statistics, features, others)  # the last: version checks
        ctx.mark_non_differentiable(*counts)
        return (*statistics, *counts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        towers, needs_logit = ctx.towers, ctx.needs_input_grad[2]
        logit, *statistics, _, _ = ctx.saved_tensors
        of_all: list[Side | None] = [*zip(statistics, grads, strict=False), None][:2]
        found, of_logit = [], torch.zeros_like(logit)
        scale = towers.exchanges[0].num_ranks  # as in exchange._Joined
        with torch.no_grad(), without_autocast(grads[0]):
            for side in range(2):
                total = torch.zeros_like(towers.own[side])
                own, columns = towers.exchanges[side].own, of_all[1 - side]
                rows = _part(of_all[side], own)
                for places, problem in towers.problems(side):
                    theirs = _part(columns, places)
                    needs = needs_logit and side == 0  # of each pair once
                    given = problem, towers.backend, logit, rows, theirs
                    grad, part = gradient_of_anchors(*given, needs_logit=needs)
                    total = total + grad
                    of_logit = of_logit + part if needs else of_logit
                found.append(total * scale)
        return *found, of_logit * scale if needs_logit else None, None, None


def _part(side: Side | None, places: slice) -> Side | None:
    """Of some lines."""
    if side is None:
        return None
    statistics, grad = side
    return statistics[:, places], grad[:, places]


def shared_losses(towers: Towers, own: tuple[Tensor, Tensor], logit: Tensor, both: bool) -> Tensor:
    """The cross-entropies of all rows, [N]; [2, N] with those of the rows that belong to these."""
    features, others = own
    found = _SharedTowers.apply(features, others, logit, towers, both)
    form, losses = ROW_FORMS["cross_entropy"], []
    for statistics, counts in zip(found[: 1 + both], found[1 + both :], strict=True):
        losses.append(form(RowStatistics(*statistics, *counts), pack()).value)
    if not both:
        return losses[0]
    belongs = towers.codes[1] < towers.exchanges[0].num_rows
    return torch.stack([losses[0], losses[1][belongs.to(features.device)]])
