"""Small problems of joint rows, see ``engine.joint_rows``: each row's products are taken once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fusedml.engine.labels import alike
from fusedml.engine.pairs import PairProblem
from fusedml.engine.whole import Gradients, Needs, inf_if_0, side_of
from fusedml.heads import PAIR_FORMS


class WholeJoint:
    """Output: the losses of the pairs (rows[k], positives[k]), [k]; for ``AveragedLosses``.

    problem: with the embeddings as given, which are the columns.  The numbers of the logit are
    constants.
    """

    exp: Tensor
    sums: Tensor

    def __init__(
        self, problem: PairProblem, logit: Tensor, form: str, rows: Tensor, positives: Tensor
    ) -> None:
        self.problem, self.logit, self.form = problem, logit, form
        self.rows, self.positives = rows, positives
        self.dtypes = [None if side is None else side.dtype for side in problem[:2]]

    def evaluate(self) -> tuple[Tensor] | None:
        problem = self.problem
        self.anchors, are_finite = side_of(problem.anchors, True)
        self.references, columns = self.anchors, problem.anchors
        if problem.references is not None:
            columns = problem.references
            self.references, are_too = side_of(columns, True)
            are_finite = are_finite and are_too
        a, r = self.anchors.rows, self.references.rows
        if not are_finite:
            return None
        self.columns = columns if columns.dtype == a.dtype else columns.to(a.dtype)
        self.scale, shift, self.negative_scale, negative_shift = self.logit.tolist()
        lse = self._log_sums().add_(negative_shift)
        self.place = torch.add(self.positives, self.rows, alpha=r.shape[0])
        z = torch.mm(a, r.T).view(-1).index_select(0, self.place).mul_(self.scale).add_(shift)
        value, self.d_logit, self.d_lse, _ = PAIR_FORMS[self.form](z, lse, lse)
        return (value,) if math.isfinite(value.sum().item()) else None

    def _log_sums(self) -> Tensor:
        """Of the negatives of each joint row, [k], without the shift of their logits."""
        z = torch.mm(self.anchors.rows, self.columns.T).mul_(self.negative_scale)
        others = z
        if self.references is not self.anchors:
            others = torch.mm(self.references.rows, self.columns.T).mul_(self.negative_scale)
        labels, column_labels = self.problem[2:4]
        is_other = alike(labels, labels if column_labels is None else column_labels)
        logits = z.masked_fill(is_other, -math.inf).index_select(0, self.rows)
        logits.add_(others.index_select(0, self.positives))
        # of an empty set the least number: (-inf) - (-inf) would be NaN
        largest = logits.amax(1).clamp_(min=torch.finfo(logits.dtype).min)
        self.exp = logits.sub_(largest[:, None]).exp_()
        self.sums = self.exp.sum(1)
        return self.sums.log().add_(largest)

    def gradient(self, grad: Tensor | float, needs: Needs) -> Gradients:
        a, r, columns = self.anchors.rows, self.references.rows, self.columns
        of_sums = (self.d_lse * grad).mul_(self.negative_scale).div_(inf_if_0(self.sums))
        weights = self.exp.mul_(of_sums[:, None])
        of_rows = a.new_zeros(a.shape[0], columns.shape[0])
        of_rows.index_add_(0, self.rows, weights)
        own = a.new_zeros(a.shape[0] * r.shape[0])
        own.index_add_(0, self.place, (self.d_logit * grad).mul_(self.scale))
        own = own.view(a.shape[0], r.shape[0])
        if self.references is self.anchors:
            of_rows.index_add_(0, self.positives, weights)
            of_anchors = torch.addmm(torch.mm(of_rows, columns), own + own.T, a)
            total = self.anchors.gradient(of_anchors).addmm_(of_rows.T, a)
            return total, None, None, None
        anchors_grad = references_grad = None
        if needs[0]:
            of_anchors = torch.addmm(torch.mm(of_rows, columns), own, r)
            anchors_grad = self.anchors.gradient(of_anchors)
        if needs[1]:
            of_others = a.new_zeros(r.shape[0], r.shape[0])
            of_others.index_add_(0, self.positives, weights)
            of_references = torch.addmm(torch.mm(of_others, columns), own.T, a)
            references_grad = self.references.gradient(of_references)
            references_grad.addmm_(of_rows.T, a).addmm_(of_others.T, r)
        return anchors_grad, references_grad, None, None
