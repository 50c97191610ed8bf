"""The primitive behind the losses: differentiable row statistics of all pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from fusedml.engine import autograd
from fusedml.engine.arguments import check_choice
from fusedml.engine.backends import check_backend, require_backend
from fusedml.engine.foreign import check_local
from fusedml.engine.inputs import (
    as_members,
    check_embeddings,
    check_labels,
    check_not_swapped,
    check_references,
    check_self_offset,
    check_widths,
)
from fusedml.engine.labels import (
    LabelRule,
    check_label_rule,
    common_label_codes,
    label_codes,
    may_differ_from_itself,
    on_device,
)
from fusedml.engine.pairs import MEASURES, PairProblem
from fusedml.engine.precision import prepared, tile_dtype
from fusedml.formulas import Hyperparameter, pack
from fusedml.heads import RowStatistics
from fusedml.hyperparameters import any_number, as_hyperparameter

if TYPE_CHECKING:
    from fusedml.losses.base import Backend


def pair_statistics(
    anchors: Tensor,
    labels: Tensor,
    references: Tensor | None = None,
    reference_labels: Tensor | None = None,
    *,
    measure: Literal["dot", "euclidean", "squared_euclidean"] = "dot",
    positive_scale: Hyperparameter = 1.0,
    positive_shift: Hyperparameter = 0.0,
    negative_scale: Hyperparameter = 1.0,
    negative_shift: Hyperparameter = 0.0,
    exclude_diagonal: bool | None = None,
    thresholds: Tensor | None = None,
    backend: Backend = "auto",
    label_rule: LabelRule = "any",
    self_offset: int | None = None,
) -> RowStatistics:
    """Log-sum-exps, sum and counts of each anchor's positive and negative logits.

        z_ij = positive_scale x_ij + positive_shift   where labels_i == reference_labels_j,
        z_ij = negative_scale x_ij + negative_shift   where they differ,
        lse_positive_i = log sum_{j in P(i)} exp z_ij,    sum_positive_i = sum_{j in P(i)} z_ij,
        lse_negative_i = log sum_{j in N(i)} exp z_ij,    num_positive_i, num_negative_i.

    Args:
        anchors: [n, d], floating point, used as given: normalise them for cosine similarities.
        labels: [n], any dtype and values; or [n, C], which classes each row has, bool or numbers 0
            and 1: then P(i) are the pairs that ``label_rule`` says.
        references: [m, d], or None when the anchors are their own references.
        reference_labels: [m] or [m, C], required with references.
        measure: x_ij is "dot" <a_i, r_j>, "euclidean" |a_i - r_j| or "squared_euclidean".
        positive_scale: a number or 0-d tensor; a tensor that requires a gradient receives it, here
            and in the next three.
        positive_shift: see positive_scale.
        negative_scale: see positive_scale.
        negative_shift: see positive_scale.
        exclude_diagonal: leave the pairs i == j out; default: when references is None.
        thresholds: None, or [2, n]: a positive counts only if y_ij < thresholds[0, i], a negative
            only if y_ij > thresholds[1, i], where y is x, or -x for the distances.
            :func:`fusedml.functional.mining_thresholds` makes them.
        backend: "auto", "cuda" or "torch".
        label_rule: of labels [n, C]: "any" for pairs that have a class in common, "all" for those
            that have the same classes; a row without any is negative to all.
        self_offset: None, or where in ``references`` the anchors are: the pairs
            (i, (i + self_offset) mod m) are left out.

    Returns:
        Five tensors [n]: the log-sum-exps (-inf for an empty set) and the sum (0) in float32, or
        float64 for float64 anchors, differentiable once; the counts in int64.  Memory is O(n + m):
        no n x m matrix is ever built.

    Raises:
        ValueError: for wrong shapes, devices, dtypes, ``measure`` or ``backend``.
        TypeError: for arguments that are not tensors where tensors are due.
    """
    rule = check_label_rule(label_rule)
    _check_operands(anchors, labels, references, reference_labels, rule)
    check_choice("measure", measure, MEASURES)
    if thresholds is not None:
        _check_thresholds(thresholds, anchors)
        thresholds = thresholds.detach().clone()
    require_backend(check_backend(backend, needs_operators=True), anchors, "pair_statistics")
    numbers = {
        "positive_scale": positive_scale,
        "positive_shift": positive_shift,
        "negative_scale": negative_scale,
        "negative_shift": negative_shift,
    }
    logit = pack(*(as_hyperparameter(name, x, any_number) for name, x in numbers.items()))
    if exclude_diagonal is None:
        exclude_diagonal = references is None or self_offset is not None
    if self_offset is not None:
        check_self_offset(self_offset, anchors, references, "references", "anchors")
        if not exclude_diagonal:
            raise ValueError(f"self_offset excludes a diagonal, got {self_offset} and False")
    dtype, labels = tile_dtype(anchors), as_members(on_device(labels, anchors.device))
    if references is None and not exclude_diagonal and may_differ_from_itself(labels):
        # the codes of the two sides must differ
        references, reference_labels = anchors.view_as(anchors), labels
    if references is None or reference_labels is None:
        codes: tuple[Tensor, Tensor | None] = label_codes(labels, rule), None
    else:
        others = as_members(on_device(reference_labels, anchors.device))
        codes = common_label_codes(labels, others, rule)
    problem = PairProblem(anchors, references, *codes, measure, exclude_diagonal)
    problem = problem._replace(self_offset=self_offset or 0)
    return autograd.pair_statistics(prepared(problem, dtype), logit, thresholds, backend)


def _check_operands(
    anchors: Tensor,
    labels: Tensor,
    references: Tensor | None,
    reference_labels: Tensor | None,
    label_rule: LabelRule,
) -> None:
    check_not_swapped(anchors, labels, "anchors")
    check_embeddings(anchors, "anchors")
    check_labels(labels, anchors, label_rule=label_rule)
    if (references is None) != (reference_labels is None):
        given: tuple[Any, ...] = tuple(
            None if x is None else tuple(x.shape) for x in (references, reference_labels)
        )
        raise ValueError(
            "references and reference_labels must be given together, got shapes "
            f"{given[0]} and {given[1]}"
        )
    if references is not None and reference_labels is not None:
        check_references(anchors, references, "references")
        check_labels(reference_labels, references, "reference_labels", label_rule)
        check_widths(labels, reference_labels, "reference_labels")


def _check_thresholds(thresholds: Tensor, anchors: Tensor) -> None:
    if not isinstance(thresholds, Tensor):
        raise TypeError(f"thresholds must be a tensor, got {type(thresholds).__name__}")
    check_local(thresholds, "thresholds")
    expected = (2, anchors.shape[0])
    if tuple(thresholds.shape) != expected or not thresholds.is_floating_point():
        raise ValueError(
            f"thresholds must be floating point of shape {expected}, got {thresholds.dtype} of "
            f"shape {tuple(thresholds.shape)}"
        )
    if thresholds.device != anchors.device:
        raise ValueError(
            f"thresholds must be on the device of anchors, {anchors.device}, got "
            f"{thresholds.device}"
        )
