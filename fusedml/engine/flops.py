"""FLOP formulas of the operators, for ``torch.utils.flop_counter``.

Counted are the matrix products that are computed, as PyTorch counts those of its own operators:

    a sweep over the pairs             2 n m d; n^2 d in a self problem, where x_ij = x_ji
    strips of whole rows               2 n m d
    each gradient of embeddings        2 n m d, after the measures are computed again
    two matrices, or rows of two       one sweep for each
    groups of vectors                  2 n C K d, and as often for each gradient
    a listed pair, and its gradients   2 d each
    a joint row of a positive pair     2 m d, and as often again, and for each gradient, backward

The second sweep of losses with one term per positive pair depends on the labels and is not counted;
nor are pairs of short lists, which PyTorch's elementwise operations measure: it counts none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry, register_flop_formula

from fusedml.engine.pairs import problem_of
from fusedml.engine.positives import num_positives
from fusedml.engine.products import LINEAR


def _sweep(anchors: Tensor, references: Tensor | None, *_: Any, **__: Any) -> int:
    n, d = anchors.shape
    return n * n * d if references is None else 2 * n * references.shape[0] * d


def _strips(anchors: Tensor, references: Tensor | None, *_: Any, **__: Any) -> int:
    return 2 * anchors.numel() * (anchors if references is None else references).shape[0]


def _thresholds(anchors: Tensor, references: Tensor | None, *rest: Any, **_: Any) -> int:
    others = rest[4]
    return _sweep(anchors, references) * (1 if others is None else 2)


def _thresholds_gradient(anchors: Tensor, references: Tensor | None, *rest: Any, **_: Any) -> int:
    others_sweep = _thresholds(anchors, references, *rest) - _sweep(anchors, references)
    return _gradient(anchors, references, *rest) + others_sweep


def _gradient(anchors: Tensor, references: Tensor | None, *rest: Any, **_: Any) -> int:
    needs = rest[-1]
    n, d = anchors.shape
    m = n if references is None else references.shape[0]
    num_gradients = needs[0] + (references is not None and needs[1])
    return _sweep(anchors, references) + 2 * n * m * d * num_gradients


def _self_sweep(anchors: Tensor, *_: Any, **__: Any) -> int:
    return _sweep(anchors, None)


def _self_gradient(anchors: Tensor, *rest: Any, **_: Any) -> int:
    return _gradient(anchors, None, *rest)


def _two_sweeps(anchors: Tensor, teacher: Tensor, *_: Any, **__: Any) -> int:
    return _sweep(anchors, None) + _sweep(teacher, None)


def _two_gradients(anchors: Tensor, teacher: Tensor, *rest: Any, **_: Any) -> int:
    needs = rest[-1]
    return sum(
        _gradient(x, None, [need]) for x, need in zip((anchors, teacher), needs[:2], strict=True)
    )


def _groups(anchors: Tensor, vectors: Tensor, *_: Any, **__: Any) -> int:
    return 2 * anchors.shape[0] * vectors.numel()


def _groups_gradient(anchors: Tensor, vectors: Tensor, *rest: Any, **_: Any) -> int:
    needs = rest[-1]
    return _groups(anchors, vectors) * (1 + needs[0] + needs[1])


def _listed(anchors: Tensor, _0: Any, rows: Tensor, *_: Any, **__: Any) -> int:
    return 2 * rows.shape[0] * anchors.shape[1]


def _listed_gradient(
    anchors: Tensor, references: Tensor | None, rows: Tensor, *rest: Any, **_: Any
) -> int:
    needs = rest[-1]
    num_sides = 2 * needs[0] if references is None else needs[0] + needs[1]
    return 2 * rows.shape[0] * anchors.shape[1] * num_sides


def _joint(
    anchors: Tensor,
    references: Tensor | None,
    anchor_labels: Tensor,
    reference_labels: Tensor | None,
    columns: Tensor,
    _: Any,
    self_offset: int | None,
    *__: Any,
    **___: Any,
) -> int:
    labels = anchor_labels, reference_labels
    counts = num_positives(problem_of(anchors, references, *labels, "dot", self_offset))
    num_rows = int(counts.sum()) // (2 if references is None else 1)
    return 2 * num_rows * columns.numel()


def _joint_gradient(*args: Any, **_: Any) -> int:
    needs = args[-1]
    return _joint(*args[:8]) * (2 + (needs[0] or needs[1]) + needs[2])


def _no_product(*_: Any, **__: Any) -> int:
    return 0


_FORMULAS: dict[str, Callable[..., int]] = {
    "pair_extrema": _sweep,
    "extreme_pairs": _strips,
    "window_counts": _strips,
    "window_pairs": _strips,
    "pair_statistics": _sweep,
    "row_losses": _sweep,
    "pair_gradient": _gradient,
    "positive_pair_losses": _sweep,
    "positive_pair_gradient": _gradient,
    "two_sided_statistics": _sweep,
    "two_sided_gradient": _gradient,
    "group_statistics": _groups,
    "group_gradient": _groups_gradient,
    "pair_sums": _sweep,
    "pair_sums_gradient": _gradient,
    "entry_statistics": _no_product,
    "entry_statistics_gradient": _no_product,
    "entry_sums": _no_product,
    "entry_sums_gradient": _no_product,
    "triplet_losses": _sweep,
    "triplet_gradient": _gradient,
    "matrix_triplet_losses": _no_product,
    "matrix_triplet_gradient": _no_product,
    "pair_histograms": _self_sweep,
    "pair_histograms_gradient": _self_gradient,
    "rank_losses": _sweep,
    "rank_gradient": _gradient,
    "threshold_sums": _thresholds,
    "threshold_gradient": _thresholds_gradient,
    "threshold_pairs": _strips,
    "matrix_rank_losses": _no_product,
    "matrix_rank_gradient": _no_product,
    "row_divergences": _two_sweeps,
    "row_divergences_gradient": _two_gradients,
    "joint_pair_losses": _joint,
    "joint_pair_gradient": _joint_gradient,
    "pair_values": _listed,
    "pair_values_gradient": _listed_gradient,
    "normalize_rows": _no_product,
    "normalize_rows_gradient": _no_product,
}


def register_flops(namespace: str, others: Mapping[str, str]) -> None:
    """Registers the formulas of all operators of a namespace; others: names of the same ones."""
    operators = getattr(torch.ops, namespace)
    formulas = {**_FORMULAS, **{name: _FORMULAS[known] for name, known in others.items()}}
    for name, formula in formulas.items():
        register_flop_formula(getattr(operators, name), get_raw=True)(formula)


def _linear(a: torch.Size, b: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * a[0] * b[0] * a[1]


# PyTorch has none for this operator of its own
if LINEAR is not None and LINEAR not in flop_registry:
    register_flop_formula(LINEAR)(_linear)
