"""Statistics of rows that come in parts, and the gradient of one side by what both sides are."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fusedml.engine import autograd
from fusedml.engine.backends import has_kernels
from fusedml.engine.ops import measure_and_curve, operator
from fusedml.engine.pairs import PairProblem, accumulation_dtype

Side = tuple[Tensor, Tensor]  # statistics and their gradient, [3, lines] each


def statistics_of_parts(
    anchors: Tensor,
    problems: Iterator[PairProblem],
    logit: Tensor,
    thresholds: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Of the anchors, against the references of all problems: [3, n] and the counts [2, n]."""
    n, dtype = anchors.shape[0], accumulation_dtype(anchors.dtype)
    total = anchors.new_full((3, n), -torch.inf, dtype=dtype)
    total[2] = 0
    counts = anchors.new_zeros((2, n), dtype=torch.int64)
    for problem in problems:
        row = autograd.pair_statistics(problem, logit, thresholds, backend)
        total[:2] = torch.logaddexp(total[:2], torch.stack(row[:2]))
        total[2] += row.sum_positive
        counts += torch.stack(row[3:])
    return total, counts


def gradient_of_rows(
    problem: PairProblem,
    backend: str,
    logit: Tensor,
    thresholds: Tensor | None,
    side: Side,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Of anchors, references and logit, by what the rows' statistics are."""
    view = measure_and_curve(problem), problem.excluded, thresholds, None
    statistics, grad = (x.contiguous() for x in side)
    gradient = operator("pair_gradient", backend)
    grads: tuple[Tensor, Tensor, Tensor]
    grads = gradient(*problem[:4], logit, *view, statistics, grad, needs)
    return grads


def gradient_of_anchors(
    problem: PairProblem,
    backend: str,
    logit: Tensor,
    rows: Side | None,
    columns: Side | None,
    thresholds: tuple[Tensor | None, Tensor | None] = (None, None),
    needs_logit: bool = False,
) -> tuple[Tensor, Tensor]:
    """Of the anchors and of the logit, by what the statistics of rows and of columns are.

    rows, columns: None for those nothing is made of.  thresholds: of the rows and of the columns.
    """
    is_mined = thresholds[0] is not None
    if rows and columns and not is_mined and not has_kernels(backend, problem.anchors):
        view = measure_and_curve(problem), problem.excluded
        lines = [torch.cat(both, 1) for both in zip(rows, columns, strict=True)]
        gradient = operator("two_sided_gradient", backend)
        grads = gradient(*problem[:4], logit, *view, *lines, [True, False, needs_logit])
        return grads[0], grads[2]
    total, of_logit = torch.zeros_like(problem.anchors), torch.zeros_like(logit)
    for side, mined in ((0, thresholds[0]), (1, thresholds[1])):
        given = (rows, columns)[side]
        if given is not None:
            turned = problem.turned() if side else problem
            needs = [side == 0, side == 1, needs_logit]
            grads = gradient_of_rows(turned, backend, logit, mined, given, needs)
            total = total + grads[side]
            of_logit = of_logit + grads[2] if needs_logit else of_logit
    return total, of_logit
