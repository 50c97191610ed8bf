"""Losses of rows that have one positive each, in a column that is known."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fusedml.engine import whole_targets
from fusedml.engine.autograd.choices import of_list
from fusedml.engine.averaged import EVERYTHING, Interval
from fusedml.engine.formulas_by_rows import held
from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.precision import is_autocast, prepare
from fusedml.engine.whole import may_hold_matrices
from fusedml.engine.whole_targets import WholeTargets
from fusedml.heads import softplus

# pairs up to which PyTorch's cross-entropy and its backward take less time than one sweep for both
_FEW_PAIRS = 1 << 18
# a mean below which rounding errors of numbers about 1 show
_LEAST_MEAN = 1 / 8


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
    if n * m <= _FEW_PAIRS and interval == EVERYTHING:
        mean = _mean_cross_entropy(problem, targets, logit)
        if mean is not None:
            return mean
    losses = WholeTargets(problem, targets, logit)
    formula = held("target_losses", problem, (), (targets,), has_labels=False)
    return of_list(losses, formula, problem, logit, interval)


def _mean_cross_entropy(problem: PairProblem, targets: Tensor, logit: Tensor) -> Tensor | None:
    """The mean of all losses in ordinary PyTorch; None as above, and of what is not its dtype's."""
    anchors, references = problem[:2]
    scale, *rest = logit.tolist()  # a shift of all logits changes nothing
    is_exact = anchors.dtype == accumulation_dtype(anchors.dtype) and not is_autocast(anchors)
    is_plain = scale != 0 and rest[1:] == [scale, rest[0]] and problem.measure == "dot"
    if not (is_exact and is_plain) or problem.shape[1] < 2:
        return None
    a = prepare(anchors, anchors.dtype, problem.normalize)
    r = a if references is None else prepare(references, anchors.dtype, problem.normalize)
    z = (a * (logit[0] if logit.requires_grad else scale)) @ r.T
    mean = cross_entropy(z, targets)
    value = mean.item()
    if value < _LEAST_MEAN:
        columns = targets.unsqueeze(1)
        lse = z.scatter(1, columns, -math.inf).logsumexp(1, True)
        mean = softplus(lse - z.gather(1, columns)).mean()
    return mean if math.isfinite(value) else None
