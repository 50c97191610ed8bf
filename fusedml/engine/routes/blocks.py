"""Labels and any other distance: blocks of rows, measured again in the backward.

The matrix function is called with some of the anchors and all references.  A block has a bounded
number of elements, and its intermediate tensors live only while it is being computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fusedml.curves import CURVES
from fusedml.engine import autograd
from fusedml.engine.labels import alike
from fusedml.engine.pairs import PairProblem, accumulation_dtype, fill_excluded
from fusedml.engine.positives import num_positives, pairs_of_kind
from fusedml.engine.precision import are_finite, is_free_to_read, owned
from fusedml.engine.reductions.differentiable import pair_losses
from fusedml.engine.reductions.differentiable import statistics as row_statistics
from fusedml.engine.reductions.entries import GivenEntries, MatrixSide
from fusedml.engine.reductions.given import Given
from fusedml.engine.reductions.mined import mined
from fusedml.engine.routes.pair_losses import (
    ListedLosses,
    ListedMeasures,
    PairLosses,
    has_negative,
    losses_of_positives,
)
from fusedml.formulas import Formula, Hyperparameter, PairFormula, RowFormula, SumFormula
from fusedml.heads import PairSums, RowStatistics
from fusedml.reducers import RowSums, zero_loss

# Elements of a block: distances that build an array [rows, m, d] stay below 64 MB for d = 128.
BLOCK_ELEMENTS = 1 << 17

Matrix = Callable[[Tensor, Tensor], Tensor]


def row_blocks(num_rows: int, num_columns: int, height: int = 1) -> Iterator[slice]:
    """Slices of the rows such that a block has at most ``height`` BLOCK_ELEMENTS, or one row."""
    step = max(1, height * BLOCK_ELEMENTS // max(1, num_columns))
    for begin in range(0, num_rows, step):
        yield slice(begin, min(begin + step, num_rows))


def recomputed(function: Callable[..., Any], *args: Any, watched: Iterable[Tensor] = ()) -> Any:
    """function(*args), forgetting its intermediate tensors until the backward.

    All tensors that the function reads are among ``args`` or ``watched``, or nobody else has them:
    PyTorch then raises if one is overwritten before the function is computed again.  Under the
    transforms of torch.func, which do not allow it, nothing is forgotten.
    """
    if not torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        return function(*args)
    own = len(args)

    def run(*given: Any) -> Any:
        return function(*given[:own])

    return checkpoint(run, *args, *watched, use_reentrant=False)


def listed_measures(
    matrix: Matrix,
    anchors: Tensor,
    references: Tensor,
    rows: Tensor,
    columns: Tensor,
    watched: Iterable[Tensor] = (),
) -> Tensor:
    """The matrix's entries at (rows[k], columns[k]), [num_pairs].  watched: what else it reads."""
    dtype = accumulation_dtype(anchors.dtype)

    def entries(a: Tensor, r: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return matrix(a, r)[i, j].to(dtype)

    values, positions = [], []
    for block in row_blocks(anchors.shape[0], references.shape[0]):
        inside = ((rows >= block.start) & (rows < block.stop)).nonzero().squeeze(1)
        if inside.numel():
            i, j = rows[inside] - block.start, columns[inside]
            args = anchors[block], references, i, j
            values.append(recomputed(entries, *args, watched=watched))
            positions.append(inside)
    if not values:
        return (anchors.sum() * 0).to(dtype).expand(0)
    back = torch.argsort(torch.cat(positions))
    return torch.cat(values)[back]


class BlockedPairs:
    """All pairs of a problem whose measure is an arbitrary function.

    matrix: (anchors [k, d], references [m, d]) -> [k, m].  sign: +1 for similarities, else -1.
    offsets: None or [m], added to the logits of each reference.  watched: the tensors that the
    matrix reads beside its arguments.  height: of the blocks, in multiples of what BLOCK_ELEMENTS
    make.
    """

    def __init__(
        self,
        problem: PairProblem,
        matrix: Matrix,
        sign: float,
        offsets: Tensor | None = None,
        watched: Iterable[Tensor] = (),
        height: int = 1,
    ) -> None:
        if problem.extent is not None and not torch._C._are_functorch_transforms_active():
            rows, cols = problem.extent.tolist()
            problem = _cut(problem, rows, cols)
        owned_ones = (x if x is None else owned(x) for x in problem[:4])
        problem = PairProblem._make([*owned_ones, *problem[4:]])
        self.problem = problem
        self.matrix = matrix
        self.sign = sign
        self.offsets = offsets
        self.watched = tuple(watched)
        self.height = height
        self.references = problem.anchors if problem.references is None else problem.references
        self.dtype = accumulation_dtype(self.references.dtype)
        # NaN if any embedding is NaN or inf: masks and mining would hide some of them
        sides = problem.anchors.detach(), self.references.detach()
        is_known = all(map(is_free_to_read, sides)) and are_finite(*sides)
        self.poison = None if is_known else zero_loss(*sides).to(self.dtype)

    def poisoned(self, x: Tensor) -> Tensor:
        """x, or NaN if any embedding is NaN or inf."""
        return x if self.poison is None else x + self.poison

    def _measures(self, anchors: Tensor, references: Tensor) -> Tensor:
        return self.matrix(anchors, references).to(self.dtype)

    def _masks(self, block: slice) -> tuple[Tensor, Tensor]:
        labels = self.problem.anchor_labels
        others = self.problem.reference_labels
        positive = alike(labels[block], labels if others is None else others)
        if not self.problem.exclude_diagonal and self.problem.extent is None:
            return positive, ~positive
        counted = fill_excluded(torch.ones_like(positive), self.problem, False, block.start)
        if self.problem.extent is not None:
            rows, columns = (torch.arange(k, device=labels.device) for k in self.problem.shape)
            extent = self.problem.extent
            counted = counted & (rows[block, None] < extent[0]) & (columns < extent[1])
        return positive & counted, ~positive & counted

    def _blocks(self) -> Iterator[slice]:
        shape = self.problem.anchors.shape[0], self.references.shape[0]
        return row_blocks(*shape, self.height)

    def _by_blocks(
        self, function: Callable[..., tuple[Tensor, ...]], *operands: Tensor
    ) -> list[Tensor]:
        """Each output of ``function(block, measures of the block, *operands)``, concatenated.

        operands: the tensors that the function reads, beside labels.
        """

        def of_block(block: slice, anchors: Tensor, references: Tensor, *operands: Tensor) -> Any:
            return function(block, self._measures(anchors, references), *operands)

        anchors, others = self.problem.anchors, (self.references, *operands)
        blocks = list(self._blocks())
        if len(blocks) == 1:  # no more than what its backward would hold
            return list(of_block(blocks[0], anchors, *others))
        outputs = [
            recomputed(of_block, block, anchors[block], *others, watched=self.watched)
            for block in blocks
        ]
        if not outputs:
            outputs = [of_block(slice(0, 0), anchors[:0], *others)]
        return [torch.cat(parts) for parts in zip(*outputs, strict=True)]

    def _given(self, x: Tensor, masks: tuple[Tensor, Tensor], logit: Tensor, curve: str) -> Given:
        """The pairs of a block, which feed its rows."""
        both = [True, True]
        return Given(x, both, *masks, None, x.shape[0], logit, curve, self.offsets)

    def _mined(
        self, x: Tensor, masks: tuple[Tensor, Tensor], epsilon: Hyperparameter
    ) -> tuple[Tensor, Tensor]:
        y = self.sign * x.detach()
        pairs = GivenEntries(y, [True, True], masks, None, y.shape[0])
        return mined(pairs, pairs, epsilon)

    def row_losses(self, formula: RowFormula, epsilon: Hyperparameter | None = None) -> Tensor:
        return formula.losses(self._statistics(formula, epsilon))

    def row_statistics(self, formula: Formula) -> RowStatistics:
        return self._statistics(formula, None)

    def _statistics(self, formula: Formula, epsilon: Hyperparameter | None) -> RowStatistics:
        if isinstance(epsilon, Tensor):
            epsilon = epsilon.detach().clone()

        def statistics(block: slice, x: Tensor, logit: Tensor) -> tuple[Tensor, ...]:
            masks = self._masks(block)
            if epsilon is not None:
                masks = self._mined(x, masks, epsilon)
            side, curve = MatrixSide(slice(None), 1), CURVES[formula.curve]
            found = row_statistics(x, masks, side, logit, curve, self.offsets)
            return *found.unbind(), *(mask.sum(1) for mask in masks)

        row = self._by_blocks(statistics, formula.logit(self.sign))
        return RowStatistics(*map(self.poisoned, row[:3]), *row[3:])

    def pair_losses(self, formula: PairFormula) -> PairLosses:
        anchor_lse = self.row_statistics(formula).lse_negative
        reference_lse = self._reference_lse(formula, anchor_lse)

        def row_sums(
            block: slice, x: Tensor, logit: Tensor, anchor_lse: Tensor, reference_lse: Tensor
        ) -> tuple[Tensor]:
            given, positive = (formula.form, logit, CURVES[formula.curve]), self._masks(block)[0]
            lse = anchor_lse[block]
            # half of them at a time: forms hold both log-sum-exps of a pair together
            halves = list(row_blocks(x.shape[0], 2 * x.shape[1])) or [slice(0, 0)]
            sums = [
                pair_losses(x[half], positive[half], *given, lse[half], reference_lse)
                for half in halves
            ]
            return (torch.cat(sums),)

        def rows() -> RowSums:
            operands = formula.logit(self.sign), anchor_lse, reference_lse
            sums = self.poisoned(self._by_blocks(row_sums, *operands)[0])
            return RowSums(sums, num_positives(self.problem))

        def listed() -> ListedLosses:
            x, i, j = self.measures_of(is_positive=True)
            losses = losses_of_positives(formula, self.sign, x, anchor_lse[i], reference_lse[j])
            return ListedLosses(self.poisoned(losses), i, j)

        return PairLosses(rows, listed)

    def pair_sums(self, formula: SumFormula) -> PairSums:
        def sums(
            block: slice, x: Tensor, logit: Tensor, shifts: Tensor | None = None
        ) -> tuple[Tensor, ...]:
            of_block = None if shifts is None else shifts[:, block]
            given = self._given(x, self._masks(block), logit, formula.curve)
            of_rows = autograd.entry_sums(given, formula.terms, of_block)
            return of_rows.sums.T, of_rows.counts.T, *of_rows[2:]

        shifts = () if formula.shifts is None else (formula.shifts,)
        values, counts, *numbers = self._by_blocks(sums, formula.logit(self.sign), *shifts)
        return PairSums(self.poisoned(values.T), counts.T, *numbers)

    def measures_of(self, is_positive: bool) -> ListedMeasures:
        i, j = pairs_of_kind(self.problem, is_positive)
        sides = self.problem.anchors, self.references
        return ListedMeasures(listed_measures(self.matrix, *sides, i, j, self.watched), i, j)

    def _reference_lse(self, formula: PairFormula, anchor_lse: Tensor) -> Tensor:
        labels = self.problem.reference_labels
        if self.problem.references is None or labels is None:
            return anchor_lse
        if not formula.needs_reference_lse:
            return anchor_lse.new_zeros(self.references.shape[0])
        among_references = PairProblem(self.references, None, labels, None)
        pairs = BlockedPairs(among_references, self.matrix, self.sign, watched=self.watched)
        return pairs.row_statistics(formula).lse_negative

    def has_negative(self) -> Tensor | bool:
        return has_negative(self.problem)


def _cut(problem: PairProblem, num_rows: int, num_columns: int) -> PairProblem:
    """The problem without the rows and columns beyond its extent."""
    references, labels = problem.references, problem.reference_labels
    return problem._replace(
        anchors=problem.anchors[:num_rows],
        anchor_labels=problem.anchor_labels[:num_rows],
        references=None if references is None else references[:num_columns],
        reference_labels=None if labels is None else labels[:num_columns],
        extent=None,
    )
