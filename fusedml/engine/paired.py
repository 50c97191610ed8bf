"""Queries and documents, row i of one side belonging to row i of the other, in few calls.

Where that is all, the loss is PyTorch's cross-entropy of a matrix of products.  Of few pairs calls
cost more than arithmetic, and most of those of autograd are of the normalisation: so products,
softmax and normalisation are one operator, whose gradient takes as many calls as it has terms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fusedml.curves import AFFINE
from fusedml.engine.pairs import PairProblem
from fusedml.engine.whole import Gradients, Needs, Side, may_hold_matrices, side_of

# Pairs up to which this is faster than the list of positives, with one direction and with both.
MOST_PAIRS = 1 << 18
MOST_PAIRS_OF_BOTH = 1 << 16


def may_be_paired(backend: str, problem: PairProblem, both_sides: bool) -> bool:
    """Whether the problem is this module's, if row i belongs to row i and to no other.

    both_sides: whether the partners have losses as well as the rows.
    """
    is_free = may_hold_matrices(backend, problem.anchors)
    if not is_free or torch._C._are_functorch_transforms_active():
        return False
    if problem.references is None or problem.exclude_diagonal or problem.extent is not None:
        return False
    n, m = problem.shape
    return (
        (n == m if both_sides else n <= m)
        and 0 < n * m <= (MOST_PAIRS_OF_BOTH if both_sides else MOST_PAIRS)
        and problem.measure == "dot"
        and problem.curve == AFFINE.name
    )


class PairedLosses:
    """Output: -log(e^{z_ii} / sum_j e^{z_ij}), [n], and with both sides [2, n], the second of the
    columns: -log(e^{z_ii} / sum_j e^{z_ji}).

    The same steps as ``engine.whole.WholeMatrix`` for ``SmallOperator``.  logs: log-softmax of the
    rows, [n, m], and of the columns.
    """

    def __init__(self, problem: PairProblem, logit: Tensor, both_sides: bool) -> None:
        """problem: its labels are ignored.  logit: the same on positives and on negatives."""
        assert problem.references is not None  # may_be_paired
        self.operands = problem.anchors, problem.references
        self.normalize, self.logit, self.both_sides = problem.normalize, logit, both_sides
        self.dtypes = [side.dtype for side in self.operands]

    def evaluate(self) -> tuple[Tensor] | None:
        """The losses; None of other logits, and if not all is finite."""
        self.scale, shift, *of_negatives = self.logit.tolist()
        if self.scale == 0 or of_negatives != [self.scale, shift]:
            return None
        (self.anchors, is_finite), (self.references, is_too) = (
            side_of(x, self.normalize) for x in self.operands
        )
        a, r = self.anchors.rows, self.references.rows
        z = _product(a, r.T, self.scale)
        if not (is_finite and is_too) and not math.isfinite(z.sum().item()):
            return None
        self.logs = [torch.log_softmax(z, 1)]
        if not self.both_sides:
            return (self.logs[0].diagonal().neg(),)
        self.logs.append(torch.log_softmax(z, 0))
        return (torch.stack([logs.diagonal() for logs in self.logs]).neg_(),)

    def parted(self, needs_logit: bool) -> tuple[PairedLosses, list[Tensor | None]]:
        """An object without tensors, and the tensors."""
        bare = object.__new__(PairedLosses)
        bare.scale, bare.dtypes = self.scale, self.dtypes
        return bare, [*self.anchors, *self.references, *self.logs]

    def joined(self, tensors: Sequence[Any]) -> PairedLosses:
        """The object that was ``parted``."""
        size = len(Side._fields)
        paired = object.__new__(PairedLosses)
        paired.scale, paired.dtypes = self.scale, self.dtypes
        paired.anchors, paired.references = Side(*tensors[:size]), Side(*tensors[size : 2 * size])
        paired.logs = list(tensors[2 * size :])
        return paired

    def gradient(self, grad: Tensor, needs: Needs) -> Gradients:
        """The gradients that are needed of anchors, references and logit."""
        a, r = self.anchors.rows, self.references.rows
        weights, factor = self._weights(grad)
        own = _product(weights, r, factor) if needs[0] or needs[2] else None
        logit_grad = None
        if needs[2]:
            assert own is not None
            of_positives = weights.diagonal() * factor
            of_scale = torch.dot(of_positives, torch.linalg.vecdot(a, r[: a.shape[0]]))
            of_shift, total = of_positives.sum(), torch.linalg.vecdot(own, a).sum()
            parts = torch.stack([of_scale, of_shift, total - of_scale, -of_shift])
            logit_grad = parts / self.scale
        of_anchors = of_references = None
        if needs[0] and own is not None:
            of_anchors = self.anchors.gradient(own).to(self.dtypes[0])
        if needs[1]:
            of_references = self.references.gradient(_product(weights.T, a, factor))
            of_references = of_references.to(self.dtypes[1])
        return of_anchors, of_references, logit_grad, None

    def _weights(self, grad: Tensor) -> tuple[Tensor, float]:
        """dL/dx, [n, m], but for a factor."""
        # the softmax of a log-softmax is its exp, in half the time
        shares = [torch.softmax(logs, 1 - side) for side, logs in enumerate(self.logs)]
        weights = shares[0]
        low, high = (end.item() for end in torch.aminmax(grad))
        if low == high:  # of a mean or a sum
            if len(shares) > 1:
                weights.add_(shares[1])
            weights.diagonal().sub_(len(shares))
            return weights, low * self.scale
        of_rows, *of_columns = grad.unbind() if len(shares) > 1 else [grad]
        weights.mul_(of_rows[:, None])
        for of_side, of_column in zip(shares[1:], of_columns, strict=True):
            weights.addcmul_(of_side, of_column)
            of_rows = of_rows + of_column
        weights.diagonal().sub_(of_rows)
        return weights, self.scale


def _product(one: Tensor, other: Tensor, factor: float) -> Tensor:
    """factor one other."""
    out = one.new_empty(one.shape[0], other.shape[1])
    return torch.addmm(out, one, other, beta=0, alpha=factor, out=out)  # 0: not read
