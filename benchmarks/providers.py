"""Who computes a loss: fusedml, the dense formula under autograd, pytorch-metric-learning.

A provider takes a case and its problem and returns a function of no arguments that computes the
loss, 0-d, differentiable in the problem's leaves.  Providers are plain functions at the top level
of a module, so that the memory measurement can name them in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

import fusedml.losses
from benchmarks.cases import Case, Problem
from fusedml import dense, formulas
from fusedml.heads import PAIR_HEADS
from fusedml.pairs import PairProblem

LossFunction = Callable[[], Tensor]
Provider = Callable[[Case, Problem], LossFunction]

_DENSE_FORMULAS: dict[str, tuple[type[formulas.Formula], str]] = {
    "MultiSimilarityLoss": (formulas.MultiSimilarity, "dot"),
    "GeneralizedLiftedStructureLoss": (formulas.GeneralizedLiftedStructure, "euclidean"),
    "LiftedStructureLoss": (formulas.LiftedStructure, "euclidean"),
    "ProxyAnchorLoss": (formulas.ProxyAnchor, "dot"),
    "NPairsLoss": (formulas.NPairs, "dot"),
    "SupConLoss": (formulas.SupCon, "dot"),
    "NTXentLoss": (formulas.NTXent, "dot"),
}


def fused(case: Case, problem: Problem) -> LossFunction:
    """fusedml's module."""
    return _module_function(getattr(fusedml.losses, case.loss), case, problem)


def pytorch_metric_learning(case: Case, problem: Problem) -> LossFunction:
    """pytorch-metric-learning's module of the same name.  ImportError if it is not installed."""
    from pytorch_metric_learning import losses  # noqa: PLC0415  a baseline, not a dependency

    return _module_function(getattr(losses, case.loss), case, problem)


def _module_function(kind: Callable[..., nn.Module], case: Case, problem: Problem) -> LossFunction:
    if problem.proxies is None:
        module = kind()
    else:
        module = kind(num_classes=case.num_classes, embedding_size=case.d)
        module.proxies = problem.proxies
    return lambda: module(problem.embeddings, problem.labels)


def dense_autograd(case: Case, problem: Problem) -> LossFunction:
    """The formula on the full similarity matrix, in ordinary PyTorch operations."""
    kind, measure = _DENSE_FORMULAS[case.loss]

    def loss() -> Tensor:
        pairs = _pairs(problem, measure, case.loss == "NPairsLoss")
        if kind is formulas.ProxyAnchor:
            present = problem.labels.unique().numel()
            return dense.losses(pairs, formulas.ProxyAnchor(0.1, 32, present, len(pairs[0]))).sum()
        losses = dense.losses(pairs, kind())
        if kind.head in PAIR_HEADS:
            return losses.sum() / dense.pair_masks(pairs)[0].sum()
        if kind is formulas.SupCon:  # the mean over the losses above 0
            return losses.sum() / (losses > 0).sum()
        return losses.mean()

    return loss


def _pairs(problem: Problem, measure: str, one_pair_a_class: bool) -> PairProblem:
    embeddings, labels = normalize(problem.embeddings), problem.labels
    if problem.proxies is not None:
        proxies = normalize(problem.proxies)
        classes = torch.arange(len(proxies), device=labels.device)
        return PairProblem(proxies, embeddings, classes, labels, measure, False)
    if one_pair_a_class:
        anchors, positives = _first_two_of_each_class(labels)
        classes = torch.arange(len(anchors), device=labels.device)
        return PairProblem(
            embeddings[anchors], embeddings[positives], classes, classes, measure, False
        )
    return PairProblem(embeddings, None, labels, None, measure)


def _first_two_of_each_class(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the first and of the second member of each class that has two."""
    values, order = labels.sort(stable=True)
    is_first = torch.ones_like(values, dtype=torch.bool)
    is_first[1:] = values[1:] != values[:-1]
    firsts = is_first.nonzero()[:, 0]
    firsts = firsts[firsts + 1 < len(values)]
    firsts = firsts[values[firsts + 1] == values[firsts]]
    return order[firsts], order[firsts + 1]


PROVIDERS: dict[str, Provider] = {
    "fusedml": fused,
    "dense": dense_autograd,
    "pytorch-metric-learning": pytorch_metric_learning,
}


def bare_products(case: Case, problem: Problem) -> Callable[[], None]:
    """The matrix products that the dense version cannot do without, and nothing else.

    Forward: S = A R^T.  Forward and backward: S, W R and W^T A, with S as W.  In blocks of rows of
    at most 2^25 elements, into arrays that are allocated once.
    """
    rows, columns = case.matrix_shape
    dtype, device = problem.embeddings.dtype, problem.embeddings.device
    anchors = torch.randn(rows, case.d, device=device).to(dtype)
    references = torch.randn(columns, case.d, device=device).to(dtype)
    height = max(1, min(rows, 2**25 // max(columns, 1)))
    block = torch.empty(height, columns, dtype=dtype, device=device)
    anchors_grad, references_grad = torch.empty_like(anchors), torch.zeros_like(references)

    def multiply() -> None:
        for start in range(0, rows, height):
            own = slice(start, min(start + height, rows))
            similarity = block[: own.stop - own.start]
            torch.mm(anchors[own], references.T, out=similarity)
            if case.direction == "forward":
                continue
            torch.mm(similarity, references, out=anchors_grad[own])
            # beta 0 with the first block, so that nothing has to be cleared
            references_grad.addmm_(similarity.T, anchors[own], beta=0 if start == 0 else 1)

    return multiply
