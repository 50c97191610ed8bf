"""Cross-entropy of embeddings against a learnt vector for each class."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fusedml.distances import fused_measure, sign_of
from fusedml.engine import whole
from fusedml.engine.inputs import Batch
from fusedml.engine.pairs import accumulation_dtype, measure_matrix
from fusedml.engine.precision import is_autocast, prepare
from fusedml.engine.routes.choice import Pairs
from fusedml.engine.routes.pair_losses import PairLosses
from fusedml.engine.routes.proxies import class_pairs
from fusedml.formulas import Hyperparameter, RowFormula, pack
from fusedml.heads import Rows, softplus, times
from fusedml.losses.base import IndicesTuple
from fusedml.losses.class_weights import ClassWeightsLoss
from fusedml.reducers import LossInfo

Target = Callable[[Tensor], Tensor]


# of pytorch-metric-learning's losses whose own class has a margin
HOOKS_OF_MARGINS = (
    *("get_cosine", "get_angles", "get_target_mask", "get_cos_with_margin", "init_margin"),
    *("modify_cosine_of_target_classes", "scale_logits"),
)


class ClassSoftmaxLoss(ClassWeightsLoss):
    """L_i = log(1 + sum_{c != y_i} e^{z_ic - t_i}), the cross-entropy of logits z_ic.

    z_ic = scale x_ic, x_ic the measure of embedding i and of the vector of class c.  The logit t_i
    of the own class differs from z_iy by a margin, or is z_iy.  A row has one positive, so that the
    sum of its positives' logits is z_iy: nothing of n x num_classes numbers is held, but for small
    problems on a CPU.

    The vectors are cast to the dtype and moved to the device of the embeddings for the computation;
    the parameter itself stays as it is (pytorch-metric-learning overwrites it, and loses precision
    after a half-precision batch).  An index tuple becomes a weight for each loss: how often it
    lists the sample, relative to the most listed one.  The loss of an empty batch is 0.

    A subclass writes ``logit_scale``, and ``target`` unless it names a ``form`` of
    ``fusedml.heads.ROW_FORMS``.  Where each rank has the vectors of other classes, each finds the
    ``parts_of`` the losses that its own give, and these are merged.

    Raises:
        ValueError: without labels or with references.
        LabelError: (a ValueError and RuntimeError) for labels that are not integers in
            [0, num_classes).  The range is checked on the CPU only; elsewhere, and under
            torch.compile, such a sample has the loss NaN.
    """

    weights_are_columns = True
    takes_shards = True
    form: str | None = None
    #: whether ``operands`` are measured as they are, whatever the distance does with embeddings
    measures_operands: ClassVar[bool] = False

    @abc.abstractmethod
    def logit_scale(self) -> Hyperparameter:
        """What a similarity is multiplied by, > 0; a distance by its negative."""

    def logit(self, sign: float) -> Tensor:
        """(scale, 0, scale, 0) of the logits z = scale x, [4], float64."""
        scale = sign * self.logit_scale()
        return pack(scale, 0.0, scale, 0.0)

    def target(self, own: Tensor) -> Tensor:
        """t_i from the own class's logit z_iy, [n], in differentiable PyTorch."""
        return own

    def target_of(self, rows: Tensor, vectors: Tensor, labels: Tensor) -> Target:
        """``target``, or one that needs more of its rows than their logits."""
        return self.target

    def operands(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """What is measured: rows [n, k], and vectors of the classes [num_classes, k]."""
        return embeddings, self.cast_vectors(embeddings)

    def cast_vectors(self, embeddings: Tensor) -> Tensor:
        """The parameter as [num_classes, embedding_size], on the device and in the dtype of these.

        Contiguous: the sweeps read it strip by strip.
        """
        return self.class_vectors(embeddings).to(embeddings).contiguous()

    def matrix(self, rows: Tensor, vectors: Tensor) -> Tensor:
        """The measures of operands, [n, num_classes], where no tiles can find them."""
        measures: Tensor = self.distance(rows, vectors)
        return measures

    def get_logits(self, embeddings: Tensor) -> Tensor:
        """The logits of all classes, without the margin, [n, num_classes]."""
        scale = sign_of(self.distance) * self.logit_scale()
        return self.matrix(*self.operands(embeddings)) * scale

    def pairs(self, rows: Tensor, vectors: Tensor, labels: Tensor) -> Pairs:
        """The pairs of operands."""
        prepared = self.measures_operands
        return class_pairs(rows, labels, vectors, self.pairs_of, self.matrix, prepared)

    def losses_of(
        self, rows: Tensor, vectors: Tensor, labels: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """L_i, [n], from operands; times weights, [n], which are constants, if there are any."""
        return times(self._losses_of(rows, vectors, labels), weights)

    def _losses_of(self, rows: Tensor, vectors: Tensor, labels: Tensor) -> Tensor:
        target = self.target_of(rows, vectors, labels)
        measure = fused_measure(self.distance)
        if measure is None or not may_be_whole(self.backend, rows, vectors):
            return self.losses_of_pairs(self.pairs(rows, vectors, labels), target)
        normalize = measure.normalize and not self.measures_operands
        a, r = (prepare(x, x.dtype, normalize) for x in (rows, vectors))
        scale = measure.sign * self.logit_scale()
        if measure.name == "dot":
            logits = measure_matrix(a * scale, r, measure.name)
        else:
            logits = measure_matrix(a, r, measure.name) * scale
        if self.form is None:
            own = logits.gather(1, labels[:, None])
            logits = logits.scatter(1, labels[:, None], target(own[:, 0])[:, None])
        return cross_entropy(logits, labels, reduction="none")

    def losses_of_pairs(self, pairs: Pairs, target: Target) -> Tensor:
        """L_i, [n], by the sweeps."""

        def head(row: Rows) -> Tensor:
            return softplus(row.lse_negative - target(row.sum_positive))

        return pairs.row_losses(RowFormula(self.logit, head, self.form))

    def parts_of(self, rows: Tensor, vectors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The log-sum-exp of a row's logits of other classes among these, and t_i, both [n].

        labels: numbers of the vectors, or others for a row whose class is none of these; its t_i
        is 0.
        """
        row = self.pairs(rows, vectors, labels).row_statistics(RowFormula(self.logit, None))
        target = self.target_of(rows, vectors, labels)(row.sum_positive)
        return row.lse_negative, torch.where(row.num_positive > 0, target, 0)

    def loss_of_parts(self, lse: Tensor, target: Tensor) -> Tensor:
        """L_i, [n], from the log-sum-exps over all other classes and from t_i."""
        return softplus(lse - target)

    def sub_losses(
        self, batch: Batch, indices_tuple: IndicesTuple | None
    ) -> dict[str, LossInfo | PairLosses]:
        labels, shard = self.class_labels(batch), self.shard
        operands, weights = self.operands(batch.embeddings), self.weights_of(indices_tuple, batch)
        if shard is None:
            losses = self.losses_of(*operands, labels, weights)
        else:
            parts = self.parts_of(*operands, labels - shard.begin)
            losses = times(self.loss_of_parts(*shard.merged(*parts)), weights)
        return self.reducible(losses, batch)


def may_be_whole(backend: str, rows: Tensor, vectors: Tensor, times: float = 6) -> bool:
    """Whether PyTorch's cross-entropy is to hold the matrix of logits and its softmax.

    times: as many pairs as elsewhere, fewer for losses that hold more matrices.
    """
    is_exact = rows.dtype == accumulation_dtype(rows.dtype) and not is_autocast(rows)
    size = rows.shape[0] * vectors.shape[0]
    # two or three matrices, where ``whole`` has eight
    return is_exact and size <= times * whole.MOST_PAIRS and whole.may_hold_matrices(backend, rows)
