"""Means of losses of rows with one known positive each."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fusedml.engine import autograd, whole, whole_targets
from fusedml.engine.autograd import targets as choice
from fusedml.engine.averaged import mean_between
from fusedml.engine.pairs import PairProblem, measure_matrix

N, M = 7, 9


def problem_of(
    measure: str = "dot", has_references: bool = False, dtype: torch.dtype = torch.float64
) -> tuple[PairProblem, Tensor]:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(N, 5, generator=generator, dtype=dtype).requires_grad_()
    others = torch.randn(M, 5, generator=generator, dtype=dtype).requires_grad_()
    targets = torch.randint(M if has_references else N, (N,), generator=generator)
    sides = x, others if has_references else None
    return PairProblem(*sides, targets, None, measure, False, normalize=True), targets


def expected(
    problem: PairProblem, targets: Tensor, logit: Tensor, interval: tuple[float | None, ...]
) -> Tensor:
    a = torch.nn.functional.normalize(problem.anchors)
    r = a if problem.references is None else torch.nn.functional.normalize(problem.references)
    z = measure_matrix(a, r, problem.measure) * logit[0] + logit[1]
    return mean_between(cross_entropy(z, targets, reduction="none"), interval)


@pytest.mark.parametrize("way", ["cross_entropy", "held", "in_products"])
@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize(
    ("measure", "has_references"),
    [("dot", False), ("dot", True), ("euclidean", False), ("squared_euclidean", True)],
)
@pytest.mark.parametrize("interval", [(None, None), (1.5, None)])
def test_value_and_gradients(monkeypatch, measure, has_references, learns, interval, way) -> None:
    if way != "cross_entropy":
        monkeypatch.setattr(choice, "_FEW_PAIRS", 0)
    if way == "in_products":
        monkeypatch.setattr(whole, "MOST_PAIRS", 0)
    problem, targets = problem_of(measure, has_references)
    logit = torch.tensor([-3.0, 0.5, -3.0, 0.5], dtype=torch.float64, requires_grad=learns)
    found = autograd.mean_target_loss(problem, targets, logit, interval)
    right = expected(problem, targets, logit, interval)
    torch.testing.assert_close(found, right)
    leaves = [x for x in (*problem[:2], logit) if x is not None and x.requires_grad]
    grads = torch.autograd.grad(2 * found, leaves)
    rights = list(torch.autograd.grad(2 * right, leaves, allow_unused=True))
    if learns:  # what both kinds of pairs have of a number that they share
        grads = *grads[:-1], grads[-1].view(2, 2).sum(0)
        rights[-1] = rights[-1][:2]
    for grad, of_formula in zip(grads, rights, strict=True):
        torch.testing.assert_close(grad, of_formula)


def test_second_derivative() -> None:
    problem, targets = problem_of()
    logit = torch.tensor([4.0, 0.0, 4.0, 0.0], dtype=torch.float64)
    found = autograd.mean_target_loss(problem, targets, logit, (None, None))
    right = expected(problem, targets, logit, (None, None))
    seconds = []
    for loss in (found, right):
        (grad,) = torch.autograd.grad(loss, problem.anchors, create_graph=True)
        seconds.append(torch.autograd.grad(grad.square().sum(), problem.anchors)[0])
    torch.testing.assert_close(*seconds)


@pytest.mark.parametrize("scale", [16.0, 4.0, 3.0])  # 3: beyond what is made more exact
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_small_loss_is_no_difference_of_large_numbers(dtype, scale) -> None:
    x = torch.eye(4, dtype=dtype).requires_grad_()
    problem = PairProblem(x, None, torch.arange(4), None, "dot", False, normalize=True)
    logit = torch.tensor([scale, 0.0, scale, 0.0], dtype=torch.float64)
    loss = autograd.mean_target_loss(problem, torch.arange(4), logit, (None, None))
    assert loss.item() == pytest.approx(math.log1p(3 * math.exp(-scale)), rel=1e-5)
    (grad,) = torch.autograd.grad(loss, x)
    share = math.exp(-scale) / (1 + 3 * math.exp(-scale))
    off_diagonal = grad.float()[~torch.eye(4, dtype=torch.bool)]
    rel = 1e-5 if dtype == torch.float32 else 4e-3
    assert off_diagonal.tolist() == pytest.approx([scale * share / 2] * 12, rel=rel)


@pytest.mark.parametrize(
    "logit", [[2.0, 0.0, 1.0, 0.0], [math.inf, 0, math.inf, 0], [0.0, 0.0, 0.0, 0.0]]
)
def test_other_logits_are_left_to_others(logit) -> None:
    problem, targets = problem_of()
    given = torch.tensor(logit, dtype=torch.float64)
    assert autograd.mean_target_loss(problem, targets, given, (None, None)) is None


def test_what_is_left_to_others(monkeypatch) -> None:
    problem, targets = problem_of(dtype=torch.float32)
    logit = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    given = targets, logit, (None, None)
    one = problem._replace(anchors=problem.anchors[:1])
    assert autograd.mean_target_loss(one, targets[:1] * 0, *given[1:]) is None
    broken = problem._replace(anchors=problem.anchors.detach().index_fill(0, targets[:1], math.nan))
    assert autograd.mean_target_loss(broken, *given) is None
    assert autograd.mean_target_loss(problem, *given) is not None
    monkeypatch.setattr(whole_targets, "MOST_PAIRS", N * N - 1)
    assert autograd.mean_target_loss(problem, *given) is None
