"""Sums of terms of two sets whose rows belong together, strip by strip: the dense formula's."""

from __future__ import annotations

import pytest
import torch

from fusedml.engine import autograd, paired_sums
from fusedml.engine.pairs import PairProblem
from tests.problems import assert_close
from tests.test_pair_sums import LOGIT, TERMS, assert_equal_sums, dense_sums


@pytest.fixture
def sweeps(monkeypatch):
    """How often the strips were swept, of 5 rows or more each."""
    monkeypatch.setattr(paired_sums, "STRIP_ELEMENTS", 100)
    monkeypatch.setattr(paired_sums, "LEAST_ROWS", 5)
    seen = []
    original = paired_sums.PairedSums._swept

    def swept(self, weigh):
        seen.append(self.needs)
        return original(self, weigh)

    monkeypatch.setattr(paired_sums.PairedSums, "_swept", swept)
    return seen


def paired_problem(n: int, dtype: torch.dtype = torch.float64) -> PairProblem:
    a, r = (torch.randn(n, 7).to(dtype).requires_grad_() for _ in range(2))
    labels = torch.randperm(n)
    return PairProblem(a, r, labels, labels.clone(), exclude_diagonal=False)


@pytest.mark.parametrize("name", sorted(TERMS.keys() - {"linear"}))  # those need no pairs
@pytest.mark.parametrize("has_shifts", [False, True])
@pytest.mark.parametrize("both_sides", [False, True])
@pytest.mark.parametrize("n", [1, 5, 23])
def test_the_dense_sums(name, has_shifts, both_sides, n, sweeps) -> None:
    problem, logit = paired_problem(n), LOGIT.clone().requires_grad_()
    lines = n * (2 if both_sides else 1)
    shifts = (0.3 * torch.randn(2, lines).double()).requires_grad_() if has_shifts else None
    arguments = problem, logit, TERMS[name], shifts, both_sides
    leaves = [*problem[:2], logit, *([shifts] if has_shifts else [])]
    ours, exact = autograd.pair_sums(*arguments), dense_sums(*arguments)
    alike = [
        torch.autograd.grad(1.5 * sums.sums.sum(), leaves, retain_graph=True)
        for sums in (ours, exact)
    ]
    torch.testing.assert_close(*alike, rtol=1e-9, atol=1e-9)
    assert len(sweeps) == 1  # the forward has found the gradients of sums that weigh alike
    assert_equal_sums(ours, exact, leaves, leaves)
    assert len(sweeps) == (1 if ours.sums.numel() == 1 else 2)


def test_what_needs_no_gradient(sweeps) -> None:
    problem = paired_problem(12)
    for leaf in problem[:2]:
        sums = autograd.pair_sums(problem, LOGIT, TERMS["hinges"])
        total = (sums.sums * torch.arange(12)).sum()
        expected = torch.autograd.grad(total, leaf)[0]
        fixed = [x if x is leaf else x.detach().clone() for x in problem[:2]]
        other = problem._replace(anchors=fixed[0], references=fixed[1])
        sums = autograd.pair_sums(other, LOGIT, TERMS["hinges"])
        for x in fixed:
            if x is not leaf:
                x.zero_()  # the backward has its own
        actual = torch.autograd.grad((sums.sums * torch.arange(12)).sum(), leaf)[0]
        assert torch.equal(actual, expected)
    with torch.no_grad():
        autograd.pair_sums(problem, LOGIT, TERMS["hinges"])
    assert sweeps[-1] == [False] * 3


def test_other_labels_and_rows_that_are_not_finite(sweeps) -> None:
    problem = paired_problem(9)
    labels = problem.anchor_labels.clone()
    labels[0] = labels[1]
    repeated = problem._replace(anchor_labels=labels, reference_labels=labels)
    autograd.pair_sums(repeated, LOGIT, TERMS["hinges"])
    assert sweeps == []
    for value in (torch.nan, torch.inf):
        anchors = problem.anchors.detach().clone()
        anchors[3, 2] = value
        sums = autograd.pair_sums(problem._replace(anchors=anchors), LOGIT, TERMS["hinges"])
        assert sums.sums.isnan().any()
    assert sweeps == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_accuracy(dtype) -> None:
    given = paired_problem(300, dtype)

    def results(dtype: torch.dtype, sums_of) -> list[torch.Tensor]:
        a, r = (x.detach().to(dtype).requires_grad_() for x in given[:2])
        problem = given._replace(anchors=a, references=r)
        shifts = torch.linspace(-1, 1, 1200, dtype=torch.float64).view(2, -1)
        found = sums_of(problem, LOGIT, TERMS["several"], shifts, True).sums.double()
        return [found, *(x.double() for x in torch.autograd.grad(found.sum(), [a, r]))]

    exact, plain = results(torch.float64, dense_sums), results(dtype, dense_sums)
    ours = results(dtype, autograd.pair_sums)
    floor = 1e-6 if dtype == torch.float32 else 2**-8
    for output, (a, e, p) in enumerate(zip(ours, exact, plain, strict=True)):
        assert_close(a, e, p, floor, f"output {output}")
