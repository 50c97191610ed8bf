"""Reductions of pairs whose measures are given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusedml.curves import CURVES
from fusedml.engine.formulas_by_rows.blocks import ROWS, summed
from fusedml.engine.reductions.differentiable import Masks, statistics, sums
from fusedml.engine.reductions.entries import ListSide, MatrixSide
from fusedml.engine.reductions.given import Given
from fusedml.terms import unpacked


def _of_given(given: Given) -> tuple[Masks, MatrixSide | ListSide]:
    x, lines = given.x, given.lines
    positive, negative = (
        torch.full_like(x, kind, dtype=torch.bool) if mask is None or not kind else mask
        for kind, mask in zip(given.kinds, (given.positive, given.negative), strict=True)
    )
    return (positive, negative), ROWS if lines is None else ListSide(lines, given.num_lines)


def entry_statistics(*args: Any) -> Tensor:
    """[3, lines], of ``Given(*args)``."""
    given = Given(*args)
    masks, side = _of_given(given)

    def block(x: Tensor, logit: Tensor) -> Tensor:
        return statistics(x, masks, side, logit, CURVES[given.curve], given.offsets)

    return summed(block, given.x, given.logit)


def entry_sums(*args: Any) -> Tensor:
    """[K, lines]; after those of ``Given``: shifts and terms."""
    *of_given, shifts, terms = args
    given, numbers = Given(*of_given), unpacked(terms)
    masks, side = _of_given(given)

    def block(x: Tensor, logit: Tensor, *shifts: Tensor) -> Tensor:
        of_lines, curve = shifts[0] if shifts else None, CURVES[given.curve]
        return sums(x, masks, side, logit, curve, numbers, of_lines, given.offsets)

    return summed(block, given.x, given.logit, *(() if shifts is None else (shifts,)))
