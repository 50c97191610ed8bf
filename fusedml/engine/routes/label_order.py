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

    In the order of the columns an excluded diagonal has no offset: the rows' own come first.

    The kernels skip label compares, and in the sweep over the positives whole tiles, where the
    label ranges of two blocks of rows cannot meet: of unsorted labels all meet.  The tiled
    operators sort by themselves; but of many references, of which some are the rows' own, that
    would be one copy more than sorting them as they are normalised.
    """
    has_order = not are_sets(problem.anchor_labels)
    if has_order and _have_own_columns(problem):
        return _own_first(problem)
    n, m = problem.shape
    if (
        not has_order
        or problem.extent is not None
        or not has_kernels(backend, problem.anchors)
        or min(n, m) < LEAST_ROWS
        # no one order keeps the diagonal
        or (problem.exclude_diagonal and (n != m or problem.self_offset))
    ):
        return None, None
    rows = None if problem.anchors_sorted else RowOrder.by_label(problem.anchor_labels)
    if problem.reference_labels is None or problem.exclude_diagonal:
        return rows, rows  # the diagonal stays the diagonal
    return rows, RowOrder.by_label(problem.reference_labels)


def _have_own_columns(problem: PairProblem) -> bool:
    """Whether some columns are the rows themselves, with their labels, and are left out."""
    labels, others = problem.anchor_labels, problem.reference_labels
    n, m = problem.shape
    return (
        problem.exclude_diagonal
        and others is not None
        and m >= max(n, LEAST_ROWS)
        and (m > n or problem.self_offset > 0)
        and problem.extent is None
        and is_free_to_read(labels)
        and torch.equal(labels, others[problem.columns_from_own()[:n]])
    )


def _own_first(problem: PairProblem) -> tuple[RowOrder, RowOrder]:
    """Rows by label, their own columns alike, and before the other columns, these by label."""
    assert problem.reference_labels is not None  # _have_own_columns
    n, columns = problem.shape[0], problem.columns_from_own()
    rows = RowOrder.by_label(problem.anchor_labels)
    others = columns[n:]
    by_label = torch.argsort(problem.reference_labels[others], stable=True)
    return rows, RowOrder.of(torch.cat([columns[:n][rows.rows], others[by_label]]))
