"""The dense formula as a peer: the whole similarity matrix under autograd, eager and compiled."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.cases import Case, LossFunction, Problem, UnavailableError
from benchmarks.modules import function_of, module_of
from fusedml.engine.inputs import make_batch
from fusedml.losses import BaseLoss


def dense_autograd(case: Case, problem: Problem) -> LossFunction:
    """The formula on the full similarity matrix, in ordinary PyTorch operations.

    It is the loss's module with ``backend="dense"``: labels, formula and reducer cost some 30 us of
    Python beside the formula alone, as they do in every other provider that is a module.
    """
    module = module_of(case, problem, backend="dense")
    if not isinstance(module, BaseLoss) or problem.in_memory:
        return function_of(module, problem)
    # the checks of a call are no part of the formula
    batch = make_batch(
        problem.embeddings, problem.labels, problem.references, problem.reference_labels, True
    )
    dtype = problem.embeddings.dtype
    return lambda: module.reduced(module.sub_losses(batch, None), batch, dtype)


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
