"""When the matrices of a small problem are held whole, and what that leaves behind."""

from __future__ import annotations

import math

import pytest
import torch

from fusedml.engine import autograd, few_positives, ops, whole
from fusedml.functional import multi_similarity_loss
from fusedml.losses import MultiSimilarityLoss
from tests.problems import make_problem

FORMULA = MultiSimilarityLoss().make_formula()


def losses(problem, scale=1.0):
    logit = FORMULA.logit(1.0) * scale
    return autograd.row_losses(problem, logit, FORMULA.form, FORMULA.form_parameters())


@pytest.fixture
def evaluations(monkeypatch):
    """Whether each operator called was evaluated on whole matrices, few positives or not."""
    monkeypatch.setattr(few_positives, "MOST_PER_ROW", -1)
    seen = []
    original = whole.WholeRowLosses.evaluate

    def evaluate(self):
        outputs = original(self)
        seen.append(outputs is not None)
        return outputs

    monkeypatch.setattr(whole.WholeRowLosses, "evaluate", evaluate)
    return seen


@pytest.mark.parametrize(
    "n, m, expected", [(800, None, [True]), (801, None, []), (2, 320000, [True]), (2, 320001, [])]
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
    monkeypatch.setitem(ops.BACKENDS, "other", "fusedml_torch")
    problem = make_problem(9, None, 3)
    logit, parameters = FORMULA.logit(1.0), FORMULA.form_parameters()
    autograd.row_losses(problem, logit, FORMULA.form, parameters, backend="other")
    assert evaluations == []


def test_the_backward_can_be_run_again():
    problem = make_problem(20, None, 5, requires_grad=True)
    loss = losses(problem).sum()
    first = torch.autograd.grad(loss, problem.anchors, retain_graph=True)[0].clone()
    second = torch.autograd.grad(loss, problem.anchors)[0]
    assert torch.equal(first, second)


@pytest.mark.parametrize("scale", [1.0, 100.0], ids=["bounded", "shifted by the maximum"])
def test_both_ways_to_sum_are_taken(scale, monkeypatch):
    problem = make_problem(20, None, 5, requires_grad=True)
    seen = []
    original = whole.WholeMatrix._log_sums

    def log_sums(self, scaled):
        seen.append(self.is_bounded)
        return original(self, scaled)

    monkeypatch.setattr(whole.WholeMatrix, "_log_sums", log_sums)
    assert losses(problem, scale).isfinite().all()
    assert seen == [scale == 1.0]


def by_tiles(monkeypatch):
    monkeypatch.setattr(whole, "MOST_PAIRS", -1)


@pytest.mark.parametrize("m", [None, 6])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.bfloat16, 2e-2)])
def test_rows_are_normalised_within(m, dtype, tolerance, evaluations, monkeypatch):
    problem = make_problem(20, m, 5)
    problem.anchors[3] *= 1e-14  # shorter than what a row is divided by at least
    problem.anchors[4] = 0
    leaves = [x.to(dtype).requires_grad_() for x in problem[:2] if x is not None]
    arguments = (*leaves, None)[:2], problem.anchor_labels, problem.reference_labels

    def run():
        (anchors, references), labels, other_labels = arguments
        value = multi_similarity_loss(anchors, labels, ref_emb=references, ref_labels=other_labels)
        return value.detach(), *torch.autograd.grad(value, leaves)

    ours = run()
    assert evaluations == [True]
    by_tiles(monkeypatch)
    expected = run()
    assert evaluations == [True]
    for one, other in zip(ours, expected, strict=True):
        difference = torch.linalg.vector_norm((one - other).double(), dim=-1)
        assert (difference <= tolerance * torch.linalg.vector_norm(other.double(), dim=-1)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rows_are_normalised_in_float32_and_rounded_once(dtype):
    problem = make_problem(20, None, 5, dtype=dtype, scale=3.0)
    rounded = torch.nn.functional.normalize(problem.anchors.float()).to(dtype)
    assert torch.equal(
        losses(problem._replace(normalize=True)), losses(problem._replace(anchors=rounded))
    )


def test_autocast_does_not_reach_the_backward():
    problem = make_problem(40, None, 5, dtype=torch.float32, requires_grad=True)
    grads = []
    for is_within in (True, False):
        with torch.autocast("cpu", torch.bfloat16):
            loss = losses(problem).sum()
            if is_within:
                grads += torch.autograd.grad(loss, problem.anchors)
        if not is_within:
            grads += torch.autograd.grad(loss, problem.anchors)
    assert torch.equal(*grads)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("value", [1.0, math.inf], ids=["finite", "not finite"])
def test_one_tensor_may_be_both_operands(create_graph, value):
    x = torch.randn(12, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(12) // 3
    with torch.no_grad():
        x[5, 1] = value

    def gradient(references):
        loss = multi_similarity_loss(x, labels, ref_emb=references, ref_labels=labels.clone())
        return torch.autograd.grad(loss, x, create_graph=create_graph)[0]

    torch.testing.assert_close(gradient(x), gradient(x * 1), equal_nan=True)


def test_a_change_of_the_embeddings_before_the_backward_raises():
    problem = make_problem(20, None, 5, requires_grad=True)
    loss = losses(problem).sum()
    with torch.no_grad():
        problem.anchors.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_of_the_logit_has_its_dtype(dtype):
    problem = make_problem(20, None, 5)
    logit = FORMULA.logit(1.0).to(dtype).requires_grad_()
    row = autograd.pair_statistics(problem, logit)
    (gradient,) = torch.autograd.grad(row.lse_negative.sum(), logit)
    assert gradient.dtype == dtype
    assert gradient[2] != 0
