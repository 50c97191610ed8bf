"""Against references the measures are kept for the backward where their matrix fits."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fusedml.engine import autograd, kept
from fusedml.engine.pairs import MEASURES
from tests.losses.made import PAIR_LOSSES, make_batch, make_loss
from tests.problems import inputs_of, make_problem
from tests.test_flops import IN_PLACE

LOGIT = torch.tensor([-2.0, 1.0, 8.0, -4.0], dtype=torch.float64)


def recomputing(monkeypatch) -> None:
    monkeypatch.setattr(kept, "MOST_BYTES", 0)


def totals(problem, logit, thresholds=None):
    row = autograd.pair_statistics(problem, logit, thresholds)
    losses = autograd.row_losses(problem, logit, "softplus_sum", torch.tensor([2.0, 5.0]).double())
    both = autograd.two_sided_statistics(problem, logit)
    parts = [row.lse_negative, losses, both[0].lse_negative, both[1].lse_negative]
    return sum(torch.where(part.isfinite(), part, 0).sin().sum() for part in parts)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("n, m, scale", [(900, 801, 1.0), (3, 300_000, 1.0), (850, 900, 60.0)])
def test_kept_and_recomputed_agree(n, m, scale, measure, monkeypatch) -> None:
    problem = make_problem(n, m, 40, measure, d=5, requires_grad=True)
    logit = (LOGIT * scale).requires_grad_()
    inputs = [*inputs_of(problem), logit]
    keeping = totals(problem, logit)
    first = [keeping, *torch.autograd.grad(keeping, inputs)]
    recomputing(monkeypatch)
    again = totals(problem, logit)
    torch.testing.assert_close(first, [again, *torch.autograd.grad(again, inputs)])


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_losses_agree(name, monkeypatch) -> None:
    embeddings, labels = make_batch(900)
    references, ref_labels = make_batch(830, seed=1)
    inputs = [embeddings, references]

    def step():
        value = make_loss(name).double()(embeddings, labels, None, references, ref_labels)
        return [value, *torch.autograd.grad(value, inputs)]

    keeping = step()
    recomputing(monkeypatch)
    torch.testing.assert_close(keeping, step())


def products_of_a_step(n: int, m: int, d: int = 16) -> float:
    """In units of one product of all pairs."""
    problem = make_problem(n, m, 40, dtype=torch.float32, d=d, requires_grad=True)
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        row = autograd.pair_statistics(problem, LOGIT)
        torch.autograd.grad(row.lse_negative.sum(), inputs_of(problem))
    return counter.get_total_flops() / (2 * n * m * d)


def test_three_products_in_place_of_four(monkeypatch) -> None:
    assert products_of_a_step(900, 1000) == pytest.approx(3, abs=0.1)
    recomputing(monkeypatch)
    assert products_of_a_step(900, 1000) == pytest.approx(4, abs=0.1)


def test_when_measures_are_kept() -> None:
    problem = make_problem(900, 1000, 40, dtype=torch.float32, requires_grad=True)
    assert kept.keeps_measures("auto", problem)
    assert kept.keeps_measures("torch", problem)
    assert not kept.keeps_measures("cuda", problem)
    with torch.no_grad():
        assert not kept.keeps_measures("auto", problem)
    fixed = make_problem(900, 1000, 40, dtype=torch.float32)
    assert not kept.keeps_measures("auto", fixed)
    assert kept.keeps_measures("auto", fixed, torch.zeros(4, requires_grad=True))
    assert not kept.keeps_measures("auto", make_problem(900, None, 40, requires_grad=True))
    limit = kept.MOST_BYTES // 4
    for m, is_kept in ((limit, True), (limit + 1, False)):
        wide = make_problem(1, m, 1, dtype=torch.float32, d=1, requires_grad=True)
        assert kept.keeps_measures("auto", wide) == is_kept
