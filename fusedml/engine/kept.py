"""Tiled operators that keep their measures for the backward, where the matrix fits.

Against references a step by tiles takes four matrix products where the dense formula takes three:
the measures, the measures again, and the two gradients.  Up to ``MOST_BYTES`` the first are kept in
one matrix, autograd's like every saved tensor, and a step takes three.  In a self problem half of
the measures serve, and nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fusedml.engine import tiled
from fusedml.engine.ops import below_autograd, with_problem
from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.whole import may_hold_matrices

MOST_BYTES = 64_000_000


def keeps_measures(backend: str, problem: PairProblem, *others: Tensor) -> bool:
    """Whether the tiles compute the problem, a backward follows, and the matrix is small enough.

    others: what else may require a gradient.
    """
    anchors, references = problem.anchors, problem.references
    if references is None or problem.extent is not None or not may_hold_matrices(backend, anchors):
        return False
    operands = anchors, references, *others
    if not (torch.is_grad_enabled() and any(x.requires_grad for x in operands)):
        return False
    size = anchors.shape[0] * references.shape[0]
    return 0 < size * accumulation_dtype(anchors.dtype).itemsize <= MOST_BYTES


def _keeping(name: str) -> Callable[..., Any]:
    """A forward operator that returns the measures beside its outputs."""
    kernel = getattr(tiled, name)

    def run(*args: Any) -> tuple[Tensor, ...]:
        problem, *rest = with_problem(name, args)
        dtype = accumulation_dtype(problem.anchors.dtype)
        measured = problem.anchors.new_empty(problem.shape, dtype=dtype)
        return *kernel(problem, *rest, measured=measured), measured

    return below_autograd(run)


def _knowing(name: str) -> Callable[..., Any]:
    """A gradient operator that takes the measures before ``needs``."""
    kernel = getattr(tiled, name)

    def run(*args: Any) -> tuple[Tensor, ...]:
        *args, measured, needs = args  # type: ignore[assignment]
        return kernel(*with_problem(name, tuple(args)), needs, measured=measured)

    return below_autograd(run)


KEPT_KERNELS: dict[str, Callable[..., Any]] = {
    **{
        f"kept_{name}": _keeping(name)
        for name in ("pair_statistics", "row_losses", "two_sided_statistics")
    },
    **{f"kept_{name}": _knowing(name) for name in ("pair_gradient", "two_sided_gradient")},
}
