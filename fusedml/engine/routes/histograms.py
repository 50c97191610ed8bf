"""Soft histograms of the measures of positives and negatives, by the route the distance takes."""

from __future__ import annotations

from torch import Tensor, nn

from fusedml import dense
from fusedml.distances import check_distance, fused_measure, sign_of
from fusedml.engine import autograd
from fusedml.engine.backends import DENSE, require_backend
from fusedml.engine.inputs import Batch
from fusedml.engine.labels import label_ranks
from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.precision import is_free_to_read, tile_dtype
from fusedml.engine.reductions.differentiable import row_histograms
from fusedml.engine.routes.blocks import BlockedPairs
from fusedml.engine.routes.choice import require_any_backend, warn_once
from fusedml.engine.routes.dense_pairs import matrix_of
from fusedml.engine.routes.fused import normalized_within
from fusedml.reducers import zero_loss

Grid = tuple[float, float, int]


def ranked_problem(batch: Batch) -> PairProblem:
    """The embeddings with themselves, of labels from 0 on: pairs of negative ones do not count."""
    problem = batch.problem()
    labels = problem.anchor_labels
    if labels.numel() and is_free_to_read(labels) and labels.amin().item() >= 0:
        return problem
    return problem._replace(anchor_labels=label_ranks(labels))


def pair_histograms(
    problem: PairProblem,
    distance: nn.Module,
    backend: str,
    owner: str,
    grid: Grid,
    per_row: bool,
) -> Tensor:
    """As ``engine.autograd.pair_histograms``, of embeddings as given.

    grid: (lowest edge, distance of the edges, their number).  owner: the name of the loss, for the
    warning that a distance is not fused.
    """
    measure = fused_measure(distance)
    if backend != DENSE and measure is not None:
        require_backend(backend, problem.anchors, "threshold_sums")
        problem = problem._replace(measure=measure.name, normalize=measure.normalize)
        problem = normalized_within(problem, backend, tile_dtype(problem.anchors))
        return autograd.pair_histograms(problem, *grid, per_row, backend)
    if backend == DENSE:
        matrix = distance if measure is None else matrix_of(measure)
        x = matrix(problem.anchors, problem.anchors)
        x = x.to(accumulation_dtype(x.dtype))
        positive, negative = _masks(problem, *dense.pair_masks(problem))
        found = dense.histograms_of_rows(x, positive, negative, *grid)
        found = found + zero_loss(problem.anchors.detach()).to(found)
    else:
        require_any_backend(backend, distance)
        check_distance(distance)
        warn_once(owner, distance)
        sign = sign_of(distance)
        pairs = _BlockedHistograms(problem, distance, sign, watched=distance.parameters())
        found = pairs.histograms(grid)
    return found if per_row else found.sum(1, keepdim=True)


class _BlockedHistograms(BlockedPairs):
    """Any other distance, by blocks of rows."""

    def histograms(self, grid: Grid) -> Tensor:
        def of_block(block: slice, x: Tensor) -> tuple[Tensor]:
            masks = _masks(self.problem, *self._masks(block), block)
            return (row_histograms(x, masks, *grid).transpose(0, 1),)

        return self.poisoned(self._by_blocks(of_block)[0].transpose(0, 1))


def _masks(
    problem: PairProblem, positive: Tensor, negative: Tensor, block: slice = slice(None)
) -> tuple[Tensor, Tensor]:
    """Without the pairs of two negative labels."""
    return positive & (problem.anchor_labels[block] >= 0)[:, None], negative
