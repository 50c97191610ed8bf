"""Other people's implementations, each used through its public interface and where it is installed.

* pytorch-metric-learning: every loss.
* Cut Cross-Entropy (github.com/apple/ml-cross-entropy, package ``cut_cross_entropy``):
  ``linear_cross_entropy(e, c, targets, impl=)`` is the mean cross-entropy of the logits e c^T,
  which with the classes' second members as classifier is the N-pair loss.
* Inf-CL (github.com/DAMO-NLP-SG/Inf-CLIP, package ``inf_cl``): ``cal_flash_loss(q, k, labels,
  scale, head_dim)`` is the same cross-entropy, one loss a row.

Both need a GPU.  Left out, because none of their losses is one of ours, so that a time beside ours
would compare different work:

* siglip-kernel: ``fused_siglip_loss(img, txt, log_temp, bias)`` sums a sigmoid loss of every pair;
  it has no log-sum-exp over a row.
* memeff: its CLIP loss is the mean of the cross-entropy over rows and over columns, N-pair has
  rows only; its LiT loss is over rows, but gives no gradient to the second set.
* a softmax over proxies (what Cut Cross-Entropy was made for) is none of our losses yet.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

import fusedml.losses
from benchmarks.cases import Case, LossFunction, Problem, UnavailableError
from benchmarks.full_matrix import first_two_of_each_class


def fused(case: Case, problem: Problem) -> LossFunction:
    """fusedml's module."""
    return _module_function(getattr(fusedml.losses, case.loss), case, problem)


def pytorch_metric_learning(case: Case, problem: Problem) -> LossFunction:
    """pytorch-metric-learning's module of the same name."""
    if case.loss == "LiftedStructureLoss" and problem.references is not None:
        raise UnavailableError("not offered: takes the negatives of a reference from the batch")
    losses = _import("pytorch_metric_learning.losses")
    return _module_function(getattr(losses, case.loss), case, problem)


def _module_function(kind: Callable[..., nn.Module], case: Case, problem: Problem) -> LossFunction:
    if problem.references is not None:
        module = kind()
        references = {"ref_emb": problem.references, "ref_labels": problem.reference_labels}
        return lambda: module(problem.embeddings, problem.labels, **references)
    if problem.proxies is None:
        module = kind()
    else:
        module = kind(num_classes=case.num_classes, embedding_size=case.d)
        module.proxies = problem.proxies
    return lambda: module(problem.embeddings, problem.labels)


def cut_cross_entropy(case: Case, problem: Problem) -> LossFunction:
    """N-pair by ``linear_cross_entropy`` without its gradient filter, which is an approximation."""
    _require_n_pairs_on_gpu(case)
    linear_cross_entropy = _import("cut_cross_entropy").linear_cross_entropy

    def loss() -> Tensor:
        anchors, positives = _class_pairs(problem)
        targets = torch.arange(len(anchors), device=anchors.device)
        return linear_cross_entropy(anchors, positives, targets, impl="cce_exact")

    return loss


def inf_cl(case: Case, problem: Problem) -> LossFunction:
    """N-pair by ``cal_flash_loss``, which computes in float32."""
    _require_n_pairs_on_gpu(case)
    # it takes d in parts of a power of two, of at most 256
    head_dim = next((size for size in (256, 128, 64, 32, 16) if case.d % size == 0), None)
    if head_dim is None:
        raise UnavailableError(f"not offered: needs d to be a multiple of 16, got {case.d}")
    cal_flash_loss = _import("inf_cl").cal_flash_loss

    def loss() -> Tensor:
        anchors, positives = _class_pairs(problem)
        return cal_flash_loss(anchors, positives, head_dim=head_dim).mean()

    return loss


def _require_n_pairs_on_gpu(case: Case) -> None:
    if case.loss != "NPairsLoss":
        raise UnavailableError(f"not offered: computes NPairsLoss, not {case.loss}")
    if torch.device(case.device).type != "cuda":
        raise UnavailableError("needs a GPU")


def _class_pairs(problem: Problem) -> tuple[Tensor, Tensor]:
    embeddings = normalize(problem.embeddings)
    anchors, positives = first_two_of_each_class(problem.labels)
    return embeddings[anchors], embeddings[positives]


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnavailableError(f"not installed: {error}") from error
