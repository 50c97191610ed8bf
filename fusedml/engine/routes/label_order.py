"""The order of rows and columns that saves the kernels work."""

from __future__ import annotations

import torch

from fusedml.engine.backends import has_kernels
from fusedml.engine.label_sets import are_sets
from fusedml.engine.pairs import PairProblem
from fusedml.engine.precision import is_free_to_read
from fusedml.engine.row_order import RowOrder

# Sorting costs a fixed time and a little per row, and saves some per pair; below, launches take
# longer than what they do.  An estimate: no GPU has measured it yet.
LEAST_ROWS = 4096


def label_orders(problem: PairProblem, backend: str) -> tuple[RowOrder | None, RowOrder | None]:
    """Orders of rows and columns by label; None where they stay as they are.

    The kernels skip label compares, and in the sweep over the positives whole tiles, where the
    label ranges of two blocks of rows cannot meet: of unsorted labels all meet.  The tiled
    operators sort by themselves; but of many references, of which the first are the rows' own, that
    would be one copy more than sorting them as they are normalised.
    """
    if are_sets(problem.anchor_labels):  # which have no order
        return None, None
    if _are_own_first(problem):
        return _own_first(problem)
    n, m = problem.shape
    if (
        problem.extent is not None
        or not has_kernels(backend, problem.anchors)
        or min(n, m) < LEAST_ROWS
        or (problem.exclude_diagonal and n != m)  # no one order keeps the diagonal
    ):
        return None, None
    rows = None if problem.anchors_sorted else RowOrder.by_label(problem.anchor_labels)
    if problem.reference_labels is None or problem.exclude_diagonal:
        return rows, rows  # the diagonal stays the diagonal
    return rows, RowOrder.by_label(problem.reference_labels)


def _are_own_first(problem: PairProblem) -> bool:
    """Whether the first references have the rows' labels, and the pairs i == i are left out."""
    labels, others = problem.anchor_labels, problem.reference_labels
    n, m = problem.shape
    return (
        problem.exclude_diagonal
        and others is not None
        and LEAST_ROWS <= m > n
        and problem.extent is None
        and is_free_to_read(labels)
        and torch.equal(labels, others[:n])
    )


def _own_first(problem: PairProblem) -> tuple[RowOrder, RowOrder]:
    """Rows by label, their own columns alike, and the other columns by label."""
    assert problem.reference_labels is not None  # _are_own_first
    n = problem.shape[0]
    rows = RowOrder.by_label(problem.anchor_labels)
    others = RowOrder.by_label(problem.reference_labels[n:])
    both = zip(rows, others, strict=True)
    return rows, RowOrder(*(torch.cat([of_own, of_others + n]) for of_own, of_others in both))
