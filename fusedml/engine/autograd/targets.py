"""Losses of rows that have one positive each, in a column that is known."""

from __future__ import annotations

import torch
from torch import Tensor

from fusedml.engine import whole_targets
from fusedml.engine.autograd.choices import of_list
from fusedml.engine.averaged import Interval
from fusedml.engine.formulas_by_rows import held
from fusedml.engine.pairs import PairProblem
from fusedml.engine.whole import may_hold_matrices
from fusedml.engine.whole_targets import WholeTargets


def mean_target_loss(
    problem: PairProblem, targets: Tensor, logit: Tensor, interval: Interval, backend: str = "auto"
) -> Tensor | None:
    """The mean of the losses -log(e^{z_it} / sum_j e^{z_ij}) that are in the interval, 0-d.

    targets: [n], int64, the column t of each row's positive.  problem: its labels are ignored, and
    no pair is left out.  Differentiable in embeddings and logit.
    None of a problem that is not held whole, and if not all is finite.
    """
    n, m = problem.shape
    is_free = may_hold_matrices(backend, problem.anchors)
    if (
        n * m > whole_targets.MOST_PAIRS
        or not is_free
        or torch._C._are_functorch_transforms_active()
    ):
        return None
    losses = WholeTargets(problem, targets, logit)
    formula = held("target_losses", problem, (), (targets,), has_labels=False)
    return of_list(losses, formula, problem, logit, interval)
