"""The order of rows and columns that saves the kernels work."""

from __future__ import annotations

from fusedml.engine.backends import has_kernels
from fusedml.engine.pairs import PairProblem
from fusedml.engine.row_order import RowOrder

# Sorting costs a fixed time and a little per row, and saves some per pair; below, launches take
# longer than what they do.  An estimate: no GPU has measured it yet.
LEAST_ROWS = 4096


def label_orders(problem: PairProblem, backend: str) -> tuple[RowOrder | None, RowOrder | None]:
    """Orders of rows and columns by label; None where they stay as they are.

    The kernels skip label compares, and in the sweep over the positives whole tiles, where the
    label ranges of two blocks of rows cannot meet: of unsorted labels all meet.  The tiled
    operators sort by themselves.
    """
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
