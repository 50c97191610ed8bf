"""Small problems of joint rows, see ``engine.joint_rows``, whose gradients the forward finds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fusedml.engine.labels import alike
from fusedml.engine.pairs import PairProblem
from fusedml.engine.precision import are_finite
from fusedml.engine.whole import Gradients, Needs, inf_if_0, side_of
from fusedml.heads import PAIR_FORMS


class WholeJoint:
    """Output: the losses of the pairs (rows[k], positives[k]), [k]; for ``AveragedLosses``.

    problem: with the embeddings as given, which are the columns.  The numbers of the logit are
    constants.
    ends: the rows of the pairs, the anchors first, [2 k, d]; own, others: those at each end.
    exp: of the logits of the negatives, divided by the largest of each pair, [k, m]; sums: [k].
    """

    exp: Tensor
    sums: Tensor

    def __init__(
        self, problem: PairProblem, logit: Tensor, form: str, rows: Tensor, positives: Tensor
    ) -> None:
        self.problem, self.logit, self.form = problem, logit, form
        self.rows, self.positives = rows, positives
        self.dtypes = [None if side is None else side.dtype for side in problem[:2]]
        columns = problem.anchors if problem.references is None else problem.references
        labels, column_labels = problem[2:4]
        self.columns = columns
        self.column_labels = labels if column_labels is None else column_labels

    def evaluate(self) -> tuple[Tensor] | None:
        """The losses; None if not all is finite."""
        if not self._load():
            return None
        self.scale, shift, self.negative_scale, negative_shift = self.logit.tolist()
        lse = self._log_sums(self._logits()).add_(negative_shift)
        z = self._measures().mul_(self.scale).add_(shift)
        value, self.d_logit, self.d_lse, _ = PAIR_FORMS[self.form](z, lse, lse)
        return (value,) if math.isfinite(value.sum().item()) else None

    def _load(self) -> bool:
        """The rows at both ends of the pairs, divided by their norms; whether all are finite."""
        anchors, references = self.problem[:2]
        if references is None:
            ends = anchors.index_select(0, torch.cat([self.rows, self.positives]))
        else:
            lines = (anchors, self.rows), (references, self.positives)
            ends = torch.cat([of.index_select(0, index) for of, index in lines])
        self.ends, are_unit = side_of(ends, True)
        self.own, self.others = self.ends.rows.chunk(2)
        # which are not all at an end of a pair, nor negatives
        sides = [anchors] if references is None else [anchors, references]
        return are_unit and are_finite(*sides)

    def _log_sums(self, logits: Tensor) -> Tensor:
        # of an empty set the least number: (-inf) - (-inf) would be NaN
        largest = logits.amax(1).clamp_(min=torch.finfo(logits.dtype).min)
        self.exp = logits.sub_(largest[:, None]).exp_()
        self.sums = self.exp.sum(1)
        return self.sums.log().add_(largest)

    def gradient(self, grad: Tensor | float, needs: Needs) -> Gradients:
        of_sums = (self.d_lse * grad).mul_(self.negative_scale).div_(inf_if_0(self.sums))
        weights = self.exp.mul_(of_sums[:, None])
        own = (self.d_logit * grad).mul_(self.scale)
        return *self._gradients(weights, own, needs), None, None

    def _logits(self) -> Tensor:
        """Of the columns, without shift, and -inf of those that are no negatives, [k, m]."""
        self.joint = self.own + self.others
        labels = self.problem.anchor_labels.index_select(0, self.rows)
        logits = torch.mm(self.joint, self.columns.T).mul_(self.negative_scale)
        return logits.masked_fill_(alike(labels, self.column_labels), -math.inf)

    def _measures(self) -> Tensor:
        """Of the pairs themselves, [k]."""
        return torch.linalg.vecdot(self.own, self.others)

    def _gradients(
        self, weights: Tensor, own: Tensor, needs: Needs
    ) -> tuple[Tensor | None, Tensor | None]:
        """Of anchors and references, from those of products with columns, and of the pairs'."""
        joint = torch.mm(weights, self.columns)
        of_own = torch.addcmul(joint, self.others, own[:, None])
        of_others = joint.addcmul_(self.own, own[:, None])
        of_own, of_others = self.ends.gradient(torch.cat([of_own, of_others])).chunk(2)
        anchors, references = self.problem[:2]
        of_anchors = torch.zeros_like(anchors).index_add_(0, self.rows, of_own)
        if references is None:
            of_anchors.index_add_(0, self.positives, of_others)
            return of_anchors.addmm_(weights.T, self.joint), None
        references_grad = None
        if needs[1]:
            references_grad = torch.mm(weights.T, self.joint)
            references_grad.index_add_(0, self.positives, of_others)
        return of_anchors, references_grad


class WholeProducts(WholeJoint):
    """The same of more pairs than rows: each row's products are taken once."""

    def _load(self) -> bool:
        problem = self.problem
        self.anchors, are_finite = side_of(problem.anchors, True)
        self.references = self.anchors
        if problem.references is not None:
            self.references, are_too = side_of(problem.references, True)
            are_finite = are_finite and are_too
        return are_finite

    def _logits(self) -> Tensor:
        z = torch.mm(self.anchors.rows, self.columns.T).mul_(self.negative_scale)
        others = z
        if self.references is not self.anchors:
            others = torch.mm(self.references.rows, self.columns.T).mul_(self.negative_scale)
        is_other = alike(self.problem.anchor_labels, self.column_labels)
        logits = z.masked_fill(is_other, -math.inf).index_select(0, self.rows)
        return logits.add_(others.index_select(0, self.positives))

    def _measures(self) -> Tensor:
        x = torch.mm(self.anchors.rows, self.references.rows.T)
        self.place = torch.add(self.positives, self.rows, alpha=x.shape[1])
        return x.view(-1).index_select(0, self.place)

    def _gradients(
        self, weights: Tensor, own: Tensor, needs: Needs
    ) -> tuple[Tensor | None, Tensor | None]:
        a, r, columns = self.anchors.rows, self.references.rows, self.columns
        shape = a.shape[0], r.shape[0]
        of_rows = a.new_zeros(shape).index_add_(0, self.rows, weights)
        of_pairs = a.new_zeros(shape[0] * shape[1]).index_add_(0, self.place, own).view(shape)
        if self.references is self.anchors:
            of_rows.index_add_(0, self.positives, weights)
            of_anchors = torch.addmm(torch.mm(of_rows, columns), of_pairs + of_pairs.T, a)
            return self.anchors.gradient(of_anchors).addmm_(of_rows.T, a), None
        references_grad = None
        if needs[1]:
            of_others = a.new_zeros(r.shape[0], r.shape[0])
            of_others.index_add_(0, self.positives, weights)
            of_references = torch.addmm(torch.mm(of_others, columns), of_pairs.T, a)
            references_grad = self.references.gradient(of_references)
            references_grad.addmm_(of_rows.T, a).addmm_(of_others.T, r)
        of_anchors = torch.addmm(torch.mm(of_rows, columns), of_pairs, r)
        return self.anchors.gradient(of_anchors), references_grad
