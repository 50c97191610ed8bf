"""Softmax over classes that have several learnt vectors each."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fusedml.distances import Measure, fused_measure, sign_of
from fusedml.engine.autograd import group_statistics
from fusedml.engine.backends import DENSE, has_kernels, require_backend
from fusedml.engine.group_losses import group_losses
from fusedml.engine.groups import REDUCTIONS, prepare_vectors
from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.precision import owned, prepare, tile_dtype
from fusedml.engine.routes.choice import Pairs
from fusedml.formulas import Hyperparameter, RowFormula, pack
from fusedml.heads import softplus, times
from fusedml.losses.class_softmax import ClassSoftmaxLoss, may_be_whole

# Measures up to which PyTorch's operations take less time than a sweep, as a part of the pairs that
# are held whole.
FEW_MEASURES = {"maximum": 0.2, "soft_maximum": 0.05}


class ClassCentersLoss(ClassSoftmaxLoss):
    """The cross-entropy of z_ic = scale S_ic, S_ic made of the measures with the centres of c.

    The centres are the columns of one parameter, [embedding_size, num_classes K], those of class c
    at c K, ..., c K + K - 1.  Nothing of n x num_classes numbers is held, but for small problems on
    a CPU.  There strips of rows against all classes leave the gradients in the forward; for very
    many classes, for hyperparameters that learn and in the CUDA kernels, which take up to 16
    vectors of a class, tiles of rows and classes are computed again in the backward.

    A subclass writes ``logit_scale``, and ``target`` if it has a margin.
    """

    #: a name of ``fusedml.engine.groups.REDUCTIONS``
    group: ClassVar[str]

    def sharpness(self) -> Hyperparameter | None:
        """What the measures are multiplied by to be reduced, and divided by afterwards, if so."""
        return None

    def cast_vectors(self, embeddings: Tensor) -> Tensor:
        # not made contiguous: the sweep reads them in another order
        return self.class_vectors(embeddings).to(embeddings)

    def matrix(self, rows: Tensor, vectors: Tensor) -> Tensor:
        measures, sharpness = self.distance(rows, vectors), self.sharpness()
        shape = rows.shape[0], self.num_classes, self.vectors_per_class
        if sharpness is None:
            return REDUCTIONS[self.group](measures.view(shape), 2)
        return REDUCTIONS[self.group]((measures * sharpness).view(shape), 2) / sharpness

    def pairs(self, rows: Tensor, vectors: Tensor, labels: Tensor) -> Pairs:
        classes = torch.arange(self.num_classes, device=rows.device)
        problem = PairProblem(rows, vectors, labels, classes, exclude_diagonal=False)
        return self.pairs_of(problem, self.matrix)

    def losses_of(
        self, rows: Tensor, vectors: Tensor, labels: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        measure = fused_measure(self.distance)
        if self.backend == DENSE:
            return times(self._whole_losses(rows, vectors, labels), weights)
        if measure is None:
            pairs = self.pairs(rows, vectors, labels)
            return times(self.losses_of_pairs(pairs, self.target), weights)
        if measure.name == "dot" and may_be_whole(
            self.backend, rows, vectors, FEW_MEASURES[self.group]
        ):
            return times(self._losses_of_few(rows, vectors, labels, measure), weights)
        a, logit, sharpness = self._scaled(rows, measure)
        return group_losses(
            a,
            vectors.view(self.num_classes, self.vectors_per_class, -1),
            labels,
            logit,
            self.group,
            sharpness,
            lambda row: softplus(row.lse_negative - self.target(row.sum_positive)),
            self.backend,
            measure.normalize,
            tile_dtype(rows),
            weights,
        )

    def parts_of(self, rows: Tensor, vectors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        is_here = (labels >= 0) & (labels < self.num_classes)
        lse, own = self._parts_by_own_class(rows, vectors, torch.where(is_here, labels, 0))
        # the class in the place of one that is not here is another class
        lse = torch.where(is_here, lse, torch.logaddexp(lse, own))
        return lse, torch.where(is_here, self.target(own), 0)

    def _parts_by_own_class(
        self, rows: Tensor, vectors: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-sum-exps over the other classes and the logits of the own ones, [n]."""
        measure = fused_measure(self.distance)
        if measure is not None and self.backend != DENSE:
            a, logit, sharpness = self._scaled(rows, measure)
            of_classes = vectors.view(self.num_classes, self.vectors_per_class, -1)
            unit = prepare_vectors(of_classes, tile_dtype(rows), measure.normalize)
            if has_kernels(self.backend, a, "group_statistics"):
                unit = unit.contiguous()
            given = a, unit, labels, logit, self.group, sharpness, self.backend
            row = group_statistics(*given)
        elif measure is None:
            row = self.pairs(rows, vectors, labels).row_statistics(RowFormula(self.logit, None))
        else:
            logits = self._logits(rows, vectors)
            own = logits.gather(1, labels[:, None])
            others = logits.scatter(1, labels[:, None], -torch.inf)
            return others.logsumexp(1), own[:, 0]
        return row.lse_negative, row.sum_positive

    def _scaled(self, rows: Tensor, measure: Measure) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rows, logit and sharpness as the operators of groups take them."""
        require_backend(self.backend, rows, "group_statistics")
        a = prepare(rows, tile_dtype(rows), measure.normalize)
        logit, sharpness = self.logit(measure.sign), self.sharpness()
        if isinstance(sharpness, Tensor) and sharpness.requires_grad:
            # the operators take a constant one: it learns from the gradients of what it multiplies
            return a.to(accumulation_dtype(a.dtype)) * sharpness, logit / sharpness, None
        return a, logit, None if sharpness is None else pack(sharpness)

    def _losses_of_few(
        self, rows: Tensor, vectors: Tensor, labels: Tensor, measure: Measure
    ) -> Tensor:
        """In ordinary PyTorch, of few dot products."""
        a, v = (prepare(x, x.dtype, measure.normalize) for x in (rows, vectors))
        scale, sharpness = self.logit_scale(), self.sharpness()
        if sharpness is not None:
            a, scale = a * sharpness, scale / sharpness
        shape = rows.shape[0], self.num_classes, self.vectors_per_class
        logits = REDUCTIONS[self.group]((a @ v.T).view(shape), 2) * scale
        return self._cross_entropy(logits, labels)

    def _whole_losses(self, rows: Tensor, vectors: Tensor, labels: Tensor) -> Tensor:
        return self._cross_entropy(self._logits(rows, vectors), labels)

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        own = logits.gather(1, labels[:, None])
        logits = logits.scatter(1, labels[:, None], self.target(own[:, 0])[:, None])
        return cross_entropy(logits, labels, reduction="none")

    def _logits(self, rows: Tensor, vectors: Tensor) -> Tensor:
        """All of them, [n, num_classes]."""
        scale = sign_of(self.distance) * self.logit_scale()
        logits = self.matrix(owned(rows), vectors) * scale
        return logits.to(accumulation_dtype(logits.dtype))
