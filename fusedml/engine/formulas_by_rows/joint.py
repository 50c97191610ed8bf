"""Losses of pairs from the sums of their two rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fusedml.engine.formulas_by_rows import blocks
from fusedml.engine.formulas_by_rows.blocks import ROWS, sides_of, slices_of
from fusedml.engine.joint_rows import most_pairs
from fusedml.engine.labels import alike
from fusedml.engine.pairs import PairProblem, problem_of
from fusedml.engine.positives import positive_strips
from fusedml.engine.recorded import BlockFunction, Tensors, by_blocks
from fusedml.engine.reductions.differentiable import log_sum
from fusedml.engine.reductions.entries import add_at
from fusedml.heads import PAIR_FORMS


def joint_pair_losses(*args: Any) -> Tensor:
    """[n], see ``engine.joint_rows``."""
    anchors, references, labels, reference_labels, columns, logit, self_offset, form = args
    problem = problem_of(anchors, references, labels, reference_labels, "dot", self_offset)
    a, r = sides_of(problem)
    column_labels = labels if reference_labels is None else reference_labels
    most = max(1, min(most_pairs(columns), blocks.BLOCK_PAIRS // max(1, columns.shape[0])))

    def strips() -> Iterator[tuple[Tensor, Tensor]]:
        yield labels.new_empty(0), labels.new_empty(0)  # of a batch without positives
        for rows, positives in positive_strips(problem, most):
            yield from zip(rows.split(most), positives.split(most), strict=True)

    def of_strip(strip: Any, _: Tensors, shared: Tensors) -> tuple[Tensors, Tensors]:
        a, r, columns, logit = shared
        i, p = strip
        losses = _joint_losses(a[i], r[p], columns, labels[i], column_labels, logit, form)
        return [], [add_at(losses.new_zeros(a.shape[0]), i, losses)]

    return by_blocks(BlockFunction(of_strip, strips), (), [a, r, columns, logit])[1][0]


def _joint_losses(
    own: Tensor,
    other: Tensor,
    columns: Tensor,
    labels: Tensor,
    column_labels: Tensor,
    logit: Tensor,
    form: str,
) -> Tensor:
    """[k], of pairs of rows, [k, d] each."""
    scale, shift, negative_scale, negative_shift = logit.to(own)
    z = negative_scale * ((own + other) @ columns.to(own).T) + negative_shift
    lse = log_sum(z, ~alike(labels, column_labels), ROWS)
    x = torch.linalg.vecdot(own, other)
    return PAIR_FORMS[form](scale * x + shift, lse, torch.zeros_like(lse)).value


def listed_joint_losses(
    problem: PairProblem, logit: Tensor, _: None, form: str, rows: Tensor, positives: Tensor
) -> Tensor:
    """[num_pairs], of ``engine.whole_joint``."""
    labels, column_labels = problem[2:4]
    column_labels = labels if column_labels is None else column_labels
    columns = problem.anchors if problem.references is None else problem.references

    def of_block(pairs: slice, _: Tensors, shared: Tensors) -> tuple[Tensors, Tensors]:
        a, r, columns, logit = shared
        i, p = rows[pairs], positives[pairs]
        return [_joint_losses(a[i], r[p], columns, labels[i], column_labels, logit, form)], []

    size = rows.shape[0]
    function = BlockFunction(of_block, slices_of(size, columns.shape[0]), size)
    return by_blocks(function, (), [*sides_of(problem), columns, logit])[0][0]
