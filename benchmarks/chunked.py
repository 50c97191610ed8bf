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

from benchmarks.cases import Case, LossFunction, Problem
from benchmarks.full_matrix import formula_of, num_terms, pairs_of
from fusedml import dense, formulas
from fusedml.formulas import Formula
from fusedml.heads import ROW_HEADS
from fusedml.pairs import PairProblem, accumulation_dtype, measure_matrix

# elements of a block.  CPU: the fastest of 2^18 to 2^22 for Multi-Similarity, n = 4096, d = 128 on
# one core.  GPU: not tuned; 256 MB in float32, so that a block fills the device.
BLOCK_ELEMENTS = {"cpu": 2**19, "cuda": 2**26}


def chunked_checkpoint(case: Case, problem: Problem) -> LossFunction:
    """Row blocks, each under ``torch.utils.checkpoint``."""

    def loss() -> Tensor:
        formula, pairs = formula_of(case, problem), pairs_of(case, problem)
        everyone = _everyone(pairs)
        reference_lse = None
        if formula.needs_reference_lse:
            among = _among_references(pairs)
            blocks = [
                checkpoint(_negative_lse, block, everyone, formula, use_reentrant=False)
                for block in _blocks(among)
            ]
            reference_lse = torch.cat(blocks)
        sums, counts = [], []
        for block in _blocks(pairs):
            total, terms = checkpoint(
                _block_sum, block, everyone, formula, reference_lse, use_reentrant=False
            )
            sums.append(total)
            counts.append(terms)
        value = torch.stack(sums).sum() / _divisor(formula, counts)
        return value.to(problem.embeddings.dtype)

    return loss


def chunked_gradient_in_forward(case: Case, problem: Problem) -> LossFunction:
    """Row blocks whose gradients are taken, and summed, in the forward."""

    def loss() -> Tensor:
        formula, pairs = formula_of(case, problem), pairs_of(case, problem)
        return _GradientInForward.apply(
            pairs.anchors, pairs.references, pairs, formula, torch.is_grad_enabled()
        )

    return loss


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


def _negative_lse(block: _Block, everyone: Tensor, formula: Formula) -> Tensor:
    x = measure_matrix(block.anchors, everyone, block.measure)
    logit = formula.logit(_sign(block.measure))
    return dense.row_statistics(x, *block.masks(), logit).lse_negative


def _block_sum(
    block: _Block, everyone: Tensor, formula: Formula, reference_lse: Tensor | None
) -> tuple[Tensor, Tensor | int]:
    """Sum of the block's losses, at least float32, and how many terms it has."""
    x = measure_matrix(block.anchors, everyone, block.measure)
    sign, (positive, negative) = _sign(block.measure), block.masks()
    if formula.head in ROW_HEADS:
        losses = dense.row_losses_of_matrix(x, positive, negative, formula, sign)
    else:
        logit = formula.logit(sign)
        anchor_lse = dense.row_statistics(x, positive, negative, logit).lse_negative
        if reference_lse is None:  # this head does not look at it
            reference_lse = torch.zeros_like(x[0])
        losses = dense.positive_pair_losses_of_matrix(
            x, positive, formula.head, logit, anchor_lse, reference_lse
        )
    total = losses.sum(dtype=accumulation_dtype(losses.dtype))
    return total, num_terms(formula, losses, positive)


def _divisor(formula: Formula, counts: list[Tensor | int]) -> Any:
    return 1 if isinstance(formula, formulas.ProxyAnchor) else sum(counts)


class _GradientInForward(torch.autograd.Function):
    """The loss with the gradients of anchors and references beside it."""

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
        value = sweep.run()
        ctx.save_for_backward(*sweep.gradients())
        return value.to(anchors.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        scaled = [gradient * grads[0] for gradient in ctx.saved_tensors]
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
        """The loss; the gradients are then those of the loss."""
        # two passes: every block looks at the log-sum-exps of all references
        lse = self._reference_lse() if self.formula.needs_reference_lse else None
        lse_grad = None if lse is None else torch.zeros_like(lse)
        sums, counts = [], []
        for block in _blocks(self.pairs):
            total, terms = self._add_block(block, lse, lse_grad)
            sums.append(total)
            counts.append(terms)
        if lse_grad is not None and self.wants_gradient:
            self._add_gradient_of_lse(lse_grad)
        divisor = _divisor(self.formula, counts)
        for total in self.sums:
            total.div_(divisor)
        return torch.stack(sums).sum() / divisor

    def _reference_lse(self) -> Tensor:
        blocks = _blocks(_among_references(self.pairs))
        return torch.cat([_negative_lse(block, self.everyone, self.formula) for block in blocks])

    def _add_block(
        self, block: _Block, lse: Tensor | None, lse_grad: Tensor | None
    ) -> tuple[Tensor, Tensor | int]:
        if not self.wants_gradient:
            return _block_sum(block, self.everyone, self.formula, lse)
        leaves = [block.anchors.detach().requires_grad_(), self.everyone.detach().requires_grad_()]
        if lse is not None:
            leaves.append(lse.detach().requires_grad_())
        with torch.enable_grad():
            total, terms = _block_sum(
                block._replace(anchors=leaves[0]),
                leaves[1],
                self.formula,
                leaves[2] if lse is not None else None,
            )
            gradients = torch.autograd.grad(total, leaves)
        self.sums[0][block.rows] += gradients[0]
        self.sums[-1] += gradients[1]
        if lse_grad is not None:
            lse_grad += gradients[2]
        return total.detach(), terms

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
