"""Log-sum-exps of the rows, columns, positive pairs and groups, and the losses of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fusedml.curves import CURVES
from fusedml.engine.formulas_by_rows.blocks import ROWS, by_rows, slices_of
from fusedml.engine.groups import REDUCTIONS
from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.recorded import BlockFunction, Tensors, by_blocks
from fusedml.engine.reductions.differentiable import (
    Masks,
    divergences,
    log_sum,
    pair_losses,
    statistics,
)
from fusedml.engine.reductions.entries import GivenEntries
from fusedml.engine.reductions.mined import mined
from fusedml.formulas import Hyperparameter
from fusedml.heads import RowForm, RowStatistics, row_form


def _all_statistics(
    problem: PairProblem,
    logit: Tensor,
    thresholds: Tensor | None = None,
    masks_of: Callable[[slice], Masks] | None = None,
    epsilon: Hyperparameter | None = None,
) -> Tensor:
    """lse+, lse-, sum+ and the numbers of positives and negatives, [5, n].

    epsilon: of the Multi-Similarity rule, or None for all pairs.
    """
    curve, sign = CURVES[problem.curve], 1 if problem.measure == "dot" else -1
    bounds = () if thresholds is None else (thresholds.detach(),)

    def reduce(x: Tensor, masks: Masks, logit: Tensor, *bounds: Tensor) -> Tensor:
        y = sign * x.detach()
        if bounds:
            below, above = bounds[0].unsqueeze(2)
            # negated, so that NaN stays in
            masks = masks[0] & ~(y >= below), masks[1] & ~(y <= above)
        if epsilon is not None:
            pairs = GivenEntries(y, [True, True], masks, None, y.shape[0])
            masks = mined(pairs, pairs, epsilon)
        counts = torch.stack([mask.sum(1) for mask in masks])
        return torch.cat([statistics(x, masks, ROWS, logit, curve), counts.to(x.dtype)])

    return by_rows(problem, reduce, (logit,), bounds, masks_of)


def pair_statistics(problem: PairProblem, logit: Tensor, thresholds: Tensor | None) -> Tensor:
    """[3, n]."""
    return _all_statistics(problem, logit, thresholds)[:3]


def row_losses(
    problem: PairProblem,
    logit: Tensor,
    thresholds: Tensor | None,
    head: str | RowForm,
    head_parameters: Tensor,
) -> Tensor:
    """[n], or what else the head makes of the rows."""
    return _of_head(_all_statistics(problem, logit, thresholds), head, head_parameters)


def _of_head(rows: Tensor, head: str | RowForm, parameters: Tensor) -> Tensor:
    lse_positive, lse_negative, sum_positive, *counts = rows.unbind()
    positive, negative = (count.detach() for count in counts)
    row = RowStatistics(lse_positive, lse_negative, sum_positive, positive, negative)
    return row_form(head)(row, parameters).value


def two_sided_statistics(problem: PairProblem, logit: Tensor, _: None = None) -> Tensor:
    """[3, n + m], of the rows and of the columns."""
    sides = problem, problem.turned()
    return torch.cat([pair_statistics(side, logit, None) for side in sides], 1)


def two_sided_losses(
    problem: PairProblem, logit: Tensor, _: None, head: str, head_parameters: Tensor
) -> Tensor:
    """[n + m]."""
    sides = problem, problem.turned()
    return torch.cat([row_losses(side, logit, None, head, head_parameters) for side in sides])


def paired_losses(problem: PairProblem, logit: Tensor, _: None, both_sides: bool) -> Tensor:
    """[n], or [2, n], of ``engine.paired``."""
    n, m = problem.shape
    numbers = torch.arange(max(n, m), device=problem.anchors.device)
    problem = problem._replace(anchor_labels=numbers[:n], reference_labels=numbers[:m])
    head = "cross_entropy", logit
    if not both_sides:
        return row_losses(problem, logit, None, *head)
    return two_sided_losses(problem, logit, None, *head).view(2, n)


def target_losses(problem: PairProblem, logit: Tensor, _: None, targets: Tensor) -> Tensor:
    """[n], of ``engine.whole_targets``."""
    columns = torch.arange(problem.shape[1], device=targets.device)
    problem = problem._replace(anchor_labels=targets, reference_labels=columns)
    return row_losses(problem, logit, None, "cross_entropy", logit)


def positive_pair_losses(
    problem: PairProblem,
    logit: Tensor,
    reference_lse: Tensor | None,
    head: str,
    head_parameters: Tensor,
) -> Tensor:
    """[n]: the losses of each row's positives, added."""
    curve, anchor_lse = CURVES[problem.curve], pair_statistics(problem, logit, None)[1]
    if reference_lse is None:
        is_self = problem.references is None
        reference_lse = anchor_lse if is_self else anchor_lse.new_zeros(problem.shape[1])

    def reduce(
        x: Tensor, masks: Masks, logit: Tensor, reference_lse: Tensor, anchor_lse: Tensor
    ) -> Tensor:
        return pair_losses(x, masks[0], head, logit, curve, anchor_lse, reference_lse)

    return by_rows(problem, reduce, (logit, reference_lse), (anchor_lse,))


def marked_row_losses(
    problem: PairProblem,
    logit: Tensor,
    _: None,
    head: str | RowForm,
    epsilon: Hyperparameter | None,
    head_parameters: Tensor,
    marks: Tensor,
) -> Tensor:
    """[n], of marked pairs, [2, n, m], 0 or 1."""
    rows = _all_statistics(problem, logit, None, _marked(marks), epsilon)
    return _of_head(rows, head, head_parameters)


def marked_statistics(
    problem: PairProblem, logit: Tensor, _: None, epsilon: Hyperparameter | None, marks: Tensor
) -> Tensor:
    """[3, n], of marked pairs, [2, n, m], 0 or 1."""
    return _all_statistics(problem, logit, None, _marked(marks), epsilon)[:3]


def _marked(marks: Tensor) -> Callable[[slice], Masks]:
    def masks_of(rows: slice) -> Masks:
        positive, negative = marks[:, rows] != 0
        return positive, negative

    return masks_of


def group_statistics(
    anchors: Tensor,
    vectors: Tensor,
    labels: Tensor,
    logit: Tensor,
    group: str,
    sharpness: Tensor | None,
) -> Tensor:
    """lse over the other classes and the logit of the own, [2, n]; vectors [C, K, d]."""
    dtype, (num_classes, size, d) = accumulation_dtype(anchors.dtype), vectors.shape
    sharp = 1.0 if sharpness is None else float(sharpness)

    def of_block(rows: slice, own: Tensors, shared: Tensors) -> tuple[Tensors, Tensors]:
        (a,), (vectors, logit), classes = own, shared, labels[rows, None].long()
        y = (a @ vectors.reshape(-1, d).T).view(-1, num_classes, size)
        s = REDUCTIONS[group](y * sharp, 2) / sharp
        scale, shift, negative_scale, negative_shift = logit.to(s)
        is_other = classes != torch.arange(num_classes, device=s.device)
        lse = log_sum(negative_scale * s + negative_shift, is_other, ROWS)
        return [torch.stack([lse, scale * s.gather(1, classes)[:, 0] + shift], 1)], []

    n = anchors.shape[0]
    function = BlockFunction(of_block, slices_of(n, num_classes * size), n)
    (numbers,), _ = by_blocks(function, [anchors.to(dtype)], [vectors.to(dtype), logit])
    return numbers.T


def row_divergences(
    anchors: Tensor, teacher: Tensor, labels: Tensor | None, numbers: Tensor
) -> Tensor:
    """KL, [n]."""
    n, dtype = anchors.shape[0], accumulation_dtype(anchors.dtype)
    both = [anchors.to(dtype), teacher.to(dtype)]

    def of_block(rows: slice, own: Tensors, shared: Tensors) -> tuple[Tensors, Tensors]:
        x, y = (of_rows @ of_all.T for of_rows, of_all in zip(own, shared[:2], strict=True))
        same = None if labels is None else labels[rows, None] == labels
        return [divergences(x, y, same, shared[2])], []

    function = BlockFunction(of_block, slices_of(n, n), n)
    return by_blocks(function, both, [*both, numbers])[0][0]
