"""Problems of two operands with few positives, and the list of these.

Queries and documents, or samples and classes, have about one positive to a row.  Then nothing of
the size of the matrix has to be compared with labels: see ``engine.few_matrix``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fusedml.curves import AFFINE
from fusedml.engine.label_sets import are_sets
from fusedml.engine.pairs import PairProblem
from fusedml.engine.whole import may_hold_matrices

# Positives of a row, on average.
MOST_PER_ROW = 16
# Pairs of one direction below which the list costs more than masks of a whole matrix.
LEAST_PAIRS = 1 << 17
# Elements of a strip of rows: 8 MB in float32, in the cache that the cores share.
STRIP_ELEMENTS = 1 << 21
# Rows of the strips of a wide problem; with fewer, tiles are faster.
LEAST_ROWS = 128


class Positives(NamedTuple):
    """The positive pairs, row by row.

    per_row: whether row i has one, which is number i of the list; per_column: the same of columns.
    """

    rows: Tensor
    columns: Tensor
    per_row: bool
    per_column: bool

    def places(self, side: int) -> Tensor:
        """The rows, or with side 1 the columns."""
        return self.columns if side else self.rows

    def per_line(self, side: int) -> bool:
        """per_row, or with side 1 per_column."""
        return self.per_column if side else self.per_row


def may_list_positives(backend: str, problem: PairProblem, *, both_sides: bool) -> bool:
    """Whether the problem is this module's, if its positives are few.

    both_sides: whether columns are reduced as well as rows.
    """
    anchors, references = problem.anchors, problem.references
    return (
        references is not None
        and not are_sets(problem.anchor_labels)
        and problem.measure == "dot"
        and problem.curve == AFFINE.name
        and problem.extent is None
        and 0 not in problem.shape
        and (both_sides or math.prod(problem.shape) >= LEAST_PAIRS)
        and references.shape[0] * LEAST_ROWS <= STRIP_ELEMENTS
        and may_hold_matrices(backend, anchors)
    )


def few_positives(problem: PairProblem) -> Positives | None:
    """The positive pairs, or None if there are more than ``MOST_PER_ROW`` to a row."""
    rows, columns = problem.anchor_labels, problem.reference_labels
    assert columns is not None
    n, m = problem.shape
    most = n * MOST_PER_ROW
    if not problem.exclude_diagonal and n <= m and are_paired(problem):
        numbers = torch.arange(n, device=rows.device)
        return Positives(numbers, numbers, True, n == m)
    places = _sorted_places(rows, columns, most)
    if places is None:
        return None
    of_rows, of_columns = places
    if problem.exclude_diagonal:
        keep = (of_columns != problem.own_columns(of_rows)).nonzero().squeeze(1)
        of_rows, of_columns = of_rows[keep], of_columns[keep]
    numbers = torch.arange(of_rows.shape[0], device=rows.device)
    per_row = of_rows.shape[0] == n and torch.equal(of_rows, numbers)
    per_column = of_rows.shape[0] == m and torch.equal(of_columns, numbers)
    return Positives(of_rows, of_columns, per_row, per_column)


def are_paired(problem: PairProblem) -> bool:
    """Whether the positives are the pairs i == i: labels that differ, the same on both sides."""
    rows, columns = problem.anchor_labels, problem.reference_labels
    assert columns is not None
    if are_sets(rows):
        return False
    n = rows.shape[0]
    if not torch.equal(rows, columns if n == columns.shape[0] else columns[:n]):
        return False
    # a third of the time of a sort where it matters, of few labels
    return len({*columns.tolist()}) == columns.shape[0]


def _sorted_places(rows: Tensor, columns: Tensor, most: int) -> tuple[Tensor, Tensor] | None:
    """Rows and columns of equal labels, row by row; None of more than ``most``."""
    rows = rows.contiguous()  # searchsorted warns otherwise
    values, order = torch.sort(columns, stable=True)
    first = torch.searchsorted(values, rows)
    counts = torch.searchsorted(values, rows, right=True) - first
    ends = counts.cumsum(0)
    if ends[-1].item() > most:
        return None
    of_rows = torch.repeat_interleave(counts)
    within_row = torch.arange(of_rows.shape[0], device=rows.device) - (ends - counts)[of_rows]
    return of_rows, order[first[of_rows] + within_row]
