"""Losses of an index tuple's pairs on matrices: for tuples that list many, and small problems.

Marks take the place of the labels.  Of row losses each block of rows is a problem of
``engine.whole``: one block keeps what its backward needs; of several only the measures are kept.
Losses of positive pairs, which count as often as they are listed, are computed of one block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.routes.distinct_pairs import PairIndices, pair_keys
from fusedml.engine.whole import (
    MOST_PAIRS,
    Gradients,
    Needs,
    WholeMatrix,
    WholePairLosses,
    WholeRowLosses,
    WholeStatistics,
    inf_if_0,
)
from fusedml.formulas import Hyperparameter, PairFormula
from fusedml.heads import RowForm

# Pairs of a block where there are several: eight matrices of 1 MB in float32 stay in the cache.
BLOCK_PAIRS = 1 << 18
# Of wide rows more: products of 32 rows take half as long again as those of so many, if they fit.
_ENOUGH_ROWS, _MOST_BLOCK_PAIRS = 1 << 7, 1 << 20


class _Marked(WholeMatrix):
    """Of marks instead of labels.  marks: [2, rows, m], 0 or 1: positives and negatives."""

    def __init__(self, *problem: Any, marks: Tensor, epsilon: Hyperparameter | None) -> None:
        super().__init__(*problem)
        self.marks, self.epsilon = marks, epsilon

    def _masks(self) -> Tensor:
        masks = self.marks.to(self.x.dtype, copy=self.epsilon is not None)
        if self.epsilon is not None:
            positive, negative = masks.unbind()
            self._mine(positive, negative, self.epsilon)
        return masks

    def _mine(self, positive: Tensor, negative: Tensor, epsilon: Hyperparameter) -> None:
        """Unmarks what the Multi-Similarity rule drops, judged among the marked pairs."""
        hardness = self.x if self.measure == "dot" else -self.x
        hardest_positive = torch.where(positive > 0, hardness, math.inf).amin(1, keepdim=True)
        hardest_negative = torch.where(negative > 0, hardness, -math.inf).amax(1, keepdim=True)
        positive *= hardness - epsilon < hardest_negative
        negative *= hardness + epsilon > hardest_positive


class MarkedStatistics(_Marked, WholeStatistics):
    """The statistics of the rows."""


class MarkedBlock(_Marked, WholeRowLosses):
    """Losses of some of the rows.  known: the measures, if they have been computed before."""

    def __init__(self, *problem: Any, known: Tensor | None = None, **marked: Any) -> None:
        super().__init__(*problem, **marked)
        self.known = known

    def _measures(self) -> Tensor:
        return super()._measures() if self.known is None else self.known


def marked_row_losses(
    problem: PairProblem,
    logit: Tensor,
    head: str | RowForm,
    head_parameters: Tensor,
    marks: Tensor,
    epsilon: Hyperparameter | None,
) -> MarkedBlock | MarkedRowLosses:
    """L_i, [n], for ``SmallOperator``: of one block, or of several."""
    n, m = problem.shape
    if n * m > MOST_PAIRS:
        return MarkedRowLosses(problem, logit, head, head_parameters, marks, epsilon)
    return MarkedBlock(problem, logit, None, head, head_parameters, marks=marks, epsilon=epsilon)


class MarkedRowLosses:
    """Output: L_i, [n].  The same steps as ``engine.whole.WholeMatrix`` for ``SmallOperator``."""

    def __init__(
        self,
        problem: PairProblem,
        logit: Tensor,
        head: str | RowForm,
        head_parameters: Tensor,
        marks: Tensor,
        epsilon: Hyperparameter | None,
    ) -> None:
        """marks: [2, n, m], 0 or 1.  problem: its labels are ignored, its rows are prepared unless
        ``is_small`` holds.
        """
        self.measure, self.normalize, self.curve = problem.measure, problem.normalize, problem.curve
        self.operands: Sequence[Any] = problem.anchors, problem.references, marks, None
        self.rest: tuple[Any, ...] = logit, None, head, head_parameters
        self.epsilon = epsilon

    def _block(self, a: Tensor, r: Tensor | None, marks: Tensor, known: Tensor | None) -> Any:
        no_labels = a.new_empty(0)
        problem = PairProblem(
            a, r, no_labels, None, self.measure, normalize=self.normalize, curve=self.curve
        )
        return MarkedBlock(problem, *self.rest, marks=marks, epsilon=self.epsilon, known=known)

    def _blocks(self) -> Iterator[tuple[slice, MarkedBlock]]:
        anchors, references, marks, measures = self.operands
        _, n, m = marks.shape
        dtype = accumulation_dtype(anchors.dtype)
        a = anchors.to(dtype)
        r = a if references is None else references.to(dtype)
        step = max(1, BLOCK_PAIRS // m, min(_ENOUGH_ROWS, _MOST_BLOCK_PAIRS // m))
        for begin in range(0, n, step):
            rows = slice(begin, min(begin + step, n))
            known = None if measures is None else measures[rows]
            yield rows, self._block(a[rows], r, marks[:, rows], known)

    def evaluate(self) -> tuple[Tensor] | None:
        """The losses; None without pairs or if not finite."""
        anchors, references, marks, _ = self.operands
        if marks.numel() == 0:
            return None
        losses = anchors.new_empty(anchors.shape[0], dtype=accumulation_dtype(anchors.dtype))
        measures = None
        for rows, block in self._blocks():
            outputs = block.evaluate()
            if outputs is None:
                return None
            losses[rows] = outputs[0]
            if measures is None:
                measures = losses.new_empty(marks.shape[1:])
            measures[rows] = block.x
        self.operands = anchors, references, marks, measures
        return (losses,)

    def parted(self, needs_logit: bool) -> tuple[MarkedRowLosses, list[Tensor | None]]:
        """An object without tensors, and these."""
        bare = object.__new__(type(self))
        logit, _, head, parameters = self.rest
        bare.__dict__ = {**self.__dict__, "operands": (), "rest": (head,)}
        return bare, [*self.operands, logit, parameters]

    def joined(self, tensors: Sequence[Any]) -> MarkedRowLosses:
        """The object that was ``parted``."""
        whole = object.__new__(type(self))
        whole.__dict__ = self.__dict__.copy()
        *whole.operands, logit, parameters = tensors
        whole.rest = logit, None, *self.rest, parameters
        return whole

    def gradient(self, grad: Tensor, needs: Needs) -> Gradients:
        """The gradients that are needed of anchors, references and logit."""
        anchors, references, *_ = self.operands
        is_self = references is None
        own = anchors.new_zeros(anchors.shape, dtype=grad.dtype) if needs[0] else None
        others = own
        if not is_self:
            others = references.new_zeros(references.shape, dtype=grad.dtype) if needs[1] else None
        logit_grad = grad.new_zeros(4) if needs[2] else None
        of_block = needs[0], needs[0] if is_self else needs[1], needs[2], False
        for rows, block in self._blocks():
            block.evaluate()
            of_rows, of_others, of_logit, _ = block.gradient(grad[rows], of_block)
            for total, part in ((own, of_rows), (others, of_others), (logit_grad, of_logit)):
                if total is not None and part is not None:
                    (total[rows] if part is of_rows else total).add_(part)
        return own, None if is_self else others, logit_grad, None


def lse_of_both_ends(
    of_anchors: Tensor, of_references: Tensor, indices: PairIndices, is_self: bool
) -> tuple[Tensor, Tensor]:
    """Log-sum-exps of the negatives of both ends of the listed positives, as in ``ListedPairs``.

    The negatives of a pair (i, i) are those of i, once; and a pair without negatives in a list that
    has some follows pytorch-metric-learning's convention.  Both are overwritten.
    """
    if is_self:
        of_references.masked_fill_(indices.positive_rows == indices.positive_columns, -math.inf)
    if indices.negative_rows.shape[0] == 0:
        return of_anchors, of_references
    neither = torch.maximum(of_anchors, of_references) == -math.inf
    return of_anchors.masked_fill_(neither, 0), of_references


class CountedPairLosses(WholePairLosses):
    """Output: the losses of the listed positive pairs, a pair counting as often as it is listed.

    The masks hold how often.  problem: its labels are ignored.  The negatives of references take
    the list where exponentials may overflow.

    column_sums: sum exp(scale x) over the negatives of each reference, [m], if they are looked at.
    """

    kept: ClassVar[tuple[str, ...]] = (*WholePairLosses.kept, "column_sums")

    def __init__(
        self, problem: PairProblem, logit: Tensor, formula: PairFormula, indices: PairIndices
    ) -> None:
        super().__init__(problem, logit, None, formula.form, logit)
        self.indices, self.needs_reference_lse = indices, formula.needs_reference_lse
        self.column_sums: Tensor | None = None

    def _masks(self) -> Tensor:
        places = pair_keys(self.indices[2:], self.x.shape[1])
        counts = torch.bincount(places, minlength=self.x.numel())
        return counts.to(self.x.dtype).view(1, *self.x.shape)

    def load(self) -> bool:
        if not super().load():
            return False
        if self.needs_reference_lse and not self.is_self:
            if not self.is_bounded:
                return False
            self.column_sums = self.exp[-1].sum(0)
        return True

    def evaluate(self) -> tuple[Tensor] | None:  # type: ignore[override]
        values = self.values()
        return None if values is None else (values,)

    def gradient(self, grad: Tensor | float, needs: Needs) -> Gradients:
        return self.gradient_of_values(grad, needs)

    def _positives(self) -> tuple[Tensor, Tensor]:
        return self.indices[:2]

    def _lse_of_positives(self) -> tuple[Tensor, Tensor]:
        of_anchors = self.lse[-1].index_select(0, self.rows)
        if not self.needs_reference_lse:
            return of_anchors, of_anchors  # not looked at
        # a listed negative pair (k, p) is a negative of the reference p, too
        lse = self.lse[-1]
        if self.column_sums is not None:
            lse = self.column_sums.log().add_(self.shifts[1])
        both = of_anchors, lse.index_select(0, self.columns)
        return lse_of_both_ends(*both, self.indices, self.is_self)

    def _of_columns(self, of_reference_lse: Tensor) -> Tensor | None:
        sums = self.column_sums
        return None if sums is None else of_reference_lse / inf_if_0(sums)
