"""Losses of positive pairs whose row is the sum of the pair, of classes with many pairs.

A column c adds e^{<a_i + r_p, c>} = e^{<a_i, c>} e^{<r_p, c>} to the sum of a joint row
(``engine.joint_rows``).  So the sums of all pairs of a class are one product of two matrices of
exponentials, rows by columns: no joint row is made, and a pair costs no exponential and not d
numbers for each column.  Classes are taken one after the other, some of their rows at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.precision import is_free_to_read
from fusedml.engine.recorded import BlockFunction, Tensors, by_blocks
from fusedml.heads import PAIR_FORMS

# Pairs of a row, on average, from which this is faster than joint rows.
LEAST_PAIRS = 32
# Exponentials of some rows of a class: 4 MB in float32.
MOST_EXPONENTIALS = 1 << 20
# of a tile, so that its products are products of matrices
LEAST_ROWS = 64


class _Class(NamedTuple):
    """Rows, their references, and the columns of other classes, by number."""

    rows: Tensor
    references: Tensor
    columns: Tensor


def class_pair_losses(
    problem: PairProblem, columns: Tensor, logit: Tensor, form: str, num_pairs: int
) -> Tensor | None:
    """[n]: the losses of each row's joint rows, added; differentiable as often as one likes.

    problem, columns, logit, form: as of :func:`fusedml.engine.autograd.joint_pair_losses`.  None
    where joint rows are to be made: few pairs, several labels a row, or exponentials that may
    underflow.
    """
    labels, reference_labels = problem.anchor_labels, problem.reference_labels
    if num_pairs < LEAST_PAIRS * labels.shape[0] or labels.ndim > 1 or not is_free_to_read(columns):
        return None
    of_columns = labels if reference_labels is None else reference_labels
    classes = [*_classes(labels, of_columns)]
    dtype = accumulation_dtype(problem.anchors.dtype)
    a, c = problem.anchors.to(dtype), columns.to(dtype)
    r = a if problem.references is None else problem.references.to(dtype)
    with torch.no_grad():
        most = 600 if dtype == torch.float64 else 80
        if not all(_range(r, c, logit, of) <= most for of in classes):
            return None

    def blocks() -> Iterator[_Class]:
        for of in classes:
            side = max(LEAST_ROWS, MOST_EXPONENTIALS // len(of.columns))
            for rows in of.rows.split(side):
                for references in of.references.split(side):
                    yield _Class(rows, references, of.columns)
        yield _Class(
            labels.new_empty(0), labels.new_zeros(1), labels.new_zeros(1)
        )  # if there is none

    def of_block(block: Any, _: Tensors, shared: Tensors) -> tuple[Tensors, Tensors]:
        a, r, c, logit = shared
        losses = _losses(a[block.rows], r[block.references], c[block.columns], logit, form)
        if problem.exclude_diagonal:
            own = problem.own_columns(block.rows)[:, None]
            losses = losses.masked_fill(own == block.references, 0)
        return [], [a.new_zeros(a.shape[0]).index_add(0, block.rows, losses.sum(1))]

    return by_blocks(BlockFunction(of_block, blocks), (), [a, r, c, logit])[1][0]


def _classes(labels: Tensor, of_columns: Tensor) -> Iterator[_Class]:
    """Those with rows and references, and with columns that are of others."""
    for label in labels.unique().tolist():
        is_own = of_columns == label
        of = _Class(*((x.nonzero().squeeze(1)) for x in (labels == label, is_own, ~is_own)))
        if len(of.references) and len(of.columns):
            yield of


def _range(r: Tensor, c: Tensor, logit: Tensor, of: _Class) -> float:
    """How far apart the logits of a reference's columns are, at most."""
    scale, columns, furthest = logit[2].item(), c[of.columns], -math.inf
    for references in of.references.split(max(1, MOST_EXPONENTIALS // len(of.columns))):
        low, high = torch.aminmax(r[references] @ columns.T, dim=1)
        furthest = max(furthest, abs(scale) * (high - low).max().item())
    return furthest


def _losses(a: Tensor, r: Tensor, c: Tensor, logit: Tensor, form: str) -> Tensor:
    """Of the pairs of rows and references, [rows, references]; c: the columns of other classes."""
    scale, shift, negative_scale, negative_shift = logit.to(a)
    exponentials, largest = [], []
    for side in (a, r):
        z = negative_scale * (side @ c.T)
        most = z.detach().amax(1, keepdim=True)
        exponentials.append((z - most).exp())
        largest.append(most)
    of_rows, of_references = exponentials
    lse = (of_rows @ of_references.T).log() + largest[0] + largest[1].T + negative_shift
    return PAIR_FORMS[form](scale * (a @ r.T) + shift, lse, torch.zeros_like(lse)).value
