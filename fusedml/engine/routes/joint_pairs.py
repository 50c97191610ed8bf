"""One loss per positive pair, from the pair's joint row a_i + r_p against columns of its own."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, normalize
from torch.utils.checkpoint import checkpoint

from fusedml import dense
from fusedml.engine import autograd, whole
from fusedml.engine.averaged import Interval
from fusedml.engine.backends import DENSE, has_kernels, require_backend
from fusedml.engine.joint_classes import class_pair_losses
from fusedml.engine.joint_rows import most_pairs
from fusedml.engine.label_sets import are_sets
from fusedml.engine.labels import alike
from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.positives import in_one_order, num_positives, positive_pairs
from fusedml.engine.precision import (
    is_autocast,
    is_free_to_read,
    owned,
    prepare,
    prepared,
    tile_dtype,
)
from fusedml.engine.recorded import Gradient, UntransformedFunction
from fusedml.engine.reductions.differentiable import log_sum
from fusedml.engine.reductions.entries import MatrixSide, add_at
from fusedml.engine.routes.fused import without_shared_tensors
from fusedml.engine.routes.listed import count
from fusedml.engine.routes.pair_losses import ListedLosses, PairLosses
from fusedml.engine.unit_rows import row_normalizer
from fusedml.engine.whole import may_hold_matrices
from fusedml.formulas import PairFormula
from fusedml.reducers import RowSums, zero_loss

# Products of rows, or of joint rows, and columns up to which calls cost more.
FEW_PAIRS = 1 << 17
# Products of joint rows of fewer listed pairs than rows that are held: 16 MB in float32.
_MOST_JOINT = 1 << 22

Listed = tuple[Tensor, Tensor]


class JointPairs:
    """The positive pairs of a problem, by label or listed, see ``engine.joint_rows``.

    Their anchors and references are divided by their norms; the columns are the references, or the
    embeddings that are their own, as given.  A column counts where its label is not the anchor's.

    problem: with the embeddings as given.  listed: rows and columns of the pairs, None for all.
    """

    def __init__(self, problem: PairProblem, backend: str, listed: Listed | None = None) -> None:
        self.given = problem._replace(normalize=True)
        self.backend, self.listed = backend, listed
        self._prepared: tuple[PairProblem, Tensor] | None = None
        if backend != DENSE:
            require_backend(backend, problem.anchors, "pair_statistics")

    @property
    def problem(self) -> PairProblem:
        """With rows as they are measured."""
        return self._as_measured()[0]

    @property
    def columns(self) -> Tensor:
        """[m, d]."""
        return self._as_measured()[1]

    def _as_measured(self) -> tuple[PairProblem, Tensor]:
        if self._prepared is None:
            given, backend = self.given, self.backend
            anchors, references = given.anchors, given.references
            columns = anchors if references is None else references
            if backend == DENSE:
                a = normalize(anchors)
                r = None if references is None else normalize(references)
                self._prepared = given._replace(anchors=a, references=r), owned(columns)
            else:
                dtype, normalizer = tile_dtype(anchors), row_normalizer(backend, anchors)
                columns = prepare(columns, dtype, False)
                self._prepared = prepared(given, dtype, normalizer=normalizer), columns
        return self._prepared

    def _poisoned(self, x: Tensor) -> Tensor:
        """x, or NaN if any embedding is NaN or inf."""
        return x + zero_loss(*self.given[:2]).detach()

    def pair_losses(self, formula: PairFormula) -> PairLosses:
        """One loss per positive pair."""

        def listed() -> ListedLosses:
            rows, positives = self.listed or positive_pairs(self.problem)
            losses = self._losses(formula, rows, positives)
            return ListedLosses(self._poisoned(losses), rows, positives)

        def rows() -> RowSums:
            counts = self._counts()
            return RowSums(self._poisoned(self._sums(formula, counts)), counts)

        def mean(low: float | None, high: float | None) -> Tensor | None:
            return self._mean(formula, (low, high))

        return PairLosses(rows, listed, may_repeat=self.listed is not None, mean=mean)

    def _mean(self, formula: PairFormula, interval: Interval) -> Tensor | None:
        """The mean of the losses in the interval, 0-d; None where rows or the list tell it."""
        given, logit = self.given, formula.logit(1.0)
        if logit.requires_grad or not _may_be_whole(given, self.backend):
            return None
        (n, m), is_self = given.shape, given.references is None
        num_rows = n if is_self else n + m
        if self.listed is None and num_rows * m > FEW_PAIRS:
            return None
        pairs = self.listed or _one_order_of(given, positive_pairs(given))
        num_pairs = pairs[0].shape[0]
        most = whole.MOST_PAIRS
        if self.listed is not None and num_pairs <= num_rows:
            most = _MOST_JOINT
        elif min(num_pairs, num_rows) * m > FEW_PAIRS:
            return None
        if not 0 < num_pairs * m <= most:
            return None
        return autograd.mean_joint_loss(given, logit, formula.form, pairs, interval)

    def _counts(self) -> Tensor:
        if self.listed is None:
            return num_positives(self.problem)
        return count(self.listed[0], self.problem.shape[0])

    def _sums(self, formula: PairFormula, counts: Tensor) -> Tensor:
        """[n]: the losses of each row, added.  counts: their numbers."""
        if self.listed is None and not self._may_be_listed(counts):
            problem = self.problem
            if torch.compiler.is_compiling():
                problem = without_shared_tensors(problem)
            given = problem, self.columns, formula.logit(1.0), formula.form
            if not has_kernels(self.backend, self.columns) and is_free_to_read(self.columns):
                sums = class_pair_losses(*given, int(counts.sum()))
                if sums is not None:
                    return sums
            return autograd.joint_pair_losses(*given, self.backend)
        rows, positives = self.listed or positive_pairs(self.problem)
        is_mirrored = self.listed is None and _are_mirrored(self.problem)
        if is_mirrored:
            rows, positives = in_one_order(rows, positives)
        losses = self._losses(formula, rows, positives)
        sums = add_at(losses.new_zeros(self.problem.shape[0]), rows, losses)
        return add_at(sums, positives, losses) if is_mirrored else sums

    def _may_be_listed(self, counts: Tensor) -> bool:
        """Whether the pairs may be found, and are few enough to be held with their joint rows."""
        if self.backend == DENSE:
            return True
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return False
        return int(counts.sum()) <= most_pairs(self.columns)

    def _losses(self, formula: PairFormula, rows: Tensor, positives: Tensor) -> Tensor:
        """[num_pairs], differentiable; the joint rows of many pairs are made again backward."""
        if rows.shape[0] == 0:
            # connected to the graph
            return self.problem.anchors[:0].to(accumulation_dtype(self.columns.dtype)).sum(1)
        if self._is_whole(rows.shape[0]):
            return self._whole(formula, rows, positives)
        most = most_pairs(self.columns)
        if rows.shape[0] <= most:
            return self._fused(formula, rows, positives)
        parts = zip(rows.split(most), positives.split(most), strict=True)
        return torch.cat(
            [checkpoint(self._fused, formula, *part, use_reentrant=False) for part in parts]
        )

    def _is_whole(self, num_pairs: int) -> bool:
        """Whether PyTorch is to hold the matrix of the joint rows and the columns."""
        if self.backend == DENSE:
            return True
        columns = self.columns
        is_exact = columns.dtype == accumulation_dtype(columns.dtype) and not is_autocast(columns)
        size = num_pairs * columns.shape[0]
        return is_exact and may_hold_matrices(self.backend, columns) and size <= whole.MOST_PAIRS

    def _sides(self, rows: Tensor, positives: Tensor) -> tuple[Tensor, Tensor]:
        a, r = self.problem.anchors, self.problem.references
        return embedding(rows, a), embedding(positives, a if r is None else r)

    @property
    def _column_labels(self) -> Tensor:
        labels = self.problem.reference_labels
        return self.problem.anchor_labels if labels is None else labels

    def _fused(self, formula: PairFormula, rows: Tensor, positives: Tensor) -> Tensor:
        a, r = self._sides(rows, positives)
        wide = accumulation_dtype(a.dtype)
        joint = (a.to(wide) + r.to(wide)).to(a.dtype)
        labels = self.problem.anchor_labels[rows], self._column_labels
        joint_rows = PairProblem(joint, self.columns, *labels, exclude_diagonal=False)
        logit = formula.logit(1.0)
        lse = autograd.pair_statistics(joint_rows, logit, backend=self.backend).lse_negative
        given = self.problem.anchors, self.problem.references
        x = autograd.pair_values(*given, rows, positives, "dot", self.backend)
        return self._of(formula, x, lse)

    def _whole(self, formula: PairFormula, rows: Tensor, positives: Tensor) -> Tensor:
        """In ordinary PyTorch, with a matrix of as many rows as pairs."""
        a, r = self._sides(rows, positives)
        x, lse = (a * r).sum(1), None
        if self.backend != DENSE:
            lse = self._lse_of_sums(formula, rows, positives)
        if lse is None:
            logit = formula.logit(1.0).to(a)
            z = logit[2] * ((a + r) @ self.columns.T) + logit[3]
            is_negative = ~alike(self.problem.anchor_labels[rows], self._column_labels)
            if self.backend == DENSE:
                lse = dense.masked_logsumexp(z, is_negative)
            else:
                lse = log_sum(z, is_negative, MatrixSide(slice(None), 1))
        return self._of(formula, x, lse)

    def _lse_of_sums(self, formula: PairFormula, rows: Tensor, positives: Tensor) -> Tensor | None:
        """From <a_i, c> + <r_p, c>, each product taken once.

        None where these are more than the pairs', and if a row has no negative.
        """
        a, r, columns = self.problem.anchors, self.problem.references, self.columns
        num_rows = a.shape[0] + (0 if r is None else r.shape[0])
        if rows.shape[0] < num_rows or not is_free_to_read(columns):
            return None
        logit = formula.logit(1.0).to(a)
        z = (logit[2] * a) @ columns.T
        others = z if r is None else (logit[2] * r) @ columns.T
        own = z.masked_fill(alike(self.problem.anchor_labels, self._column_labels), -math.inf)
        # of pairs by label, the negatives of both are the same
        if self.listed is None and _are_mirrored(self.problem):
            of_products = LseOfSums.apply(own, rows, positives)
            if of_products is not None:
                return of_products + logit[3]
        both = own.index_select(0, rows) + others.index_select(0, positives)
        lse = torch.logsumexp(both, 1)
        # whose gradient would be NaN
        return None if math.isinf(lse.detach().min().item()) else lse + logit[3]

    def _of(self, formula: PairFormula, x: Tensor, lse: Tensor) -> Tensor:
        logit = formula.logit(1.0).to(x)
        return formula.losses(logit[0] * x + logit[1], lse, torch.zeros_like(lse))


def _are_mirrored(problem: PairProblem) -> bool:
    """Whether the pairs by label (i, p) and (p, i) have the same loss.

    a + p is the row of both, with the negatives of both but of several labels.
    """
    return problem.references is None and not are_sets(problem.anchor_labels)


def _one_order_of(problem: PairProblem, pairs: Listed) -> Listed:
    """Pairs by label that have the mean of all."""
    return in_one_order(*pairs) if _are_mirrored(problem) else pairs


def _may_be_whole(problem: PairProblem, backend: str) -> bool:
    """Whether ``engine.whole_joint`` may compute the problem, as far as its size allows it."""
    anchors, references = problem[:2]
    dtype = accumulation_dtype(anchors.dtype)
    return (
        may_hold_matrices(backend, anchors)
        and anchors.dtype == dtype
        and (references is None or references.dtype == dtype)
        and not is_autocast(anchors)
        and not torch._C._are_functorch_transforms_active()
    )


class LseOfSums(UntransformedFunction):
    """log sum_n e^{z_in + z_pn} of pairs (i, p), [k], from z [n, m]: of products of exponentials,
    of which there are fewer than of sums.

    Both rows of a pair are -inf at the same columns.  None where a row is nothing else, and where
    the products may underflow.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, rows: Tensor, positives: Tensor) -> Tensor | None:
        largest = z.amax(1)
        if not math.isfinite(largest.sum().item()):
            return None
        exponentials = (z - largest[:, None]).exp_()
        sides = [exponentials.index_select(0, index) for index in (rows, positives)]
        sums = torch.linalg.vecdot(*sides)
        # beside these what underflows is nothing
        if not sums.min().item() > torch.finfo(sums.dtype).tiny ** 0.75:
            return None
        ctx.save_for_backward(z, rows, positives, exponentials, *sides, sums)
        return sums.log() + largest.index_select(0, rows) + largest.index_select(0, positives)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        z, rows, positives, exponentials, one, other, sums = ctx.saved_tensors

        def gradient(grad: Tensor) -> tuple[Tensor]:
            shares = (grad / sums)[:, None]
            of_sums = torch.zeros_like(exponentials)
            add_at(of_sums, rows, other * shares)
            add_at(of_sums, positives, one * shares)
            return (of_sums.mul_(exponentials),)

        def lse(z: Tensor) -> Tensor:
            return torch.logsumexp(z.index_select(0, rows) + z.index_select(0, positives), 1)

        if torch.is_grad_enabled():  # only under create_graph=True
            return *Gradient.apply(gradient, lse, grad, z), None, None
        return *gradient(grad), None, None
