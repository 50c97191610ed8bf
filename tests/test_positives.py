"""The positive pairs of few pairs, which are compared, and of many, whose labels are sorted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fusedml.engine import positives
from fusedml.engine.label_sets import packed
from fusedml.engine.pairs import PairProblem


def labels_of(n: int, seed: int, are_sets: bool) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if are_sets:
        return packed(torch.rand(n, 7, generator=generator) < 0.3)
    return torch.randint(5, (n,), generator=generator)


@pytest.mark.parametrize("are_sets", [False, True])
@pytest.mark.parametrize(
    ("m", "exclude_diagonal", "offset"),
    [(None, True, 0), (None, False, 0), (17, True, 0), (17, True, 6), (8, False, 0), (0, False, 0)],
)
def test_the_same_pairs_in_the_same_order(monkeypatch, are_sets, m, exclude_diagonal, offset):
    references = None if m is None else torch.zeros(m, 2)
    labels, others = labels_of(11, 0, are_sets), None if m is None else labels_of(m, 1, are_sets)
    problem = PairProblem(torch.zeros(11, 2), references, labels, others)
    problem = problem._replace(exclude_diagonal=exclude_diagonal, self_offset=offset)
    compared = positives.positive_pairs(problem)
    monkeypatch.setattr(positives, "_FEW_PAIRS", -1)
    listed = positives.positive_pairs(problem)
    for one, other in zip(compared, listed, strict=True):
        assert torch.equal(one, other)
