"""Losses with one term per positive pair against the dense formula in float64."""

from __future__ import annotations

import math

import pytest
import torch

from fusedml import dense
from fusedml.engine import autograd
from fusedml.engine.pairs import PairProblem
from fusedml.losses import LiftedStructureLoss, NTXentLoss
from tests.problems import NUM_CLASSES, SIZES, assert_close, in_dtype, inputs_of, make_problem

pytestmark = pytest.mark.usefixtures("whole_or_tiles")

FORMULAS = {
    "softplus_gap": (NTXentLoss, "dot"),
    "squared_hinge": (LiftedStructureLoss, "euclidean"),
}


def fused_losses(problem, formula):
    sign = 1.0 if problem.measure == "dot" else -1.0
    logit = formula.logit(sign)
    reference_lse = None
    if problem.references is not None and formula.needs_reference_lse:
        among_references = PairProblem(
            problem.references, None, problem.reference_labels, None, problem.measure
        )
        reference_lse = autograd.pair_statistics(among_references, logit).lse_negative
    return autograd.positive_pair_losses(
        problem, logit, reference_lse, formula.form, formula.form_parameters()
    )


def check(name, problem, floor):
    kind, _ = FORMULAS[name]

    def make_formula(parameter):
        return kind(parameter).make_formula()

    # a learnable hyper-parameter, so that the gradient of the logits is checked as well
    value = 0.2 if name == "softplus_gap" else 1.1
    parameters = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    exact_problem = in_dtype(problem, torch.float64)
    exact = dense.losses(exact_problem, make_formula(parameters[0])).sum(1)
    plain = dense.losses(problem, make_formula(value)).sum(1)
    ours, counts = fused_losses(problem, make_formula(parameters[1]))
    assert_close(ours, exact, plain, floor, "losses")
    assert torch.equal(counts, dense.pair_masks(problem)[0].sum(1))
    weights = torch.randn(exact.shape, generator=torch.Generator().manual_seed(2)).double()

    def gradients(losses, of):
        grads = torch.autograd.grad((losses * weights.to(losses)).sum(), of, allow_unused=True)
        return [torch.zeros_like(x) if g is None else g for x, g in zip(of, grads, strict=True)]

    exact_grads = gradients(exact, [*inputs_of(exact_problem), parameters[0]])
    plain_grads = gradients(plain, inputs_of(problem))
    ours_grads = gradients(ours, [*inputs_of(problem), parameters[1]])
    plain_grads.append(exact_grads[-1])
    for a, e, p in zip(ours_grads, exact_grads, plain_grads, strict=True):
        assert_close(a, e, p, 10 * floor, "gradient")


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("num_classes", NUM_CLASSES)
@pytest.mark.parametrize("n", SIZES)
def test_self_problem_at_tile_edges(name, n, num_classes):
    problem = make_problem(n, None, num_classes, FORMULAS[name][1], seed=n, requires_grad=True)
    check(name, problem, 1e-10)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("num_classes", NUM_CLASSES)
@pytest.mark.parametrize("n, m", [(1, 1), (3, 500), (500, 3), (129, 257), (400, 400)])
def test_two_operand_problem(name, n, m, num_classes):
    problem = make_problem(n, m, num_classes, FORMULAS[name][1], seed=n + m, requires_grad=True)
    check(name, problem, 1e-10)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("m", [None, 410])
def test_float32(name, m):
    problem = make_problem(450, m, 60, FORMULAS[name][1], torch.float32, d=64, requires_grad=True)
    check(name, problem, 1e-5 if name == "squared_hinge" else 1e-6)


@pytest.mark.also_emulated
@pytest.mark.parametrize("name", FORMULAS)
def test_no_negatives_cost_nothing(name):
    problem = make_problem(200, None, 1, FORMULAS[name][1], requires_grad=True)
    losses, _ = fused_losses(problem, FORMULAS[name][0]().make_formula())
    assert (losses == 0).all()
    losses.sum().backward()
    assert (problem.anchors.grad == 0).all()


@pytest.mark.also_emulated
@pytest.mark.parametrize("name", FORMULAS)
def test_a_non_finite_embedding_gives_nan(name):
    problem = make_problem(450, None, 40, FORMULAS[name][1])
    problem.anchors[5, 1] = math.nan
    assert torch.isnan(fused_losses(problem, FORMULAS[name][0]().make_formula())[0]).all()
