"""Triplets whose negative is measured against the positive, too: the harder of the two counts.

Each positive pair meets all negatives of its class, so positive pairs come in strips: as many as
keep a bounded number of elements, of few rows and few positives, whose measures serve all of them.
Where there are kernels a positive pair is a row with two embeddings: ``threshold_sums`` measures
both of them, and only the rows of a strip are held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fusedml.distances import Measure
from fusedml.engine import autograd
from fusedml.engine.backends import has_kernels
from fusedml.engine.harder_sums import HarderSums
from fusedml.engine.label_sets import are_sets
from fusedml.engine.labels import alike
from fusedml.engine.pairs import PairProblem, accumulation_dtype, measure_matrix, widest_dtype
from fusedml.engine.positives import in_one_order, positive_strips
from fusedml.engine.precision import prepared, tile_dtype, without_autocast
from fusedml.engine.reductions.entries import add_at
from fusedml.engine.routes.blocks import Matrix, recomputed
from fusedml.heads import softplus
from fusedml.reducers import RowSums, zero_loss

# Elements of a strip, 4 MB in float32; the negatives of one positive pair, if those are more.
STRIP_ELEMENTS = 1 << 20
# Positive pairs that are listed at a time.
LISTED_PAIRS = 1 << 18
# Numbers of the embeddings of a strip's rows that kernels take, 8 MB in float32.
_GATHERED = 1 << 21
# Pairs of so many rows and so many positives follow each other.
_BLOCK = 16


def swapped_triplets(
    problem: PairProblem,
    distance: nn.Module,
    measure: Measure | None,
    sign: float,
    backend: str = "auto",
) -> SwappedTriplets:
    """Of embeddings as given.  measure: that of the distance, if it is fused."""
    if measure is None:
        return SwappedTriplets(problem, distance, sign, False, distance.parameters())
    problem = problem._replace(measure=measure.name, normalize=measure.normalize)
    problem = prepared(problem, tile_dtype(problem.anchors))
    has_none = torch._C._are_functorch_transforms_active()
    if not has_none and has_kernels(backend, problem.anchors, "threshold_sums"):
        return FusedSwappedTriplets(problem, sign, backend)

    def matrix(a: Tensor, r: Tensor) -> Tensor:
        wide = accumulation_dtype(a.dtype)
        with without_autocast(a):
            return measure_matrix(a.to(wide), r.to(wide), measure.name)

    return SwappedTriplets(problem, matrix, sign, True)


class SwappedTriplets:
    """All triplets by label, u = max(y_in, y_pn) - y_ip.

    matrix: (anchors [k, d], references [m, d]) -> [k, m].  sign: +1 for similarities, else -1.
    is_symmetric: whether it measures (i, j) as (j, i).  watched: the tensors that the matrix reads
    beside its arguments.
    """

    def __init__(
        self,
        problem: PairProblem,
        matrix: Matrix,
        sign: float,
        is_symmetric: bool,
        watched: Iterable[Tensor] = (),
    ) -> None:
        self.given, self.is_self = problem, problem.references is None
        references = problem.anchors if problem.references is None else problem.references
        labels, others = problem.anchor_labels, problem.reference_labels
        # by class: the positives of a few rows are few
        self.rows = _by_class(labels)
        columns = self.rows if others is None else _columns(problem, self.rows)
        self.problem = problem._replace(
            self_offset=0,
            anchors=problem.anchors[self.rows],
            references=None if self.is_self else references[columns],
            anchor_labels=labels[self.rows],
            reference_labels=None if others is None else others[columns],
        )
        # (i, p) and (p, i) have the same triplets, if alike rows have the same negatives
        self.is_halved = self.is_self and is_symmetric and not are_sets(labels)
        self.matrix, self.sign, self.watched = matrix, sign, tuple(watched)
        self.dtype = accumulation_dtype(problem.anchors.dtype)
        poison = zero_loss(problem.anchors.detach(), references.detach())
        self.poison = poison.to(self.dtype)

    def sums(self, numbers: Tensor, form: str) -> RowSums:
        """The losses added over each anchor, and how many count; see ``TripletFormula``."""
        a, others = self.problem.anchors, self.problem.references
        references = a if others is None else others

        def of_pairs(a: Tensor, r: Tensor, numbers: Tensor, i: Tensor, p: Tensor) -> Any:
            return self._of_pairs(a, r, numbers, i, p, form)

        wide = widest_dtype(a.device)
        sums = torch.zeros(len(a), dtype=wide, device=a.device) + zero_loss(a).to(wide)
        counts = torch.zeros(len(a), dtype=torch.int64, device=a.device)
        for i, p in self._strips():
            given = a, references, numbers, i, p
            values, number = recomputed(of_pairs, *given, watched=self.watched)
            lines = torch.cat([i, p]) if self.is_halved else i
            if self.is_halved:
                values, number = values.repeat(2), number.repeat(2)
            sums = add_at(sums, lines, values.to(wide))
            add_at(counts, lines, number)
        back = torch.empty_like(self.rows)
        back[self.rows] = torch.arange(len(back), device=back.device)
        return RowSums(sums.to(self.dtype)[back] + self.poison, counts[back])

    def _strips(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All positive pairs, a strip of them at a time."""
        num_columns = self.problem.shape[1]
        labels, others = self.problem.anchor_labels, self.problem.reference_labels
        others = labels if others is None else others
        if num_columns == 0:
            return
        if not are_sets(others) and bool((others == others[0]).all()):
            return  # whoever has positives has no others
        for listed in positive_strips(self.problem, LISTED_PAIRS):
            i, p = in_one_order(*listed) if self.is_halved else listed
            yield from self._cut(i, p)

    def _cut(self, i: Tensor, p: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Positive pairs in strips."""
        num_columns = self.problem.shape[1]
        most = max(1, STRIP_ELEMENTS // num_columns)
        blocks = (i // _BLOCK) * num_columns + p // _BLOCK
        order = blocks.argsort(stable=True)
        yield from zip(i[order].split(most), p[order].split(most), strict=True)

    def _of_pairs(
        self, a: Tensor, r: Tensor, numbers: Tensor, i: Tensor, p: Tensor, form: str
    ) -> tuple[Tensor, Tensor]:
        """The losses of the triplets of each of the pairs, added, and how many count."""
        labels, others = self.problem.anchor_labels, self.problem.reference_labels
        if self.is_self:
            lines, at = torch.unique(torch.cat([i, p]), return_inverse=True)
            y = self._hardness(a[lines], r)
            y_i, y_p = y[at[: len(i)]], y[at[len(i) :]]
        else:
            lines, at = torch.unique(i, return_inverse=True)
            columns, at_p = torch.unique(p, return_inverse=True)
            y_i, y_p = self._hardness(a[lines], r)[at], self._hardness(r[columns], r)[at_p]
        t = y_i.gather(1, p[:, None])
        u = torch.maximum(y_i, y_p) - t
        margin, at_least, above, below = numbers.to(u)
        negative = ~alike(labels[i], labels if others is None else others)
        counted = negative & (u >= at_least) & (u > above) & (u < below)
        u = u + margin
        losses = torch.relu(u) if form == "hinge" else softplus(u)
        return torch.where(counted, losses, 0).sum(1), counted.sum(1)

    def _hardness(self, a: Tensor, r: Tensor) -> Tensor:
        return self.sign * self.matrix(a, r).to(self.dtype)


class FusedSwappedTriplets(SwappedTriplets):
    """The same by kernels."""

    def __init__(self, problem: PairProblem, sign: float, backend: str) -> None:
        super().__init__(problem, torch.matmul, sign, True)
        self.backend = backend

    def _cut(self, i: Tensor, p: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        most = max(1, _GATHERED // max(1, self.problem.anchors.shape[1]))
        if len(i):
            yield from zip(i.split(most), p.split(most), strict=True)

    def _of_pairs(
        self, a: Tensor, r: Tensor, numbers: Tensor, i: Tensor, p: Tensor, form: str
    ) -> tuple[Tensor, Tensor]:
        problem = self.problem
        labels, others = problem.anchor_labels, problem.reference_labels
        x = autograd.pair_values(
            a, None if self.is_self else r, i, p, problem.measure, self.backend
        )
        of_sides = labels[i], labels if others is None else others
        options = problem.measure, form, self.backend
        losses, counts = HarderSums.apply(
            a[i], r[p], r, self.sign * x, numbers, *of_sides, *options
        )
        return losses, counts


def _columns(problem: PairProblem, rows: Tensor) -> Tensor:
    """The order of the columns: by class, but those first that are left out as the rows' own."""
    assert problem.reference_labels is not None
    if not problem.exclude_diagonal:
        return _by_class(problem.reference_labels)
    columns, n = problem.columns_from_own(), len(rows)
    return torch.cat([columns[:n][rows], columns[n:]])


def _by_class(labels: Tensor) -> Tensor:
    """The order of rows by label; several labels a row have none."""
    if are_sets(labels):
        return torch.arange(len(labels), device=labels.device)
    return labels.argsort(stable=True)
