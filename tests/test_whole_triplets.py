"""The mean of all triplets of a small problem, found with its gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fusedml.engine import autograd, whole_thresholds
from fusedml.engine.pairs import PairProblem, measure_matrix
from fusedml.engine.reductions.thresholds import DirectSums, Window

WINDOWS = {
    "all": (-math.inf, -math.inf, math.inf),
    "above 0": (-math.inf, -0.2, math.inf),
    "above 0, and more": (-0.2, -math.inf, math.inf),
    "between": (-0.1, -0.2, 0.3),
}


def problem_of(labels: Tensor, measure: str, others: Tensor | None = None) -> PairProblem:
    generator = torch.Generator().manual_seed(5)
    sides = [
        None
        if x is None
        else torch.randn(len(x), 4, generator=generator, dtype=torch.float64).requires_grad_()
        for x in (labels, others)
    ]
    return PairProblem(
        *sides, labels, others, measure, exclude_diagonal=others is None, normalize=True
    )


def expected(problem: PairProblem, numbers: Tensor, form: str) -> Tensor:
    """From a list of all triplets."""
    a = torch.nn.functional.normalize(problem.anchors)
    r = a if problem.references is None else torch.nn.functional.normalize(problem.references)
    y = measure_matrix(a, r, problem.measure) * (1 if problem.measure == "dot" else -1)
    columns = problem.anchor_labels if problem.references is None else problem.reference_labels
    same = problem.anchor_labels[:, None] == columns
    positive = (
        same & ~torch.eye(*same.shape, dtype=torch.bool) if problem.exclude_diagonal else same
    )
    rows, p, n = (positive[:, :, None] & ~same[:, None]).nonzero().unbind(1)
    u = y[rows, n] - y[rows, p]
    margin, at_least, above, below = numbers
    u = u[(u >= at_least) & (u > above) & (u < below)]
    f = torch.relu if form == "hinge" else torch.nn.functional.softplus
    return f(u + margin).sum() / max(len(u), 1)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(
    ("form", "measure", "has_references", "learns"),
    [
        ("hinge", "euclidean", False, False),
        ("hinge", "dot", True, True),
        ("softplus", "squared_euclidean", False, True),
    ],
)
@pytest.mark.parametrize(("most", "in_rows"), [(2, False), (2, True), (12, False), (12, True)])
def test_value_and_gradients(
    form, measure, has_references, learns, window, most, in_rows, monkeypatch
) -> None:
    if in_rows:
        monkeypatch.setattr(whole_thresholds, "_FEW_TRIPLETS", 0)
    # as many positives in each row, or more than are compared one by one
    labels = torch.arange(14) % 7 if most == 2 else torch.arange(14).clamp(max=12) // 12
    others = torch.arange(15) % 2 if has_references else None
    problem = problem_of(labels, measure, others)
    numbers = torch.tensor([0.2, *WINDOWS[window]], dtype=torch.float64, requires_grad=learns)
    found = autograd.mean_triplet_loss(problem, numbers, form)
    right = expected(problem, numbers, form)
    torch.testing.assert_close(found, right)
    leaves = [x for x in (*problem[:2], numbers) if x is not None and x.requires_grad]
    grads = list(torch.autograd.grad(3 * found, leaves))
    rights = list(torch.autograd.grad(3 * right, leaves))
    for grad, of_formula in zip(grads, rights, strict=True):
        torch.testing.assert_close(grad, of_formula)


@pytest.mark.parametrize("labels", [torch.arange(6), torch.zeros(6, dtype=torch.int64)])
def test_no_triplet(labels) -> None:
    problem = problem_of(labels, "euclidean")
    numbers = torch.tensor([0.2, -math.inf, -0.2, math.inf], dtype=torch.float64)
    loss = autograd.mean_triplet_loss(problem, numbers, "hinge")
    assert loss.item() == 0
    assert torch.autograd.grad(loss, problem.anchors)[0].eq(0).all()


def test_a_hinge_that_counts_where_it_opens_needs_no_comparison() -> None:
    t = torch.tensor([[0.4, 0.35]])
    at = t - 0.1
    y = torch.cat([at, at.nextafter(at + 1), at.nextafter(at - 1), at.new_tensor([[-1e37]])], 1)
    sums = DirectSums(t, Window(0.1, -math.inf, -0.1, math.inf), True, Tensor, torch.float64)
    assert sums.is_open
    values, slopes = sums._terms(y, t.T[:, :, None], lambda _, shape: torch.empty(shape))
    assert torch.equal(slopes, (y > at.T[:, :, None]).float())
    assert torch.equal(values, torch.relu(y - at.T[:, :, None]))
