"""Small problems whose rows have one positive each, in a column that is known: no mask, no list.

A softmax of the other columns makes the losses and dL/dz, so that a small loss is not a difference
of large numbers, and a step takes few calls.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from fusedml.engine import whole
from fusedml.engine.paired import logit_gradient, product
from fusedml.engine.pairs import PairProblem
from fusedml.engine.whole import SLOPES, Gradients, Needs
from fusedml.engine.whole_measures import WholeMeasures
from fusedml.heads import softplus

# Pairs of a matrix of one array, 8 MB in float32, in the cache that cores share.
MOST_PAIRS = 1 << 21
# beyond, numbers that are finite may have products that are not
_MOST_SCALE = 1e30


class WholeTargets(WholeMeasures):
    """Output: -log(e^{z_it} / sum_j e^{z_ij}), [n], t being the target of row i.

    problem: its labels are ignored, and no pair is left out.  targets: [n], int64.
    logit: the same on positives and on negatives.
    shares: e^{z_ij} over the sum of all but the target's, 0 of this, [n, m].  of_others: what all
    but the target have of the sum of all, [n, 1].
    """

    kept: ClassVar[tuple[str, ...]] = ("shares", "of_others", "targets", "x")
    constants: ClassVar[tuple[str, ...]] = ("scale",)

    def __init__(self, problem: PairProblem, targets: Tensor, logit: Tensor) -> None:
        super().__init__(problem, logit)
        self.targets = targets.unsqueeze(1)
        # whether somebody looks at the measures again
        self.keeps_measures = logit.requires_grad or problem.measure == "euclidean"

    def _measures(self) -> Tensor:
        if self.measure != "dot" or self.keeps_measures:
            return super()._measures()
        return product(self.anchors.rows, self.references.rows.T, self.scale)

    def evaluate(self) -> tuple[Tensor] | None:
        """The losses; None of other logits, of a single column, and if not all is finite."""
        self.scale, shift, *of_negatives = self.logit.tolist()
        if of_negatives != [self.scale, shift] or not 0 < abs(self.scale) < _MOST_SCALE:
            return None
        if self.problem.shape[1] < 2 or not self.measure_pairs():
            return None
        z = self.x
        if self.keeps_measures:
            z = z * self.scale
        elif self.measure != "dot":
            z.mul_(self.scale)
        own = z.gather(1, self.targets)
        z.scatter_(1, self.targets, -math.inf)
        most = z.amax(1, True)
        self.shares = torch.softmax(z, 1, out=z)
        gap = most.sub_(self.shares.amax(1, True).log_()).sub_(own)
        self.of_others = torch.sigmoid(gap)
        return (softplus(gap).squeeze(1),)

    def gradient(self, grad: Tensor | float, needs: Needs) -> Gradients:
        """grad: one number for all rows, too."""
        of_rows = self.of_others * (grad.unsqueeze(1) if isinstance(grad, Tensor) else grad)
        logit_grad = None
        if needs[2]:
            own_x = torch.dot(of_rows.view(-1), self.x.gather(1, self.targets).view(-1)).neg()
            of_lines = torch.linalg.vecdot(self.shares, self.x)
            total = torch.dot(of_rows.view(-1), of_lines).add_(own_x)
            logit_grad = logit_gradient(of_rows.sum().neg(), own_x, total)
        of_rows.mul_(self.scale * SLOPES[self.measure])
        weights = (self.shares * of_rows).scatter_(1, self.targets, of_rows.neg_())
        if not self.is_self or weights.numel() <= whole.MOST_PAIRS or self.measure != "dot":
            return *self.gradients(weights, needs), logit_grad, None
        # here another product costs less than the sum with the transposed matrix
        rows = self.anchors.rows
        anchors_grad = self.anchors.gradient(torch.mm(weights, rows).addmm_(weights.T, rows))
        return anchors_grad.to(self.dtypes[0]), None, logit_grad, None
