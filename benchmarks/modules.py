"""Modules of fusedml on the problem of a case, with their own pairs or with a provider's."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import normalize

from benchmarks.cases import Case, LossFunction, Problem, UnavailableError
from fusedml import CrossBatchMemory
from fusedml.distances import fused_measure, sign_of
from fusedml.engine.pairs import PairProblem
from fusedml.engine.routes.choice import Pairs
from fusedml.losses import BaseLoss, DistillationLoss, MultiInputLoss, TwoTowerLoss


def module_of(case: Case, problem: Problem, **arguments: Any) -> BaseLoss | MultiInputLoss:
    """The loss with the case's arguments, and the problem's vectors of the classes."""
    return case.kind.of_weights(problem.weights, **{**case.arguments, **arguments})


def function_of(module: nn.Module, problem: Problem) -> LossFunction:
    """The call of a loss, ours or pytorch-metric-learning's, on the problem."""
    if isinstance(module, DistillationLoss):
        assert problem.teacher is not None  # make_problem
        given = problem.embeddings, problem.labels, problem.teacher
        return lambda: module.of_teacher(*given)
    if problem.references is None:
        return lambda: module(problem.embeddings, problem.labels, problem.indices)
    if problem.in_memory:
        return _function_of_memory(module, problem)
    if isinstance(module, TwoTowerLoss):
        both = problem.embeddings, problem.references
        return lambda: module(*both, **module.example_arguments)
    references = {"ref_emb": problem.references, "ref_labels": problem.reference_labels}
    return lambda: module(problem.embeddings, problem.labels, problem.indices, **references)


def _function_of_memory(module: nn.Module, problem: Problem) -> LossFunction:
    """The call of a CrossBatchMemory of the module's own package, which is full."""
    references, labels = problem.references, problem.reference_labels
    assert references is not None and labels is not None
    kind: Any = CrossBatchMemory
    if not isinstance(module, BaseLoss):
        kind = importlib.import_module("pytorch_metric_learning.losses").CrossBatchMemory
    memory = kind(module, references.shape[1], references.shape[0])
    memory.embedding_memory, memory.label_memory = references.clone(), labels.clone()
    memory.has_been_filled = True

    def loss() -> Tensor:
        memory.queue_idx = 0  # each call writes the batch where it is already
        value: Tensor = memory(problem.embeddings, problem.labels)
        return value

    return loss


def function_on_pairs(
    case: Case, problem: Problem, make_pairs: Callable[[PairProblem, float], Pairs]
) -> LossFunction:
    """The loss, with pairs that a provider makes of their problem and of the measure's sign.

    The problem's embeddings are those that are measured: normalised, in the dtype of the batch.
    """
    # "dense" has no shortcut of its own for small problems; its pairs are replaced below
    module = module_of(case, problem, backend="dense")
    if not isinstance(module, BaseLoss):
        raise UnavailableError("not offered: is computed without these pairs")
    measure, sign = fused_measure(module.distance), sign_of(module.distance)
    if measure is None:
        raise UnavailableError("not offered: its distance is made of other embeddings")

    made: list[Pairs] = []

    def pairs_of(pairs: PairProblem, _: Any = None, is_prepared: bool = False) -> Pairs:
        anchors, references = pairs.anchors.to(problem.embeddings.dtype), pairs.references
        if measure.normalize and not is_prepared:
            anchors = normalize(anchors)
            references = None if references is None else normalize(references)
        prepared = pairs._replace(anchors=anchors, references=references, measure=measure.name)
        made.append(make_pairs(_without_empty_slots(prepared), sign))
        return made[-1]

    module.pairs_of = pairs_of  # type: ignore[method-assign,assignment]
    call = function_of(module, problem)

    def loss() -> Tensor:
        made.clear()
        value = call()
        if not made:  # it would be fusedml's own time under the provider's name
            raise UnavailableError("not offered: is computed without these pairs")
        return value

    return loss


def _without_empty_slots(pairs: PairProblem) -> PairProblem:
    """The problem without the rows and columns beyond its extent."""
    if pairs.extent is None:
        return pairs
    rows, columns = pairs.extent.tolist()

    def cut(x: Tensor | None, size: int) -> Tensor | None:
        return None if x is None else x[:size]

    return pairs._replace(
        anchors=pairs.anchors[:rows],
        anchor_labels=pairs.anchor_labels[:rows],
        references=cut(pairs.references, columns),
        reference_labels=cut(pairs.reference_labels, columns),
        extent=None,
    )
