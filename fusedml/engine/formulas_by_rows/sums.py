"""Sums and means of terms over pairs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fusedml.curves import CURVES
from fusedml.engine.formulas_by_rows.blocks import ROWS, by_rows
from fusedml.engine.formulas_by_rows.listed import listed_sums
from fusedml.engine.pairs import PairProblem
from fusedml.engine.recorded import Tensors
from fusedml.engine.reductions.differentiable import Masks, sums
from fusedml.engine.whole_means import Over
from fusedml.terms import Term, identity


def pair_sums(
    problem: PairProblem,
    logit: Tensor,
    shifts: Tensor | None,
    terms: tuple[Term, ...],
    both_sides: bool,
) -> Tensor:
    """[K, n], or of the rows and of the columns."""
    curve = CURVES[problem.curve]

    def of_side(problem: PairProblem, shifts: Tensor | None) -> Tensor:
        def reduce(x: Tensor, masks: Masks, logit: Tensor, *shifts: Tensor) -> Tensor:
            return sums(x, masks, ROWS, logit, curve, terms, *shifts)

        return by_rows(problem, reduce, (logit,), () if shifts is None else (shifts,))

    if not both_sides:
        return of_side(problem, shifts)
    n = problem.shape[0]
    parts = (None, None) if shifts is None else (shifts[:, :n], shifts[:, n:])
    sides = problem, problem.turned()
    return torch.cat([of_side(*side) for side in zip(sides, parts, strict=True)], 1)


def pair_means(
    problem: PairProblem,
    logit: Tensor,
    _: None,
    terms: tuple[Term, ...],
    weights: Sequence[float],
    over: Over,
    *indices: Tensor,
) -> Tensor:
    """The weighted sum of means, 0-d, of the pairs by label or of listed ones."""

    def of_ones(term: Term) -> Term:
        if over == "kind" or term.is_softplus:
            return Term(term.is_positive, constant=1.0)
        return term._replace(exponent=0.0, square=0.0, linear=0.0, constant=1.0)

    totals = _summed_terms(problem, logit, terms, indices)
    with torch.no_grad():
        numbers = _summed_terms(problem, logit, tuple(map(of_ones, terms)), indices)
        if over == "triplets":
            ones = Term(False, constant=1.0), Term(True, constant=1.0)
            of_others = _summed_terms(problem, logit, ones, indices)
            repeats = of_others[[0 if term.is_positive else 1 for term in terms]]
            numbers = numbers * repeats
        if over in ("together", "triplets"):
            numbers = numbers.sum().expand(len(terms), 1)
    if over == "triplets":
        totals = totals * repeats
    shares = totals.new_tensor(weights) / numbers.sum(1).clamp(min=1)
    return (totals.sum(1) * shares).sum()


def _summed_terms(
    problem: PairProblem, logit: Tensor, terms: tuple[Term, ...], indices: Tensors
) -> Tensor:
    """[K, n], of listed pairs, or of those by label."""
    if indices:
        return listed_sums(problem, logit, None, terms, *indices)
    return pair_sums(problem, logit, None, terms, False)


def centred_means(
    problem: PairProblem,
    scales: Tensor,
    _: None,
    terms: tuple[Term, ...],
    shares: Sequence[float],
    *indices: Tensor,
) -> Tensor:
    """The sum of means, 0-d, of ``engine.whole_centred``."""
    measures = identity(True), identity(False)
    counts = Term(True, constant=1.0), Term(False, constant=1.0)
    logit = scales.new_tensor([1.0, 0.0, 1.0, 0.0])
    totals = _summed_terms(problem, logit, (*measures, *counts), indices).sum(1)
    centres = totals[:2] / totals[2:].detach().clamp(min=1) * totals.new_tensor(shares)
    scales = scales.to(totals)
    logit = torch.stack([scales, -scales * centres], 1).view(4)
    return pair_means(problem, logit, None, terms, [1.0] * len(terms), "kind", *indices)
