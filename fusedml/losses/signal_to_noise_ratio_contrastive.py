"""Contrastive loss of signal-to-noise-ratio distances."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fusedml.distances import Measure, SNRDistance
from fusedml.engine.backends import DENSE, has_kernels, require_backend
from fusedml.engine.inputs import Batch
from fusedml.engine.pairs import PairProblem
from fusedml.engine.precision import owned
from fusedml.engine.routes.blocks import BLOCK_ELEMENTS, Matrix, recomputed
from fusedml.engine.routes.choice import Pairs
from fusedml.engine.routes.fused import FusedPairs
from fusedml.engine.routes.listed import ListedPairs, PairIndices
from fusedml.engine.routes.listed_sides import fused_listed_pairs, reads_matrix
from fusedml.losses.base import Promises
from fusedml.losses.contrastive import ContrastiveLoss

# of the operands the dot products are the distances
_OF_OPERANDS = Measure("dot", normalize=False, sign=-1.0)


class SignalToNoiseRatioContrastiveLoss(ContrastiveLoss):
    """L = mean [d_ip - pos_margin]+ over P + mean [neg_margin - d_in]+ over N, d the SNR distance.

    d_ij = var(a_i - r_j) / var(a_i), where var is the variance over the entries of a row: the
    noise by which r_j differs from a_i relative to the signal a_i.  It is a dot product of rows
    with two more entries (``SNRDistance.operands``), so that it is fused like one.  P and N are all
    ordered positive and negative pairs; each mean is over the losses above 0.

    Args:
        pos_margin: the distance up to which positives cost nothing.
        neg_margin: the distance from which on negatives cost nothing.

    Raises:
        DistanceError: for another distance than an SNRDistance.

    Source: Yuan et al., "Signal-To-Noise Ratio: A Robust Distance Metric for Deep Metric Learning",
    CVPR 2019.
    """

    default_distance = SNRDistance
    required_distance = SNRDistance
    promises = Promises({128: 6.0})

    def pairs_of(
        self, problem: PairProblem, matrix: Matrix | None = None, is_prepared: bool = False
    ) -> Pairs:
        twin = SNRDistance.twin_of(self.distance)
        if self.backend == DENSE or twin is None:
            return super().pairs_of(problem, matrix, is_prepared)
        require_backend(self.backend, problem.anchors)
        # the kernels round their products as torch.get_float32_matmul_precision() has it
        in_parts = has_kernels(self.backend, problem.anchors)
        a, r = twin.operands(problem.anchors, problem.references, in_parts)
        labels = problem.reference_labels
        problem = problem._replace(
            anchors=a,
            references=r,
            reference_labels=problem.anchor_labels if labels is None else labels,
        )
        return FusedPairs(problem, _OF_OPERANDS, self.backend)

    def listed_pairs(self, indices: PairIndices, batch: Batch) -> ListedPairs:
        twin = SNRDistance.twin_of(self.distance)
        if self.backend == DENSE or twin is None:
            return super().listed_pairs(indices, batch)
        require_backend(self.backend, batch.embeddings)
        a, r = batch.embeddings, batch.references
        if reads_matrix(indices, a, r, self.backend):
            sides = twin.operands(a, r)
            if _are_apart(indices, *sides):
                return fused_listed_pairs(indices, *sides, _OF_OPERANDS, self.backend)
        # by differences: 0 of equal rows, without rounding
        sides = owned(a), owned(a if r is None else r)

        def values(rows: Tensor, columns: Tensor) -> Tensor:
            if rows.shape[0] * a.shape[1] <= BLOCK_ELEMENTS:  # what the backward keeps
                return twin.of_pairs(*sides, rows, columns)
            size = max(1, BLOCK_ELEMENTS // max(1, a.shape[1]))
            parts = zip(rows.split(size), columns.split(size), strict=True)
            return torch.cat([recomputed(twin.of_pairs, *sides, i, j) for i, j in parts])

        return ListedPairs(indices, values, a, r, _OF_OPERANDS.sign)


@torch.no_grad()
def _are_apart(indices: PairIndices, a: Tensor, r: Tensor) -> bool:
    """Whether no listed pair is of rows that are equal but for rounding."""
    if indices.num_listed == 0:
        return True
    rows, columns = torch.cat(indices[::2]), torch.cat(indices[1::2])
    products = torch.mm(a, r.T).view(-1)
    listed = products.index_select(0, torch.add(columns, rows, alpha=r.shape[0]))
    return listed.amin().item() > math.sqrt(torch.finfo(a.dtype).eps)
