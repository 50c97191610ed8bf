"""When the matrices of a small problem are held whole, and what that leaves behind."""

from __future__ import annotations

import math
import weakref

import pytest
import torch

from fusedml import autograd, whole
from fusedml.formulas import MultiSimilarity
from tests.problems import make_problem

FORMULA = MultiSimilarity()


def losses(problem, scale=1.0):
    logit = FORMULA.logit(1.0) * scale
    return autograd.row_losses(problem, logit, FORMULA.head, FORMULA.head_parameters())


@pytest.fixture
def evaluations(monkeypatch):
    """Whether each operator called was evaluated on whole matrices."""
    seen = []
    original = whole.WholeMatrix.evaluate

    def evaluate(self, *args):
        outputs = original(self, *args)
        seen.append(outputs is not None)
        return outputs

    monkeypatch.setattr(whole.WholeMatrix, "evaluate", evaluate)
    return seen


@pytest.mark.parametrize(
    "n, m, expected", [(640, None, [True]), (641, None, []), (2, 204800, [True]), (2, 204801, [])]
)
def test_up_to_a_number_of_pairs(n, m, expected, evaluations):
    losses(make_problem(n, m, 5, d=2))
    assert evaluations == expected


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_left_to_the_operator(value, evaluations):
    problem = make_problem(9, None, 3)
    problem.anchors[4, 1] = value
    assert losses(problem).isnan().all()
    assert evaluations == [False]


def test_no_pairs_are_left_to_the_operator(evaluations):
    assert losses(make_problem(0, None, 1)).shape == (0,)
    assert evaluations == [False]


def test_other_backends_compute_themselves(evaluations, monkeypatch):
    monkeypatch.setitem(autograd.operator.__globals__["BACKENDS"], "other", "fusedml_torch")
    problem = make_problem(9, None, 3)
    logit, parameters = FORMULA.logit(1.0), FORMULA.head_parameters()
    autograd.row_losses(problem, logit, FORMULA.head, parameters, backend="other")
    assert evaluations == []


def test_the_backward_can_be_run_again():
    problem = make_problem(20, None, 5, requires_grad=True)
    loss = losses(problem).sum()
    first = torch.autograd.grad(loss, problem.anchors, retain_graph=True)[0].clone()
    second = torch.autograd.grad(loss, problem.anchors)[0]
    assert torch.equal(first, second)


@pytest.mark.parametrize("is_kept", [False, True])
def test_the_matrices_are_kept_for_a_backward_only(is_kept, monkeypatch):
    places = []
    original = whole.WholeMatrix.__init__

    def init(self, name):
        places.append(weakref.ref(self))
        original(self, name)

    monkeypatch.setattr(whole.WholeMatrix, "__init__", init)
    with torch.set_grad_enabled(is_kept):
        value = losses(make_problem(20, None, 5, requires_grad=True))
    assert [place() is not None for place in places] == [is_kept]
    assert value.requires_grad == is_kept


@pytest.mark.parametrize("scale", [1.0, 100.0], ids=["bounded", "shifted by the maximum"])
def test_both_ways_to_sum_are_taken(scale, monkeypatch):
    problem = make_problem(20, None, 5, requires_grad=True)
    seen = []
    original = whole.WholeMatrix._lse

    def lse(self):
        seen.append(self.is_bounded)
        return original(self)

    monkeypatch.setattr(whole.WholeMatrix, "_lse", lse)
    assert losses(problem, scale).isfinite().all()
    assert seen == [scale == 1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_of_the_logit_has_its_dtype(dtype):
    problem = make_problem(20, None, 5)
    logit = FORMULA.logit(1.0).to(dtype).requires_grad_()
    row = autograd.pair_statistics(problem, logit)
    (gradient,) = torch.autograd.grad(row.lse_negative.sum(), logit)
    assert gradient.dtype == dtype
    assert gradient[2] != 0
