"""What the choices among ``torch.autograd.Function``s ask of a problem."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusedml.engine.averaged import AveragedLosses, Interval
from fusedml.engine.formulas_by_rows import Held
from fusedml.engine.functions import SmallOperator
from fusedml.engine.pairs import PairProblem
from fusedml.engine.precision import prepared
from fusedml.engine.routes.distinct_pairs import PairIndices
from fusedml.engine.whole import is_small, may_hold_matrices


def is_held_whole(backend: str, problem: PairProblem) -> bool:
    """Whether the matrix of the problem is held whole."""
    return (
        problem.extent is None
        and is_small(backend, problem.anchors, problem.references)
        and not torch._C._are_functorch_transforms_active()
    )


def is_held(backend: str, problem: PairProblem, indices: PairIndices | None) -> bool:
    """Whether the matrix of the problem is held whole, or as large as a list, or the rows of few
    listed pairs.
    """
    if is_held_whole(backend, problem):
        return True
    if (
        indices is None
        or not may_hold_matrices(backend, problem.anchors)
        or torch._C._are_functorch_transforms_active()
    ):
        return False
    size = indices.size(*problem[:2])
    return size.fills_matrix or size.is_gathered


def records(*operands: Tensor | None) -> bool:
    """Whether a backward may follow."""
    if torch.is_grad_enabled():
        for x in operands:
            if x is not None and x.requires_grad:
                return True
    return False


def as_tiled(problem: PairProblem) -> PairProblem:
    """The problem as the tiles see it."""
    return prepared(problem, problem.anchors.dtype) if problem.normalize else problem


def of_list(
    losses: Any,
    formula: tuple[Held, tuple[Tensor | None, ...]],
    problem: PairProblem,
    logit: Tensor | None,
    interval: Interval | None,
) -> Tensor | None:
    """The losses of a list's pairs, or their mean; None of what is not finite."""
    operands = problem.anchors, problem.references, logit
    if interval is not None:
        records = torch.is_grad_enabled()
        needs = [records and x is not None and x.requires_grad for x in operands]
        losses = AveragedLosses(losses, interval, operands, needs)
        formula = formula[0]._replace(interval=interval), formula[1]
    outputs = SmallOperator.apply(losses, *formula, *operands, None)
    return None if outputs is None else outputs[0]
