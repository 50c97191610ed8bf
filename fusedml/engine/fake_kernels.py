"""Fake kernels of the operators: shapes and dtypes only, for torch.compile and torch.export.

An output nobody needs is empty, and every output is contiguous, whatever the layout of the inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fusedml.engine.pairs import accumulation_dtype
from fusedml.engine.precision import norms_dtype
from fusedml.engine.routes.windows import num_splits
from fusedml.engine.tiled.thresholds import MOST_DIRECT


def _statistics_like(anchors: Tensor, rows: int) -> Tensor:
    return anchors.new_empty((rows, anchors.shape[0]), dtype=accumulation_dtype(anchors.dtype))


def _gradients_like(
    anchors: Tensor, references: Tensor | None, logit: Tensor, needs: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        anchors.new_empty(anchors.shape if needs[0] else 0),
        anchors.new_empty(0)
        if references is None or not needs[1]
        else references.new_empty(references.shape),
        logit.new_empty(logit.shape if needs[2] else 0),
    )


def _fake_pair_extrema(anchors: Tensor, *_: Any) -> Tensor:
    return _statistics_like(anchors, 2)


def _fake_extreme_pairs(anchors: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    columns = anchors.new_empty((2, anchors.shape[0]), dtype=torch.int64)
    return _statistics_like(anchors, 2), columns


def _fake_window_counts(anchors: Tensor, references: Tensor | None, *rest: Any) -> Tensor:
    m = (anchors if references is None else references).shape[0]
    shape = 2, anchors.shape[0], num_splits(m, rest[-1])
    return anchors.new_empty(shape, dtype=torch.int64)


def _fake_window_pairs(anchors: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    size, is_measured = rest[-2:]
    rows = anchors.new_empty(size, dtype=torch.int64)
    dtype = accumulation_dtype(anchors.dtype)
    measures = anchors.new_empty(size if is_measured else 0, dtype=dtype)
    return rows, torch.empty_like(rows), measures


def _fake_pair_statistics(anchors: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    counts = anchors.new_empty((2, anchors.shape[0]), dtype=torch.int64)
    return _statistics_like(anchors, 3), counts


def _fake_row_losses(anchors: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return (
        _statistics_like(anchors, 1)[0],
        _statistics_like(anchors, 3),
        _statistics_like(anchors, 3),
    )


def _fake_pair_gradient(
    anchors: Tensor, references: Tensor | None, _0: Any, _1: Any, logit: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients_like(anchors, references, logit, rest[-1])


def _fake_positive_pair_losses(anchors: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _statistics_like(anchors, 1)[0], *_fake_pair_statistics(anchors)


def _fake_positive_pair_gradient(
    anchors: Tensor, references: Tensor | None, _0: Any, _1: Any, logit: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    reference_lse = rest[2]
    return (
        *_gradients_like(anchors, references, logit, rest[-1]),
        anchors.new_empty(0)
        if references is None or reference_lse is None
        else reference_lse.new_empty(reference_lse.shape),
    )


def _fake_two_sided_statistics(
    anchors: Tensor, references: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor]:
    lines = anchors.shape[0] + (0 if references is None else references.shape[0])
    return (
        anchors.new_empty((3, lines), dtype=accumulation_dtype(anchors.dtype)),
        anchors.new_empty((2, lines), dtype=torch.int64),
    )


def _fake_group_statistics(anchors: Tensor, *_: Any) -> Tensor:
    return _statistics_like(anchors, 2)


def _fake_group_gradient(
    anchors: Tensor, vectors: Tensor, _0: Any, logit: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients_like(anchors, vectors, logit, rest[-1])


def _fake_sums(
    like: Tensor, num_lines: int, shifts: Tensor | None, terms: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape, dtype = (terms.shape[0], num_lines), accumulation_dtype(like.dtype)
    return (
        like.new_empty(shape, dtype=dtype),
        like.new_empty(0 if shifts is None else shape, dtype=dtype),
        like.new_empty(shape, dtype=torch.int64),
        like.new_empty((2, num_lines), dtype=torch.int64),
    )


def _fake_pair_sums(
    anchors: Tensor, references: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shifts, _, terms, both_sides = rest[-4:]
    num_lines = anchors.shape[0]
    if both_sides and references is not None:
        num_lines += references.shape[0]
    return _fake_sums(anchors, num_lines, shifts, terms)


def _fake_pair_sums_gradient(
    anchors: Tensor, references: Tensor | None, _0: Any, _1: Any, logit: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shifts, sums_grad = rest[2], rest[-2]
    of_shifts = sums_grad.new_empty(0) if shifts is None else shifts.new_empty(shifts.shape)
    return *_gradients_like(anchors, references, logit, rest[-1]), of_shifts


def _fake_entry_statistics(*args: Any) -> tuple[Tensor, Tensor]:
    x, num_lines = args[0], args[5]
    statistics = x.new_empty((3, num_lines), dtype=accumulation_dtype(x.dtype))
    return statistics, x.new_empty((2, num_lines), dtype=torch.int64)


def _fake_entry_statistics_gradient(*args: Any) -> tuple[Tensor, Tensor]:
    x, logit, needs = args[0], args[6], args[-1]
    return x.new_empty(x.shape if needs[0] else 0), logit.new_empty(4 if needs[1] else 0)


def _fake_entry_sums(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _fake_sums(args[0], args[5], *args[-2:])


def _fake_entry_sums_gradient(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    x, shifts = args[0], args[9]
    of_shifts = x.new_empty(0) if shifts is None else shifts.new_empty(shifts.shape)
    return *_fake_entry_statistics_gradient(*args), of_shifts


def _fake_joint_pair_losses(anchors: Tensor, *_: Any) -> Tensor:
    return _statistics_like(anchors, 1)[0]


def _fake_joint_pair_gradient(
    anchors: Tensor, references: Tensor | None, _0: Any, _1: Any, columns: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    logit, needs = rest[0], rest[-1]
    of_sides = _gradients_like(anchors, references, logit, [*needs[:2], needs[3]])
    of_columns = columns.new_empty(columns.shape if needs[2] else 0)
    return *of_sides[:2], of_columns, of_sides[2]


def _fake_matrix_triplet_losses(x: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    rows = _statistics_like(x, 1)[0]
    return rows, x.new_empty(x.shape[:1], dtype=torch.int64), torch.empty_like(rows)


def _fake_matrix_triplet_gradient(
    x: Tensor, _0: Any, _1: Any, numbers: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    needs = rest[-1]
    of_x = x.new_empty(x.shape if needs[0] else 0)
    return of_x, numbers.new_empty(numbers.shape if needs[1] else 0)


def _fake_triplet_losses(anchors: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    met = _statistics_like(anchors, MOST_DIRECT)
    return *_fake_matrix_triplet_losses(anchors), met


def _fake_pair_histograms(anchors: Tensor, *rest: Any) -> Tensor:
    num_edges, per_row = rest[-2:]
    shape = 2, anchors.shape[0] if per_row else 1, num_edges
    return anchors.new_empty(shape, dtype=accumulation_dtype(anchors.dtype))


def _fake_pair_histograms_gradient(anchors: Tensor, *rest: Any) -> Tensor:
    return anchors.new_empty(anchors.shape if rest[-1][0] else 0)


def _fake_rank_losses(anchors: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _statistics_like(anchors, 1)[0], _statistics_like(anchors, MOST_DIRECT)


def _fake_matrix_rank_losses(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    rows = _statistics_like(x, 1)[0]
    return rows, rows.new_empty(0)


def _fake_row_divergences(anchors: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _statistics_like(anchors, 1)[0], _statistics_like(anchors, 2)


def _fake_row_divergences_gradient(
    anchors: Tensor, teacher: Tensor, _: Any, numbers: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients_like(anchors, teacher, numbers, rest[-1])


def _fake_threshold_sums(anchors: Tensor, *rest: Any) -> Tensor:
    count, form, _ = rest[-3:]
    shape = 2 if form == "pulse" else 3, anchors.shape[0], count
    return anchors.new_empty(shape, dtype=accumulation_dtype(anchors.dtype))


def _fake_threshold_pairs(anchors: Tensor, *rest: Any) -> Tensor:
    return anchors.new_empty(rest[-1].shape, dtype=torch.int64)


def _fake_pair_values(anchors: Tensor, references: Tensor | None, rows: Tensor, *_: Any) -> Tensor:
    return anchors.new_empty(rows.shape, dtype=accumulation_dtype(anchors.dtype))


def _fake_pair_values_gradient(
    anchors: Tensor, references: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor]:
    return _gradients_like(anchors, references, anchors, [*rest[-1], False])[:2]


def _fake_normalize_rows(x: Tensor, _: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    norms = x.new_empty((x.shape[0], 1), dtype=norms_dtype(x.dtype, dtype))
    return x.new_empty(x.shape, dtype=dtype), norms


def _fake_normalize_rows_gradient(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


FAKE_KERNELS: dict[str, Callable[..., Any]] = {
    "pair_extrema": _fake_pair_extrema,
    "extreme_pairs": _fake_extreme_pairs,
    "window_counts": _fake_window_counts,
    "window_pairs": _fake_window_pairs,
    "pair_statistics": _fake_pair_statistics,
    "row_losses": _fake_row_losses,
    "pair_gradient": _fake_pair_gradient,
    "positive_pair_losses": _fake_positive_pair_losses,
    "positive_pair_gradient": _fake_positive_pair_gradient,
    "two_sided_statistics": _fake_two_sided_statistics,
    "two_sided_gradient": _fake_pair_gradient,
    "group_statistics": _fake_group_statistics,
    "group_gradient": _fake_group_gradient,
    "pair_sums": _fake_pair_sums,
    "pair_sums_gradient": _fake_pair_sums_gradient,
    "entry_statistics": _fake_entry_statistics,
    "entry_statistics_gradient": _fake_entry_statistics_gradient,
    "entry_sums": _fake_entry_sums,
    "entry_sums_gradient": _fake_entry_sums_gradient,
    "joint_pair_losses": _fake_joint_pair_losses,
    "joint_pair_gradient": _fake_joint_pair_gradient,
    "triplet_losses": _fake_triplet_losses,
    "triplet_gradient": _fake_pair_gradient,
    "matrix_triplet_losses": _fake_matrix_triplet_losses,
    "matrix_triplet_gradient": _fake_matrix_triplet_gradient,
    "rank_losses": _fake_rank_losses,
    "rank_gradient": _fake_pair_gradient,
    "matrix_rank_losses": _fake_matrix_rank_losses,
    "matrix_rank_gradient": _fake_matrix_triplet_gradient,
    "pair_histograms": _fake_pair_histograms,
    "pair_histograms_gradient": _fake_pair_histograms_gradient,
    "row_divergences": _fake_row_divergences,
    "row_divergences_gradient": _fake_row_divergences_gradient,
    "threshold_sums": _fake_threshold_sums,
    "threshold_gradient": _fake_pair_values_gradient,
    "threshold_pairs": _fake_threshold_pairs,
    "pair_values": _fake_pair_values,
    "pair_values_gradient": _fake_pair_values_gradient,
    "normalize_rows": _fake_normalize_rows,
    "normalize_rows_gradient": _fake_normalize_rows_gradient,
}
