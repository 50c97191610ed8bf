"""The mean of losses of rows with one known positive each, where it is found without the losses."""

from __future__ import annotations

from torch import Tensor, nn

from fusedml.distances import fused_measure
from fusedml.engine import autograd
from fusedml.engine.averaged import Interval
from fusedml.engine.backends import DENSE
from fusedml.engine.pairs import PairProblem
from fusedml.engine.precision import tile_dtype
from fusedml.engine.routes.fused import normalized_within
from fusedml.formulas import RowFormula


def mean_target_loss(
    anchors: Tensor,
    references: Tensor | None,
    targets: Tensor,
    formula: RowFormula,
    distance: nn.Module,
    backend: str,
    interval: Interval,
) -> Tensor | None:
    """The mean of -log(e^{z_it} / sum_j e^{z_ij}) in an interval, t = targets[i]; or None.

    anchors, references: the embeddings as given, references as in a ``PairProblem``.
    formula: of the same logits on positives and negatives.
    """
    measure = fused_measure(distance)
    if backend == DENSE or measure is None:
        return None
    sides = anchors, references, targets, None
    problem = PairProblem(*sides, measure.name, False, normalize=measure.normalize)
    problem = normalized_within(problem, backend, tile_dtype(anchors))
    logit = formula.logit(measure.sign)
    return autograd.mean_target_loss(problem, targets, logit, interval, backend)
