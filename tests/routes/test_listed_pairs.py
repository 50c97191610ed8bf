"""Segment sums and the list of positive pairs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fusedml.engine import autograd, list_sizes
from fusedml.engine.pairs import PairProblem
from fusedml.engine.positives import num_positives, positive_pairs, positive_strips
from fusedml.engine.reductions.given import Given
from fusedml.engine.routes.pair_losses import has_negative
from fusedml.formulas import pack
from fusedml.losses import IntraPairVarianceLoss


def segment_logsumexp(values: Tensor, segments: Tensor, num_segments: int) -> Tensor:
    entries = values, [False, True], None, None, segments, num_segments
    return autograd.entry_statistics(Given(*entries, pack(1, 0, 1, 0))).lse_negative


def test_segment_logsumexp() -> None:
    values = torch.tensor([700.0, 710, -900, 3, -torch.inf], dtype=torch.float64)
    values.requires_grad_()
    segments = torch.tensor([2, 2, 0, 3, 4])
    lse = segment_logsumexp(values, segments, 6)
    expected = torch.logsumexp(values[:2], 0)
    torch.testing.assert_close(lse[[0, 2, 3]], torch.stack([values[2], expected, values[3]]))
    assert torch.isneginf(lse[[1, 4, 5]]).all()
    (actual,) = torch.autograd.grad(lse[[0, 2, 3]].sum() + lse[[1, 5]].clamp(min=0).sum(), values)
    torch.testing.assert_close(actual[:2], torch.softmax(values[:2], 0).detach())
    assert torch.isfinite(actual).all()


def test_segment_logsumexp_of_nan_and_of_nothing() -> None:
    values = torch.tensor([1.0, torch.nan, 2.0])
    lse = segment_logsumexp(values, torch.tensor([0, 1, 1]), 2)
    assert lse[0] == 1
    assert lse[1].isnan()
    nothing = segment_logsumexp(torch.zeros(0), torch.zeros(0, dtype=torch.int64), 2)
    assert torch.isneginf(nothing).all()


@pytest.mark.parametrize("shape", [(7, None), (7, 7), (7, 4), (0, 3), (3, 0), (1, None)])
@pytest.mark.parametrize("exclude_diagonal", [True, False])
def test_positive_pairs(shape: tuple[int, int | None], exclude_diagonal: bool) -> None:
    n, m = shape
    if m not in (None, n) and exclude_diagonal:
        pytest.skip("a diagonal needs a square")
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(-1, 2, (n,), generator=generator)
    other = None if m is None else (labels if exclude_diagonal else torch.arange(m) % 3 - 1)
    x = torch.zeros(n, 2)
    r = None if m is None else torch.zeros(m, 2)
    problem = PairProblem(x, r, labels, other, "dot", exclude_diagonal)
    columns = labels if other is None else other
    mask = labels[:, None] == columns
    if exclude_diagonal:
        mask = mask & ~torch.eye(n, dtype=torch.bool)
    expected = torch.where(mask)
    for a, e in zip(positive_pairs(problem), expected, strict=True):
        assert torch.equal(a, e)
    for most in (1, 3, 1000):
        strips = list(positive_strips(problem, most))
        assert all(len(rows) <= most or len(rows.unique()) == 1 for rows, _ in strips)
        assert torch.equal(torch.cat([rows for rows, _ in strips] or [expected[0]]), expected[0])
        assert torch.equal(torch.cat([cols for _, cols in strips] or [expected[1]]), expected[1])
    assert torch.equal(num_positives(problem), mask.sum(1))
    assert has_negative(problem) == (labels[:, None] != columns).any()


class Called(TorchDispatchMode):
    """Counts the calls of an operator."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.times = name, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.times += func.name().endswith(f"::{self.name}")
        return func(*args, **(kwargs or {}))


def test_a_long_list_is_measured_once(monkeypatch) -> None:
    """Of each kind: what a loss makes of the measures, and of their mean, asks for them twice."""
    monkeypatch.setattr(list_sizes, "_MOST_HELD", 1000)
    monkeypatch.setattr(list_sizes, "_FEW_LISTED", 1000)
    n, listed = 1200, 4000
    rows, columns = torch.randint(n, (2, 2 * listed))
    indices = rows[:listed], columns[:listed], rows[listed:], columns[listed:]
    x = torch.randn(n, 600, requires_grad=True)
    with Called("pair_values") as values:
        loss = IntraPairVarianceLoss()(x, None, indices)
    with Called("pair_values_gradient") as gradients:
        loss.backward()
    assert (values.times, gradients.times) == (2, 2)
