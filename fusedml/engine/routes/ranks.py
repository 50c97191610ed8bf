"""Losses made of the smooth ranks of each anchor's positives, by the route its distance takes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusedml import dense
from fusedml.distances import Measure, check_distance, fused_measure, sign_of
from fusedml.engine import autograd
from fusedml.engine.averaged import EVERYTHING, Interval
from fusedml.engine.backends import DENSE, require_backend
from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.precision import is_autocast, tile_dtype
from fusedml.engine.routes.blocks import BlockedPairs, recomputed, row_blocks
from fusedml.engine.routes.choice import require_any_backend, warn_once
from fusedml.engine.routes.dense_pairs import matrix_of
from fusedml.engine.routes.fused import normalized_within
from fusedml.formulas import nan_or_zero
from fusedml.reducers import zero_loss


def rank_losses(
    problem: PairProblem,
    distance: nn.Module,
    backend: str,
    owner: str,
    numbers: Tensor,
    form: str,
) -> Tensor:
    """L [n] of a problem of embeddings, as given, with themselves, the diagonal among its pairs.

    numbers, form: as in ``engine.autograd.rank_losses``.  owner: the name of the loss, for the
    warning that a distance is not fused.
    """
    problem = problem._replace(exclude_diagonal=False)
    measure, sign = fused_measure(distance), sign_of(distance)
    if backend == DENSE:
        x = (distance if measure is None else matrix_of(measure))(problem.anchors, problem.anchors)
        return _dense(problem, sign * x.to(accumulation_dtype(x.dtype)), numbers, form)
    if measure is not None:
        losses = autograd.rank_losses(_fused(problem, measure, backend), numbers, form, backend)
        # of NaN kernels find that no step is above 0
        return losses + nan_or_zero(numbers).sum()
    require_any_backend(backend, distance)
    check_distance(distance)
    warn_once(owner, distance)
    pairs = _BlockedRanks(problem, distance, sign, watched=distance.parameters())
    return pairs.losses(numbers, form)


def mean_rank_loss(
    problem: PairProblem,
    distance: nn.Module,
    backend: str,
    numbers: Tensor,
    form: str,
    interval: Interval = EVERYTHING,
) -> Tensor | None:
    """The mean of the losses of :func:`rank_losses` in an interval; None where it takes these."""
    measure = fused_measure(distance)
    if backend == DENSE or measure is None:
        return None
    problem = _fused(problem._replace(exclude_diagonal=False), measure, backend)
    return autograd.mean_rank_loss(problem, numbers, form, interval, backend)


def _fused(problem: PairProblem, measure: Measure, backend: str) -> PairProblem:
    """The problem as the operators take it."""
    require_backend(backend, problem.anchors, "threshold_sums")
    problem = problem._replace(measure=measure.name, normalize=measure.normalize)
    anchors = problem.anchors
    # the steps magnify what rounding does to unit rows, and tiles in PyTorch gain nothing by it
    wide = accumulation_dtype(anchors.dtype)
    dtype = tile_dtype(anchors) if is_autocast(anchors) else wide
    if dtype == wide:
        problem = problem._replace(anchors=anchors.to(wide))
    return normalized_within(problem, backend, dtype)


class _BlockedRanks(BlockedPairs):
    """Any other distance, by blocks of rows."""

    def losses(self, numbers: Tensor, form: str) -> Tensor:
        def of_block(block: slice, x: Tensor, numbers: Tensor) -> tuple[Tensor]:
            masks = self._masks(block)
            return (autograd.matrix_rank_losses(x, *masks, numbers, self.sign, form),)

        return self.poisoned(self._by_blocks(of_block, numbers)[0])


def _dense(problem: PairProblem, y: Tensor, numbers: Tensor, form: str) -> Tensor:
    """In ordinary PyTorch: cubic work, a block of rows at a time."""
    positive, negative = dense.pair_masks(problem)
    most = int(positive.sum(1).max()) if positive.numel() else 0
    blocks = list(row_blocks(len(y), most * y.shape[1] // 8)) or [slice(0, 0)]

    def of_block(y: Tensor, positive: Tensor, negative: Tensor, numbers: Tensor) -> Tensor:
        return dense.rank_losses_of_rows(y, positive, negative, numbers, form)

    parts = []
    for block in blocks:
        arguments = y[block], positive[block], negative[block], numbers
        whole = len(blocks) == 1
        parts.append(of_block(*arguments) if whole else recomputed(of_block, *arguments))
    return torch.cat(parts) + zero_loss(problem.anchors.detach())
