"""Forms of losses made of smooth ranks: how many similarities are above that of each positive.

    R+_p = sum_{q in P, q != p} sigma((y_q - y_p) / T),   R-_p = sum_N sigma((y_n - y_p) / T)

of one anchor, P its positives and, as their first, the anchor itself.  A form is the mean over p of
a function of the two, with its partial derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fusedml.formulas import Hyperparameter

Parameters = Sequence[Hyperparameter] | Tensor


class RankTerm(NamedTuple):
    """The function of R+ and R-, and its partial derivatives, in the shape of these.

    d_positive: None where it does not look at R+.  d_parameters: by the first parameters, None for
    one that it does not look at.
    """

    value: Tensor
    d_positive: Tensor | None
    d_negative: Tensor
    d_parameters: tuple[Tensor | None, ...] = ()


def share_behind(positive: Tensor, negative: Tensor, _: Parameters) -> RankTerm:
    """1 - (1 + R+) / (1 + R+ + R-): the share of negatives up to the rank of p."""
    rank = 1 + positive + negative
    return RankTerm(negative / rank, -negative / rank.square(), (1 + positive) / rank.square())


def rank(_: Tensor, negative: Tensor, __: Parameters) -> RankTerm:
    """R-."""
    return RankTerm(negative, None, torch.ones_like(negative))


def log_rank(_: Tensor, negative: Tensor, __: Parameters) -> RankTerm:
    """log(1 + R-)."""
    return RankTerm(negative.log1p(), None, 1 / (1 + negative))


def power_of_rank(_: Tensor, negative: Tensor, parameters: Parameters) -> RankTerm:
    """1 - (1 + R-)^-alpha, alpha the second parameter."""
    alpha = parameters[1]
    log = negative.log1p()
    power = torch.exp(-(alpha * log))
    return RankTerm(1 - power, None, alpha * power / (1 + negative), (None, power * log))


def rank_log_rank(_: Tensor, negative: Tensor, __: Parameters) -> RankTerm:
    """(1 + R-) log(1 + R-)."""
    log = negative.log1p()
    return RankTerm((1 + negative) * log, None, log + 1)


def rank_less_log(_: Tensor, negative: Tensor, parameters: Parameters) -> RankTerm:
    """(b R- - log(1 + b R-)) / b^2, b the first parameter."""
    b = parameters[0]
    scaled = b * negative
    value = (scaled - scaled.log1p()) / b**2
    slope = negative / (1 + scaled)
    return RankTerm(value, None, slope, ((negative * slope - 2 * value) / b,))


RANK_FORMS: dict[str, Callable[[Tensor, Tensor, Parameters], RankTerm]] = {
    form.__name__: form
    for form in (
        share_behind,
        rank,
        log_rank,
        power_of_rank,
        rank_log_rank,
        rank_less_log,
    )
}

#: those that look at R+
OF_POSITIVE_RANKS = frozenset({"share_behind"})
