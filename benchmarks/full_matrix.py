"""The dense formula as a peer: the whole similarity matrix under autograd, eager and compiled.

Which formula on which pairs belongs to a case is said here once, for every provider that starts
from the matrix, whole or by blocks of its rows.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.cases import Case, LossFunction, Problem, UnavailableError
from fusedml import dense, formulas
from fusedml.formulas import Formula
from fusedml.heads import PAIR_HEADS
from fusedml.pairs import PairProblem

_FORMULAS: dict[str, tuple[type[Formula], str]] = {
    "MultiSimilarityLoss": (formulas.MultiSimilarity, "dot"),
    "GeneralizedLiftedStructureLoss": (formulas.GeneralizedLiftedStructure, "euclidean"),
    "LiftedStructureLoss": (formulas.LiftedStructure, "euclidean"),
    "ProxyAnchorLoss": (formulas.ProxyAnchor, "dot"),
    "NPairsLoss": (formulas.NPairs, "dot"),
    "SupConLoss": (formulas.SupCon, "dot"),
    "NTXentLoss": (formulas.NTXent, "dot"),
}


def dense_autograd(case: Case, problem: Problem) -> LossFunction:
    """The formula on the full similarity matrix, in ordinary PyTorch operations."""

    def loss() -> Tensor:
        formula, pairs = formula_of(case, problem), pairs_of(case, problem)
        losses = dense.losses(pairs, formula)
        positive = dense.pair_masks(pairs)[0] if formula.head in PAIR_HEADS else None
        return losses.sum() / num_terms(formula, losses, positive)

    return loss


def dense_compiled(case: Case, problem: Problem) -> LossFunction:
    """The same under ``torch.compile``, for this size alone, as a training loop compiles it."""
    # the compiler gives up on a function that it has seen with eight sizes, and runs it eagerly
    torch.compiler.reset()
    compiled = torch.compile(dense_autograd(case, problem), dynamic=False)

    def loss() -> Tensor:
        try:
            return compiled()
        except Exception as error:
            if not _is_of_compiler(error):
                raise
            raise UnavailableError(f"does not compile: {_reason(error)}") from error

    return loss


def _is_of_compiler(error: BaseException) -> bool:
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None and _is_of_compiler(error.__cause__):
        error = error.__cause__
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:160]


def formula_of(case: Case, problem: Problem) -> Formula:
    """The case's formula with the default hyper-parameters of its loss."""
    if not case.has_proxies:
        return _FORMULAS[case.loss][0]()
    return formulas.ProxyAnchor(0.1, 32, problem.labels.unique().numel(), case.num_classes)


def pairs_of(case: Case, problem: Problem) -> PairProblem:
    """The pairs of the case, with normalised embeddings."""
    measure = _FORMULAS[case.loss][1]
    embeddings, labels = normalize(problem.embeddings), problem.labels
    if problem.proxies is not None:
        proxies = normalize(problem.proxies)
        classes = torch.arange(len(proxies), device=labels.device)
        return PairProblem(proxies, embeddings, classes, labels, measure, False)
    if problem.references is not None:
        references = normalize(problem.references)
        return PairProblem(embeddings, references, labels, problem.reference_labels, measure, False)
    if case.loss == "NPairsLoss":
        anchors, positives = first_two_of_each_class(labels)
        classes = torch.arange(len(anchors), device=labels.device)
        return PairProblem(
            embeddings[anchors], embeddings[positives], classes, classes, measure, False
        )
    return PairProblem(embeddings, None, labels, None, measure)


def num_terms(formula: Formula, losses: Tensor, positive: Tensor | None) -> Tensor | int:
    """By how many terms the sum of ``losses``, of all rows or of some, is to be divided.

    positive: mask of the positive pairs of these rows, for the losses that have a term for each.
    """
    if formula.head in PAIR_HEADS:
        assert positive is not None
        return positive.sum()
    if isinstance(formula, formulas.SupCon):  # the mean over the losses above 0
        return (losses > 0).sum()
    if isinstance(formula, formulas.ProxyAnchor):  # has its divisors in the head
        return 1
    return len(losses)


def first_two_of_each_class(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the first and of the second member of each class that has two."""
    values, order = labels.sort(stable=True)
    is_first = torch.ones_like(values, dtype=torch.bool)
    is_first[1:] = values[1:] != values[:-1]
    firsts = is_first.nonzero()[:, 0]
    firsts = firsts[firsts + 1 < len(values)]
    firsts = firsts[values[firsts + 1] == values[firsts]]
    return order[firsts], order[firsts + 1]
