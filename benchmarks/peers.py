"""Other people's implementations, each used through its public interface and where it is installed.

* pytorch-metric-learning: every loss of the same name.
* PyTorch: ``F.cross_entropy`` of the logits, as it is written by hand where row i of one set
  belongs to row i of another.
* sentence-transformers: the losses of triplets that are one of ours on unit embeddings; their model
  is a function here that returns what it is given.
* Cut Cross-Entropy (github.com/apple/ml-cross-entropy, package ``cut_cross_entropy``):
  ``linear_cross_entropy(e, c, targets, impl=, reduction=)`` is the cross-entropy of the logits
  e c^T: for the losses whose rows have one positive among all columns.
* Inf-CL (github.com/DAMO-NLP-SG/Inf-CLIP, package ``inf_cl``): ``cal_flash_loss(q, k, labels,
  scale, head_dim)`` is the same cross-entropy.

These two need a GPU.  Left out, because none of their losses is one of ours, so that a time
beside ours would compare different work:

* siglip-kernel: ``fused_siglip_loss(img, txt, log_temp, bias)`` sums a sigmoid loss of every pair;
  it has no log-sum-exp over a row.
* memeff: its CLIP loss is the mean of the cross-entropy over rows and over columns; its LiT loss
  is over rows, but gives no gradient to the second set.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from benchmarks.cases import Case, LossFunction, Problem, UnavailableError
from benchmarks.modules import function_of, function_on_pairs, module_of
from fusedml.curves import AFFINE
from fusedml.distances import fused_measure
from fusedml.engine.pairs import PairProblem
from fusedml.engine.routes.pair_losses import ListedMeasures, PairLosses
from fusedml.formulas import Formula, PairFormula, RowFormula, SumFormula
from fusedml.heads import PairSums, RowStatistics
from fusedml.losses import LOSSES, BaseLoss, PairwiseLoss, RowwiseLoss


def fused(case: Case, problem: Problem) -> LossFunction:
    """fusedml's module."""
    return function_of(module_of(case, problem), problem)


def pytorch_metric_learning(case: Case, problem: Problem) -> LossFunction:
    """pytorch-metric-learning's module of the same name."""
    loss = LOSSES.get(case.loss)
    if loss is None:
        raise UnavailableError(f"not offered: has no {case.loss}")
    if problem.references is not None and not loss.agrees_with_pml_on_references:
        raise UnavailableError("not offered: computes something else with references")
    if not getattr(case.kind, "agrees_with_pml", True):
        raise UnavailableError("not offered: computes something else")
    kind = getattr(_import("pytorch_metric_learning.losses"), case.loss, None)
    if kind is None:
        raise UnavailableError(f"not offered: has no {case.loss}")
    module = kind(**_needed_arguments(case))
    if problem.weights is None:
        return function_of(module, problem)
    setattr(module, str(case.kind.weights_name), problem.weights)
    return function_of(module, problem)


def sentence_transformers(case: Case, problem: Problem) -> LossFunction:
    """Its loss of the same triplets, of the embeddings divided by their norms."""
    name = getattr(case.kind, "in_sentence_transformers", {}).get(case.variant)
    if name is None or problem.references is not None:
        raise UnavailableError("not offered: has no such loss")
    kind = getattr(_import("sentence_transformers.losses"), name)
    ours: Any = module_of(case, problem)
    module = kind(lambda features: features, margin=ours.margin)
    return lambda: module([{"sentence_embedding": normalize(problem.embeddings)}], problem.labels)


def _needed_arguments(case: Case) -> dict[str, Any]:
    """Of the constructor, in pytorch-metric-learning's as in ours."""
    if not issubclass(case.kind, BaseLoss):
        return {}
    return case.kind.needed_arguments(case.num_classes, case.d)


def torch_cross_entropy(case: Case, problem: Problem) -> LossFunction:
    """``F.cross_entropy(scale q @ d.T, arange(n))``, of normalised q and d if the loss does so."""
    module = module_of(case, problem)
    if not (case.has_one_positive and isinstance(module, RowwiseLoss | PairwiseLoss)):
        raise _NOT_THEIRS
    formula, measure = module.make_formula(), fused_measure(module.distance)
    scale, _, other_scale, _ = formula.logit(1.0).tolist()
    is_theirs = formula.form in _OF_ONE_POSITIVE and formula.curve == AFFINE.name
    if not (is_theirs and scale == other_scale and measure is not None and measure.name == "dot"):
        raise _NOT_THEIRS
    normalizes = measure.normalize
    queries, documents = problem.embeddings, problem.references
    targets = torch.arange(case.n, device=queries.device)

    def loss() -> Tensor:
        assert documents is not None
        q, d = (normalize(x) if normalizes else x for x in (queries, documents))
        return cross_entropy(q @ d.T * scale, targets)

    return loss


# the forms that are a cross-entropy for rows with one positive
_OF_ONE_POSITIVE = ("cross_entropy", "mean_cross_entropy", "softplus_gap")


def cut_cross_entropy(case: Case, problem: Problem) -> LossFunction:
    """``linear_cross_entropy`` without its gradient filter, which is an approximation."""
    _require_gpu(case)
    linear_cross_entropy = _import("cut_cross_entropy").linear_cross_entropy

    def rows(anchors: Tensor, references: Tensor, targets: Tensor) -> Tensor:
        return linear_cross_entropy(
            anchors, references, targets, impl="cce_exact", reduction="none"
        )

    return function_on_pairs(case, problem, partial(_CrossEntropyPairs, rows))


def inf_cl(case: Case, problem: Problem) -> LossFunction:
    """``cal_flash_loss``, which computes in float32."""
    _require_gpu(case)
    # it takes d in parts of a power of two, of at most 256
    head_dim = next((size for size in (256, 128, 64, 32, 16) if case.d % size == 0), None)
    if head_dim is None:
        raise UnavailableError(f"not offered: needs d to be a multiple of 16, got {case.d}")
    cal_flash_loss = _import("inf_cl").cal_flash_loss

    def rows(anchors: Tensor, references: Tensor, targets: Tensor) -> Tensor:
        return cal_flash_loss(anchors, references, targets, head_dim=head_dim)

    return function_on_pairs(case, problem, partial(_CrossEntropyPairs, rows))


class _CrossEntropyPairs:
    """The pairs of a peer that computes the cross-entropy of one positive among all references.

    rows: (anchors, references, targets) -> the losses of the anchors.
    """

    def __init__(
        self, rows: Callable[[Tensor, Tensor, Tensor], Tensor], problem: PairProblem, sign: float
    ) -> None:
        self.rows, self.problem, self.sign = rows, problem, sign

    def row_losses(self, formula: RowFormula, epsilon: Any = None) -> Tensor:
        problem, logit = self.problem, formula.logit(self.sign)
        is_theirs = (
            formula.form == "cross_entropy"
            and problem.measure == "dot"
            and problem.references is not None
            and bool(logit[0] == logit[2])
        )
        if not is_theirs:
            raise _NOT_THEIRS
        assert problem.references is not None and problem.reference_labels is not None
        anchors = problem.anchors * logit[0].to(problem.anchors)
        # shifts cancel; the references are labelled 0, 1, ...
        return self.rows(anchors, problem.references, problem.anchor_labels)

    def row_statistics(self, formula: Formula) -> RowStatistics:
        raise _NOT_THEIRS

    def pair_losses(self, formula: PairFormula) -> PairLosses:
        raise _NOT_THEIRS

    def pair_sums(self, formula: SumFormula) -> PairSums:
        raise _NOT_THEIRS

    def measures_of(self, is_positive: bool) -> ListedMeasures:
        raise _NOT_THEIRS

    def has_negative(self) -> Tensor | bool:
        raise _NOT_THEIRS


_NOT_THEIRS = UnavailableError("not offered: computes the cross-entropy of one positive among all")


def _require_gpu(case: Case) -> None:
    if torch.device(case.device).type != "cuda":
        raise UnavailableError("needs a GPU")


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnavailableError(f"not installed: {error}") from error
