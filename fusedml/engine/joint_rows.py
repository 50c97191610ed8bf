"""Losses of positive pairs whose row is the sum of the pair: two operators made of operators.

A *joint row* is a_i + r_p of a positive pair (i, p).  It is measured against columns of its own,

    v(z_ip, lse_ip),   z_ip = scale+ <a_i, r_p> + shift+,
    lse_ip = log sum_{n: y_n != y_i} exp(scale- <a_i + r_p, c_n> + shift-),

by ``pair_statistics`` and ``pair_gradient`` of the same backend, so by its kernels where it has
some.  There may be n^2 joint rows: they are made in strips of bounded size, the positive pairs are
found from the labels strip by strip, and the backward computes each strip again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fusedml.engine.label_sets import are_sets
from fusedml.engine.pairs import accumulation_dtype, problem_of
from fusedml.engine.positives import in_one_order, positive_strips
from fusedml.engine.reductions.entries import add_at
from fusedml.heads import PAIR_FORMS, PairLoss

# numbers of the joint rows of a strip: 8 MB in float32
STRIP_ELEMENTS = 1 << 21


def most_pairs(columns: Tensor) -> int:
    """How many joint rows are held at a time, against columns [m, d]."""
    return max(1, STRIP_ELEMENTS // max(1, columns.shape[1]))


class _Strip(NamedTuple):
    """Some positive pairs, their joint rows and these rows' losses.

    is_mirrored: whether each pair (i, p) stands for (p, i), too.
    """

    rows: Tensor
    positives: Tensor
    anchors: Tensor
    references: Tensor
    joint: Tensor
    x: Tensor
    statistics: Tensor
    loss: PairLoss
    is_mirrored: bool


class JointRows:
    """The positive pairs of a problem as rows, see ``joint_pair_losses``."""

    def __init__(
        self,
        operators: Any,
        anchors: Tensor,
        references: Tensor | None,
        anchor_labels: Tensor,
        reference_labels: Tensor | None,
        columns: Tensor,
        logit: Tensor,
        self_offset: int | None,
        form: str,
    ) -> None:
        labels = anchor_labels, reference_labels
        self.problem = problem_of(anchors, references, *labels, "dot", self_offset)
        self.operators, self.columns, self.logit = operators, columns, logit
        self.column_labels = anchor_labels if reference_labels is None else reference_labels
        self.form = PAIR_FORMS[form]
        self.dtype = accumulation_dtype(anchors.dtype)

    def strips(self) -> Iterator[_Strip]:
        """All positive pairs; of a problem with itself the pairs i < p stand for both orders, whose
        negatives are the same but of several labels a row.
        """
        is_self = self.problem.references is None and not are_sets(self.problem.anchor_labels)
        for pairs in positive_strips(self.problem, most_pairs(self.columns)):
            rows, positives = in_one_order(*pairs) if is_self else pairs
            if rows.shape[0]:
                yield self._strip(rows, positives, is_self)

    def _strip(self, rows: Tensor, positives: Tensor, is_mirrored: bool) -> _Strip:
        problem, dtype = self.problem, self.dtype
        others = problem.anchors if problem.references is None else problem.references
        a, r = problem.anchors[rows].to(dtype), others[positives].to(dtype)
        joint = (a + r).to(problem.anchors.dtype)
        x = torch.linalg.vecdot(a, r)
        statistics, _ = self.operators.pair_statistics(*self._measured(joint, rows))
        scale, shift, *_ = self.logit.to(x)
        lse = statistics[1]
        loss = self.form(scale * x + shift, lse, torch.zeros_like(lse))
        return _Strip(rows, positives, a, r, joint, x, statistics, loss, is_mirrored)

    def _measured(self, joint: Tensor, rows: Tensor) -> tuple[Any, ...]:
        """What the operators take of the joint rows against the columns."""
        labels = self.problem.anchor_labels[rows], self.column_labels
        return joint, self.columns, *labels, self.logit, "dot", None, None, None

    def gradient(self, strip: _Strip, weights: Tensor, needs: list[bool]) -> tuple[Tensor, ...]:
        """Of the strip's joint rows, columns and logit.  weights: of its losses."""
        statistics_grad = torch.zeros_like(strip.statistics)
        statistics_grad[1] = weights * strip.loss.d_anchor_lse
        problem = self._measured(strip.joint, strip.rows)
        return self.operators.pair_gradient(*problem, strip.statistics, statistics_grad, needs)


def joint_pair_losses(operators: Any, *args: Any) -> Tensor:
    """[n]: the sum of v over P(i) for each row."""
    joint = JointRows(operators, *args)
    anchors = joint.problem.anchors
    sums = anchors.new_zeros(anchors.shape[0], dtype=joint.dtype)
    for strip in joint.strips():
        add_at(sums, strip.rows, strip.loss.value)
        if strip.is_mirrored:
            add_at(sums, strip.positives, strip.loss.value)
    return sums


def joint_pair_gradient(operators: Any, *args: Any) -> tuple[Tensor, ...]:
    """Gradients of anchors, references, columns and logit [4]; an empty tensor for each unneeded.

    Takes the arguments of ``joint_pair_losses``, then losses_grad [n] and needs.
    """
    *args_of_losses, losses_grad, needs = args
    joint = JointRows(operators, *args_of_losses)
    problem, columns, logit = joint.problem, joint.columns, joint.logit
    sides = [problem.anchors, problem.references, columns]
    a_grad, r_grad, columns_grad = (
        columns.new_zeros(side.shape if side is not None and need else 0, dtype=joint.dtype)
        for side, need in zip(sides, needs, strict=False)
    )
    if problem.references is None:
        r_grad = a_grad
    logit_grad = torch.zeros_like(logit)
    needs_rows = bool(a_grad.numel() or r_grad.numel())
    for strip in joint.strips():
        weights = losses_grad[strip.rows]
        if strip.is_mirrored:
            weights = weights + losses_grad[strip.positives]
        of_joint, of_columns, of_logit = joint.gradient(
            strip, weights, [needs_rows, bool(needs[2]), bool(needs[3])]
        )
        of_z = weights * strip.loss.d_logit
        if needs[3]:
            logit_grad += of_logit
            logit_grad[0] += (of_z * strip.x).sum()
            logit_grad[1] += of_z.sum()
        if needs[2]:
            columns_grad += of_columns
        of_x = (of_z * logit[0].to(of_z))[:, None]
        if a_grad.numel():
            add_at(a_grad, strip.rows, of_joint + of_x * strip.references)
        if r_grad.numel():
            add_at(r_grad, strip.positives, of_joint + of_x * strip.anchors)
    if problem.references is None:
        r_grad = r_grad.new_zeros(0)
    dtype = problem.anchors.dtype
    of_logit = logit_grad if needs[3] else logit.new_zeros(0)
    return a_grad.to(dtype), r_grad.to(dtype), columns_grad.to(dtype), of_logit


#: operators made of the others of their namespace, which is their first argument
KERNELS: dict[str, Callable[..., Any]] = {
    "joint_pair_losses": joint_pair_losses,
    "joint_pair_gradient": joint_pair_gradient,
}
