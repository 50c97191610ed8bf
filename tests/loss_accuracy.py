"""Value and gradients of a loss against the dense formula in float64, in any number type."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter

from benchmarks.cases import Case, Problem, as_dtype, make_problem
from benchmarks.providers import dense_autograd
from fusedml.losses import DISTILLATION_LOSSES, LOSSES, BaseLoss
from tests.number_types import NumberType

# The slope of the steps that some losses are made of: it magnifies what rounding does to a measure,
# where dense PyTorch may have been lucky.  In 16-bit tensors these measure in float32.
STEEP = {"PNPLoss": 25, "SmoothAPLoss": 25}


def make_loss(name: str, backend: str, weights: Parameter | None = None) -> BaseLoss:
    """A loss of the registry with its default arguments, and these vectors if it has some."""
    return LOSSES[name].of_weights(weights, backend=backend)


def value_and_gradients(loss: Tensor, problem: Problem) -> tuple[Tensor, ...]:
    return loss.detach(), *torch.autograd.grad(loss, problem.leaves)


def check_distillation(name: str, n: int, number_type: NumberType, backend: str) -> None:
    """The same rule for a loss with a teacher; the leaves are the embeddings, and what it trains.

    backend: of the device that tensors are made on.
    """
    generator = torch.Generator("cpu").manual_seed(n)
    numbers = [
        torch.randn(n, d, generator=generator, device="cpu").to(number_type.plain) for d in (40, 72)
    ]
    labels = torch.arange(n) // 3

    def results(dtype: torch.dtype, backend: str) -> list[Tensor]:
        leaves = [x.to(labels.device, dtype).requires_grad_() for x in numbers]
        kind = DISTILLATION_LOSSES[name]
        loss = kind.of_weights(None, backend=backend)
        value = loss.of_teacher(leaves[0], labels, leaves[1])
        return [value.detach(), *torch.autograd.grad(value, leaves[: 1 + kind.trains_teacher])]

    exact = results(torch.float64, "dense")
    with number_type.plain_products():
        plain = results(number_type.plain, "dense")
    torch.set_float32_matmul_precision(number_type.precision)
    ours = results(number_type.dtype, backend)
    for k, (a, e, p) in enumerate(zip(ours, exact, plain, strict=True)):
        assert a.dtype == number_type.dtype
        scale = e.abs().max()
        relative = (x.double() / scale for x in (a, e, p))
        number_type.assert_close(*relative, f"{name} output {k}")


def all_pairs(labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Every pair of two rows as an index tuple."""
    is_same = labels[:, None] == labels
    is_positive = is_same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return *torch.where(is_positive), *torch.where(~is_same)


def smallest_number(dtype: torch.dtype) -> float:
    """Above 0."""
    info = torch.finfo(dtype)
    return info.smallest_normal * info.eps


def without_worst_rows(errors: Tensor) -> Tensor:
    """0 in the eighth of the rows, or two, with the largest errors: those of very few pairs."""
    worst = errors.abs().amax(dim=1).topk(max(len(errors) // 8, 2)).indices
    return errors.index_fill(0, worst, 0)


def check_loss(case: Case, number_type: NumberType, backend: str, *, listed: bool = False) -> None:
    """The rule of tests/number_types.py for the value and the gradients of all leaves.

    listed: whether the loss is given an index tuple of all pairs instead of the labels.
    """
    # one set of numbers, which each dtype holds exactly
    numbers = as_dtype(make_problem(case), number_type.plain)

    def dense(dtype: torch.dtype) -> tuple[Tensor, ...]:
        problem = as_dtype(numbers, dtype)
        return value_and_gradients(dense_autograd(case, problem)(), problem)

    exact = dense(torch.float64)
    with number_type.plain_products():
        plain = dense(number_type.plain)
    torch.set_float32_matmul_precision(number_type.precision)
    problem = as_dtype(numbers, number_type.dtype)
    loss = make_loss(case.loss, backend, problem.weights)
    given = (None, all_pairs(problem.labels)) if listed else (problem.labels,)
    ours = value_and_gradients(loss(problem.embeddings, *given), problem)
    is_short = number_type.plain.itemsize == 2
    if LOSSES[case.loss].gradient_jumps and is_short:
        ours = ours[:1]  # 16 bits do not tell the vectors apart that float64 does
    for k, (a, e, p) in enumerate(zip(ours, exact, plain, strict=False)):
        assert a.dtype == number_type.dtype
        # relative to the largest entry: the gradient of a mean is small
        scale = e.abs().max()
        error, error_of_dense = a.double() - e, p.double() - e
        # ours and the dense result are both rounded to multiples of the smallest number, which is
        # much of a value below the normal ones: dense may have been lucky
        error = error.sign() * (error.abs() - smallest_number(a.dtype)).clamp(min=0)
        allowed = number_type
        if case.loss in STEEP and number_type.precision == "medium":
            allowed = number_type._replace(floor=number_type.floor * STEEP[case.loss])
        if LOSSES[case.loss].value_jumps and is_short:
            # nor which pairs count, where dense, which rounds by itself, may have been lucky, too:
            # a pair changes the loss of a row, and the gradients of two
            if k:
                error, error_of_dense = map(without_worst_rows, (error, error_of_dense))
            else:
                allowed = number_type._replace(floor=number_type.floor + 1 / case.n)
        results = (e + error) / scale, e / scale, (e + error_of_dense) / scale
        allowed.assert_close(*results, f"gradient {k}" if k else "value")
