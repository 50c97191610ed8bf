"""Row losses whose gradient is found in the forward, against references that need none.

By tiles a step takes three matrix products there: the measures, the measures again, and the
gradient of the anchors.  A strip of rows against all columns is small enough to be held: its
statistics make the rows' losses and their derivatives, and these the weights of its pairs, while
the measures are there.  Two products, and what is kept is the gradient of each row's loss, [n, d],
which the backward multiplies by what a reducer sends for the row.

For matrices that are too large to be kept as a whole (``engine.kept``), such as a batch against a
memory bank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fusedml.engine import kept
from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.precision import prepared
from fusedml.engine.tiled.gradient import GradientAccumulator, add_statistics_gradient
from fusedml.engine.tiled.plan import TiledProblem
from fusedml.engine.tiled.statistics import LogitScales, bounded_kinds, sweep_statistics
from fusedml.engine.whole import Gradients, Needs, may_hold_matrices
from fusedml.heads import ROW_FORMS, RowStatistics

# measures of a strip: 16 MB in float32; of half as many rows products took a fifth longer
STRIP_ELEMENTS = 1 << 22
# rows of a strip, so that its products are products of matrices
LEAST_ROWS = 32


def may_be_eager(
    backend: str, problem: PairProblem, logit: Tensor, head_parameters: Tensor
) -> bool:
    """Whether only the anchors need a gradient, and the matrix is too large to be kept."""
    anchors, references = problem.anchors, problem.references
    if references is None or problem.extent is not None or not may_hold_matrices(backend, anchors):
        return False
    if not (torch.is_grad_enabled() and anchors.requires_grad):
        return False
    if references.requires_grad or logit.requires_grad or head_parameters.requires_grad:
        return False
    n, m = problem.shape
    size = n * m * accumulation_dtype(anchors.dtype).itemsize
    return size > kept.MOST_BYTES and m * min(n, LEAST_ROWS) <= STRIP_ELEMENTS


class EagerRowLosses:
    """L_i, [n]; the steps of ``engine.whole.WholeMatrix`` for ``SmallOperator``."""

    row_grads: Tensor
    dtype: torch.dtype

    def __init__(
        self,
        problem: PairProblem,
        logit: Tensor,
        thresholds: Tensor | None,
        head: str,
        head_parameters: Tensor,
    ) -> None:
        self.problem, self.logit, self.thresholds = problem, logit, thresholds
        self.head, self.head_parameters = head, head_parameters

    def evaluate(self) -> tuple[Tensor]:
        given = prepared(self.problem, self.problem.anchors.dtype)
        tiled, scales = TiledProblem(given), LogitScales(self.logit, given.curve)
        thresholds = None if self.thresholds is None else tiled.sorted_rows(self.thresholds)
        gradients = GradientAccumulator(tiled, [True, False, False], takes_all_tiles=True)
        losses = tiled.a.new_empty(1, tiled.num_rows)
        step = min(tiled.num_rows, max(1, STRIP_ELEMENTS // tiled.num_cols))
        measured = tiled.a.new_empty(step, tiled.num_cols)
        holds_exponentials = (
            thresholds is None
            and given.measure == "dot"
            and bounded_kinds(tiled, scales)[False]
            and not scales.bends(False)
        )
        for strip in tiled.strips(measured, holds_exponentials):
            rows = strip.swept_rows
            statistics, counts = sweep_statistics(strip, scales, thresholds)
            row = RowStatistics(*statistics[:, rows], *counts[:, rows])
            of_rows = ROW_FORMS[self.head](row, self.head_parameters)
            losses[0, rows] = of_rows.value
            partials = torch.zeros_like(statistics)
            partials[:, rows] = of_rows.partials()
            strip.writes_measures, gradients.problem = False, strip
            add_statistics_gradient(gradients, scales, statistics, partials, thresholds)
        # in the dtype of the sums, to be rounded once
        self.row_grads = gradients.results(given._replace(anchors=tiled.a), self.logit)[0]
        return (tiled.to_rows(losses, given.anchors)[0],)

    def parted(self, needs_logit: bool) -> tuple[EagerRowLosses, list[Tensor]]:
        """As of ``WholeMatrix``."""
        bare = object.__new__(EagerRowLosses)
        bare.dtype = self.problem.anchors.dtype
        return bare, [self.row_grads]

    def joined(self, tensors: Sequence[Any]) -> EagerRowLosses:
        """As of ``WholeMatrix``."""
        eager = object.__new__(EagerRowLosses)
        eager.dtype, (eager.row_grads,) = self.dtype, tensors
        return eager

    def gradient(self, grad: Tensor, needs: Needs) -> Gradients:
        """As of ``WholeMatrix``."""
        return (self.row_grads * grad[:, None]).to(self.dtype), None, None, None
