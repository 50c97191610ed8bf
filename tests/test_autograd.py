"""The differentiable operators under the machinery of PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from fusedml.engine import autograd
from fusedml.engine.formulas_by_rows import blocks
from fusedml.engine.pairs import MEASURES
from fusedml.losses import MultiSimilarityLoss, NTXentLoss
from tests.problems import make_problem

pytestmark = pytest.mark.usefixtures("whole_or_tiles")

LOGIT = torch.tensor([-1.3, 0.2, 2.1, -0.4], dtype=torch.float64)


def statistics_loss(problem, logit=LOGIT):
    row = autograd.pair_statistics(problem, logit)
    finite = [torch.where(torch.isfinite(values), values, 0) for values in row[:3]]
    return sum((values.sin().sum() for values in finite), torch.zeros(()).double())


def row_loss(problem, logit=None):
    formula = MultiSimilarityLoss().make_formula()
    logit = formula.logit(1.0) if logit is None else logit
    losses = autograd.row_losses(problem, logit, formula.form, formula.form_parameters())
    return losses.sin().sum()


def pair_loss(problem, logit=None):
    formula = NTXentLoss().make_formula()
    logit = formula.logit(1.0) if logit is None else logit
    losses, counts = autograd.positive_pair_losses(
        problem, logit, None, formula.form, formula.form_parameters()
    )
    return losses.sin().sum() / counts.sum()


LOSSES = {"pair_statistics": statistics_loss, "row_losses": row_loss, "positive_pairs": pair_loss}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("m", [None, 5])
@pytest.mark.parametrize("measure", MEASURES)
def test_gradcheck(loss, m, measure):
    problem = make_problem(7, m, 3, measure)

    def run(anchors, references=None):
        return loss(problem._replace(anchors=anchors, references=references))

    inputs = [x.requires_grad_() for x in problem[:2] if x is not None]
    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.also_emulated
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_gradcheck_of_the_logit(loss):
    problem = make_problem(9, None, 3)
    logit = LOGIT.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda logit: loss(problem, logit), logit)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_an_empty_set_has_no_gradient(scale):
    problem = make_problem(12, None, 3, requires_grad=True)
    problem = problem._replace(anchor_labels=torch.arange(12).clamp(max=9))
    row = autograd.pair_statistics(problem, LOGIT * scale)
    is_empty = row.lse_positive.isneginf()
    assert 0 < is_empty.sum() < 12
    upstream = torch.where(is_empty, torch.nan, 1.0).double()
    (grad,) = torch.autograd.grad(row.lse_positive, problem.anchors, upstream)
    assert grad.isfinite().all()
    assert (grad != 0).any()


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("m", [None, 5])
def test_second_derivative(loss, m, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_PAIRS", 3 * 5)
    problem = make_problem(8, m, 3, requires_grad=True)
    operands = [x for x in problem[:2] if x is not None]

    def value(logit, anchors, references=None):
        return loss(problem._replace(anchors=anchors, references=references), logit)

    logit = LOGIT.clone().requires_grad_()
    torch.autograd.gradgradcheck(value, [logit, *operands], fast_mode=True)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_compiles_to_one_graph(loss):
    problem = make_problem(30, None, 5, requires_grad=True)
    expected = torch.autograd.grad(loss(problem), problem.anchors)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(anchors):
        return loss(problem._replace(anchors=anchors))

    x = problem.anchors.detach().clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(compiled(x), x), expected)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_functional_gradient_and_checkpoint(loss):
    problem = make_problem(30, None, 5, requires_grad=True)
    (expected,) = torch.autograd.grad(loss(problem), problem.anchors)

    def run(anchors):
        return loss(problem._replace(anchors=anchors))

    torch.testing.assert_close(torch.func.grad(run)(problem.anchors.detach()), expected)
    recomputed = checkpoint(run, problem.anchors, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(recomputed, problem.anchors)[0], expected)


@pytest.mark.also_emulated
@pytest.mark.parametrize("needs", [(True, False), (False, True)])
def test_only_the_asked_for_gradient_is_computed(needs):
    problem = make_problem(30, 20, 5)
    anchors = problem.anchors.requires_grad_(needs[0])
    references = problem.references.requires_grad_(needs[1])
    row_loss(problem._replace(anchors=anchors, references=references)).backward()
    assert (anchors.grad is not None) == needs[0]
    assert (references.grad is not None) == needs[1]


def test_non_contiguous_inputs_and_gradients():
    problem = make_problem(450, None, 40, requires_grad=True)
    expected = torch.autograd.grad(row_loss(problem), problem.anchors)[0]
    strided = torch.randn(9, 450, dtype=torch.float64).T
    strided = strided.copy_(problem.anchors.detach()).requires_grad_()
    assert not strided.is_contiguous()
    ours = torch.autograd.grad(row_loss(problem._replace(anchors=strided)), strided)[0]
    torch.testing.assert_close(ours, expected)
    formula = MultiSimilarityLoss().make_formula()
    losses = autograd.row_losses(
        problem, formula.logit(1.0), formula.form, formula.form_parameters()
    )
    upstream = torch.ones((), dtype=torch.float64).expand(450)
    (summed,) = torch.autograd.grad(losses, problem.anchors, upstream, retain_graph=True)
    torch.testing.assert_close(summed, torch.autograd.grad(losses.sum(), problem.anchors)[0])


def test_no_grad_saves_nothing():
    problem = make_problem(20, None, 4, requires_grad=True)
    with torch.no_grad():
        assert row_loss(problem).grad_fn is None


@pytest.mark.also_emulated
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_have_float32_statistics(dtype):
    problem = make_problem(450, None, 40, dtype=dtype, d=32, requires_grad=True)
    row = autograd.pair_statistics(problem, LOGIT)
    assert {values.dtype for values in row[:3]} == {torch.float32}
    exact = autograd.pair_statistics(
        problem._replace(anchors=problem.anchors.detach().double()), LOGIT
    )
    for ours, expected in zip(row[:3], exact[:3], strict=True):
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-5)
    row_loss(problem).backward()
    assert problem.anchors.grad.dtype == dtype
