"""The usual way out of the full matrix: blocks of its rows, one after the other, in plain PyTorch.

Two of them, for every loss.  With checkpointing, ``torch.utils.checkpoint`` forgets each block
after the forward and computes it again in the backward.  With the gradient in the forward, each
block is differentiated as soon as it is computed and the backward only scales what was summed, as
in gradient caching (Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited
Setup", RepL4NLP 2021) and in the chunked losses of Liger-Kernel (Hsu et al., 2024).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from benchmarks.cases import Case, LossFunction, Problem, UnavailableError
from benchmarks.modules import function_on_pairs
from fusedml import dense
from fusedml.engine.pairs import PairProblem, accumulation_dtype, measure_matrix
from fusedml.engine.positives import num_positives
from fusedml.engine.routes.pair_losses import (
    ListedLosses,
    ListedMeasures,
    PairLosses,
    has_negative,
)
from fusedml.formulas import Formula, PairFormula, RowFormula, SumFormula
from fusedml.heads import PairSums, RowStatistics
from fusedml.reducers import RowSums

# elements of a block.  CPU: the fastest of 2^18 to 2^22 for Multi-Similarity, n = 4096, d = 128 on
# one core.  GPU: not tuned; 256 MB in float32, so that a block fills the device.
BLOCK_ELEMENTS = {"cpu": 2**19, "cuda": 2**26}


def chunked_checkpoint(case: Case, problem: Problem) -> LossFunction:
    """Row blocks, each under ``torch.utils.checkpoint``."""
    return function_on_pairs(case, problem, _CheckpointedPairs)


def chunked_gradient_in_forward(case: Case, problem: Problem) -> LossFunction:
    """Row blocks whose gradients are taken, and summed, in the forward."""
    return function_on_pairs(case, problem, _DifferentiatedPairs)


class _ChunkedPairs:
    """The pairs of a problem, block after block of its rows."""

    def __init__(self, problem: PairProblem, sign: float) -> None:
        self.problem, self.sign = problem, sign

    def sums(self, formula: Formula) -> Tensor:
        """L_i of each row, or the sum of its pairs' losses, [n]."""
        raise NotImplementedError

    def row_losses(self, formula: RowFormula, epsilon: Any = None) -> Tensor:
        return self.sums(formula)

    def pair_losses(self, formula: PairFormula) -> PairLosses:
        def rows() -> RowSums:
            return RowSums(self.sums(formula), num_positives(self.problem))

        return PairLosses(rows, self._unlisted)

    def row_statistics(self, formula: Formula) -> RowStatistics:
        raise UnavailableError("not offered: has no row statistics")

    def pair_sums(self, formula: SumFormula) -> PairSums:
        raise UnavailableError("not offered: has no sums of terms")

    def measures_of(self, is_positive: bool) -> ListedMeasures:
        raise UnavailableError("not offered: lists no pairs")

    def _unlisted(self) -> ListedLosses:
        raise UnavailableError("not offered: lists no pairs")

    def has_negative(self) -> Tensor | bool:
        return has_negative(self.problem)


class _CheckpointedPairs(_ChunkedPairs):
    def sums(self, formula: Formula) -> Tensor:
        problem, everyone = self.problem, _everyone(self.problem)
        reference_lse = None
        if _needs_reference_lse(formula):
            blocks = [
                checkpoint(_negative_lse, block, everyone, formula, use_reentrant=False)
                for block in _blocks(_among_references(problem))
            ]
            reference_lse = torch.cat(blocks)
        parts = [
            checkpoint(_row_sums, block, everyone, formula, reference_lse, use_reentrant=False)
            for block in _blocks(problem)
        ]
        return torch.cat(parts)

    def row_statistics(self, formula: Formula) -> RowStatistics:
        problem, everyone = self.problem, _everyone(self.problem)
        parts = [
            checkpoint(_row_statistics, block, everyone, formula, use_reentrant=False)
            for block in _blocks(problem)
        ]
        return RowStatistics(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def pair_sums(self, formula: SumFormula) -> PairSums:
        problem, everyone = self.problem, _everyone(self.problem)
        parts = [
            checkpoint(_pair_sums, block, everyone, formula, use_reentrant=False)
            for block in _blocks(problem)
        ]
        return PairSums(*(torch.cat(part, -1) for part in zip(*parts, strict=True)))


class _DifferentiatedPairs(_ChunkedPairs):
    def sums(self, formula: Formula) -> Tensor:
        problem = self.problem
        return _GradientInForward.apply(
            problem.anchors, problem.references, problem, formula, torch.is_grad_enabled()
        )


def _needs_reference_lse(formula: Formula) -> bool:
    return isinstance(formula, PairFormula) and formula.needs_reference_lse


class _Block(NamedTuple):
    """Some rows of the matrix; the masks are made when asked for, not kept.

    labels: of these rows.  other_labels: of all columns.  leaves_out_self: no pair (i, i).
    """

    rows: slice
    anchors: Tensor
    labels: Tensor
    other_labels: Tensor
    leaves_out_self: bool
    measure: str

    def masks(self) -> tuple[Tensor, Tensor]:
        """Bool masks of the positive and of the negative pairs."""
        positive = self.labels[:, None] == self.other_labels
        negative = ~positive
        if self.leaves_out_self:
            positive.diagonal(self.rows.start).fill_(False)
        return positive, negative


def _everyone(pairs: PairProblem) -> Tensor:
    return pairs.anchors if pairs.references is None else pairs.references


def _among_references(pairs: PairProblem) -> PairProblem:
    """The references against themselves, whose negatives the lifted structure loss looks at."""
    if pairs.references is None:
        return pairs
    assert pairs.reference_labels is not None
    return PairProblem(pairs.references, None, pairs.reference_labels, None, pairs.measure)


def _blocks(pairs: PairProblem) -> Iterator[_Block]:
    n, m = len(pairs.anchors), len(_everyone(pairs))
    elements = BLOCK_ELEMENTS.get(pairs.anchors.device.type, BLOCK_ELEMENTS["cpu"])
    height = max(1, min(n, elements // max(m, 1)))
    labels = pairs.anchor_labels
    others = labels if pairs.reference_labels is None else pairs.reference_labels
    for start in range(0, n, height):
        rows = slice(start, min(start + height, n))
        yield _Block(
            rows, pairs.anchors[rows], labels[rows], others, pairs.exclude_diagonal, pairs.measure
        )


def _sign(measure: str) -> float:
    return 1.0 if measure == "dot" else -1.0


def _row_statistics(block: _Block, everyone: Tensor, formula: Formula) -> RowStatistics:
    x = measure_matrix(block.anchors, everyone, block.measure)
    logit = formula.logit(_sign(block.measure))
    return dense.row_statistics(x, *block.masks(), logit)


def _negative_lse(block: _Block, everyone: Tensor, formula: Formula) -> Tensor:
    return _row_statistics(block, everyone, formula).lse_negative


def _pair_sums(block: _Block, everyone: Tensor, formula: SumFormula) -> PairSums:
    x = measure_matrix(block.anchors, everyone, block.measure)
    if formula.shifts is not None:
        formula = formula._replace(shifts=formula.shifts[:, block.rows])
    return dense.pair_sums(x, *block.masks(), formula, _sign(block.measure))


def _row_sums(
    block: _Block, everyone: Tensor, formula: Formula, reference_lse: Tensor | None
) -> Tensor:
    """The losses of the block's rows, or the sums of their pairs' losses, at least float32."""
    x = measure_matrix(block.anchors, everyone, block.measure)
    sign, (positive, negative) = _sign(block.measure), block.masks()
    if isinstance(formula, RowFormula):
        losses = dense.row_losses_of_matrix(x, positive, negative, formula, sign)
        return losses.to(accumulation_dtype(losses.dtype))
    logit = formula.logit(sign)
    anchor_lse = dense.row_statistics(x, positive, negative, logit).lse_negative
    if reference_lse is None:  # this form does not look at it
        reference_lse = torch.zeros_like(x[0])
    losses = dense.positive_pair_losses_of_matrix(
        x, positive, formula, logit, anchor_lse, reference_lse
    )
    return losses.sum(1, dtype=accumulation_dtype(losses.dtype))


class _GradientInForward(torch.autograd.Function):
    """Losses of the rows, with the gradients of their sum by anchors and references beside them.

    The loss must be a multiple of their sum, as a mean is; rows without a loss have no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        references: Tensor | None,
        pairs: PairProblem,
        formula: Formula,
        wants_gradient: bool,
    ) -> Tensor:
        pairs = pairs._replace(
            anchors=anchors.detach(), references=None if references is None else references.detach()
        )
        sweep = _Sweep(pairs, formula, wants_gradient)
        losses = sweep.run()
        ctx.save_for_backward(losses, *sweep.gradients())
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        losses, *gradients = ctx.saved_tensors
        factors = grads[0][losses != 0]
        factor = factors[0] if len(factors) else grads[0].sum()
        if not bool((factors == factor).all()):
            raise UnavailableError("not offered: the loss is no multiple of the sum of its terms")
        scaled = [gradient * factor for gradient in gradients]
        references_grad = scaled[1] if len(scaled) > 1 else None
        return scaled[0], references_grad, None, None, None


class _Sweep:
    """One pass over the blocks, which sums losses and gradients."""

    def __init__(self, pairs: PairProblem, formula: Formula, wants_gradient: bool) -> None:
        self.pairs, self.formula, self.wants_gradient = pairs, formula, wants_gradient
        self.everyone = _everyone(pairs)
        # of the anchors and, if they are others, of the references; in float32 at least
        dtype = accumulation_dtype(pairs.anchors.dtype)
        own = [pairs.anchors] if pairs.references is None else [pairs.anchors, pairs.references]
        self.sums = [torch.zeros_like(leaf, dtype=dtype) for leaf in own if wants_gradient]

    def gradients(self) -> list[Tensor]:
        """Of the anchors and, if they are others, of the references; none if not wanted."""
        return [gradient.to(self.everyone.dtype) for gradient in self.sums]

    def run(self) -> Tensor:
        """The losses of the rows; the gradients are then those of their sum."""
        # two passes: every block looks at the log-sum-exps of all references
        lse = self._reference_lse() if _needs_reference_lse(self.formula) else None
        lse_grad = None if lse is None else torch.zeros_like(lse)
        losses = [self._add_block(block, lse, lse_grad) for block in _blocks(self.pairs)]
        if lse_grad is not None and self.wants_gradient:
            self._add_gradient_of_lse(lse_grad)
        return torch.cat(losses)

    def _reference_lse(self) -> Tensor:
        blocks = _blocks(_among_references(self.pairs))
        return torch.cat([_negative_lse(block, self.everyone, self.formula) for block in blocks])

    def _add_block(self, block: _Block, lse: Tensor | None, lse_grad: Tensor | None) -> Tensor:
        if not self.wants_gradient:
            return _row_sums(block, self.everyone, self.formula, lse)
        leaves = [block.anchors.detach().requires_grad_(), self.everyone.detach().requires_grad_()]
        if lse is not None:
            leaves.append(lse.detach().requires_grad_())
        with torch.enable_grad():
            losses = _row_sums(
                block._replace(anchors=leaves[0]),
                leaves[1],
                self.formula,
                leaves[2] if lse is not None else None,
            )
            gradients = torch.autograd.grad(losses.sum(), leaves)
        self.sums[0][block.rows] += gradients[0]
        self.sums[-1] += gradients[1]
        if lse_grad is not None:
            lse_grad += gradients[2]
        return losses.detach()

    def _add_gradient_of_lse(self, lse_grad: Tensor) -> None:
        """What the loss owes to the references' log-sum-exps, whose blocks are computed again."""
        for block in _blocks(_among_references(self.pairs)):
            own, everyone = block.anchors.detach().requires_grad_(), self.everyone.detach()
            everyone.requires_grad_()
            with torch.enable_grad():
                lse = _negative_lse(block._replace(anchors=own), everyone, self.formula)
                gradients = torch.autograd.grad(lse, (own, everyone), lse_grad[block.rows])
            self.sums[-1][block.rows] += gradients[0]
            self.sums[-1] += gradients[1]
