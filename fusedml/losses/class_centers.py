"""Softmax over classes that have several learnt vectors each."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fusedml.distances import fused_measure, sign_of
from fusedml.engine import autograd
from fusedml.engine.backends import DENSE, require_backend
from fusedml.engine.groups import REDUCTIONS
from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.precision import prepare, tile_dtype
from fusedml.engine.routes.choice import Pairs
from fusedml.formulas import Hyperparameter
from fusedml.heads import softplus
from fusedml.losses.class_softmax import ClassSoftmaxLoss, may_be_whole


class ClassCentersLoss(ClassSoftmaxLoss):
    """The cross-entropy of z_ic = scale S_ic, S_ic made of the measures with the centres of c.

    The centres are the columns of one parameter, [embedding_size, num_classes K], those of class c
    at c K, ..., c K + K - 1.  Tiles of rows and classes are computed, and computed again in the
    backward, by PyTorch on every device (no CUDA kernel computes groups yet), so that nothing of
    n x num_classes numbers is held, but for small problems on a CPU.

    A subclass writes ``logit_scale``, and ``target`` if it has a margin.
    """

    #: a name of ``fusedml.engine.groups.REDUCTIONS``
    group: ClassVar[str]

    def sharpness(self) -> Hyperparameter:
        """What the measures are multiplied by to be reduced, and divided by afterwards."""
        return 1.0

    def matrix(self, rows: Tensor, vectors: Tensor) -> Tensor:
        measures = self.distance(rows, vectors) * self.sharpness()
        groups = measures.view(rows.shape[0], self.num_classes, self.vectors_per_class)
        reduced: Tensor = REDUCTIONS[self.group](groups, 2) / self.sharpness()
        return reduced

    def pairs(self, rows: Tensor, vectors: Tensor, labels: Tensor) -> Pairs:
        classes = torch.arange(self.num_classes, device=rows.device)
        problem = PairProblem(rows, vectors, labels, classes, exclude_diagonal=False)
        return self.pairs_of(problem, self.matrix)

    def losses_of(self, rows: Tensor, vectors: Tensor, labels: Tensor) -> Tensor:
        measure = fused_measure(self.distance)
        is_whole = measure is not None and may_be_whole(self.backend, rows, vectors, 1)
        if is_whole or self.backend == DENSE:
            return self._whole_losses(rows, vectors, labels)
        if measure is None:
            return self.losses_of_pairs(self.pairs(rows, vectors, labels), self.target)
        require_backend(self.backend, rows, "group_statistics")
        a, r = (prepare(x, tile_dtype(rows), measure.normalize) for x in (rows, vectors))
        sharpness = self.sharpness()
        row = autograd.group_statistics(
            a.to(accumulation_dtype(a.dtype)) * sharpness,
            r.view(self.num_classes, self.vectors_per_class, -1),
            labels,
            self.logit(measure.sign) / sharpness,
            self.group,
        )
        return softplus(row.lse_negative - self.target(row.sum_positive))

    def _whole_losses(self, rows: Tensor, vectors: Tensor, labels: Tensor) -> Tensor:
        logits = self.matrix(rows, vectors) * (sign_of(self.distance) * self.logit_scale())
        logits = logits.to(accumulation_dtype(logits.dtype))
        own = logits.gather(1, labels[:, None])
        logits = logits.scatter(1, labels[:, None], self.target(own[:, 0])[:, None])
        return cross_entropy(logits, labels, reduction="none")
