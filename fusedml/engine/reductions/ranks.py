"""Smooth ranks of a line's positives among its negatives, and losses made of them.

    R-_k = sum over the negatives of sigma((y - t_k) / T),   t_k the hardnesses of the positives,

a sum against thresholds (``engine.reductions.thresholds``) whose results are wanted one by one.
R+ of the positives among themselves follows from t alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fusedml.engine.reductions.entries import Side
from fusedml.engine.reductions.thresholds import ABSENT, Buffer
from fusedml.ranks import RANK_FORMS, RankTerm


class Ranks:
    """R- of some lines, and the weights of their pairs.

    t: [lines, k], the hardnesses of the positives divided by T, padded with ABSENT.  The blocks'
    are divided, too.
    """

    def __init__(self, t: Tensor, wide: torch.dtype) -> None:
        self.t = t.T.contiguous()
        self.sums = torch.zeros_like(self.t, dtype=wide)
        # of the backward: sum of sigma', and of u sigma'
        self.slopes = torch.zeros_like(self.t)
        self.moments: Tensor | None = None

    def meets(self, y: Tensor, side: Side) -> bool:
        """Whether there is anything to be added."""
        return y.numel() > 0 and len(self.t) > 0

    def add(self, y: Tensor, side: Side, buffer: Buffer) -> None:
        """Takes in the pairs of a block, of hardness y."""
        shape = (y.shape[0], y.shape[1])
        for t, sums in zip(self.t, self.sums, strict=True):
            step = torch.sub(y, side.spread(t[side.lines]), out=buffer(1, shape)).sigmoid_()
            sums[side.lines] += side.sum(step)

    def weigh(self, y: Tensor, side: Side, g: Tensor, out: Tensor, buffer: Buffer) -> None:
        """Adds sum_k g_k dR_k/dy of the pairs of a block to ``out``.  g: [k, lines]."""
        shape = (y.shape[0], y.shape[1])
        for k, t in enumerate(self.t):
            of_lines = side.spread(t[side.lines])
            step = torch.sub(y, of_lines, out=buffer(1, shape)).sigmoid_()
            slope = torch.addcmul(step, step, step, value=-1, out=buffer(2, shape))
            self.slopes[k][side.lines] += side.sum(slope)
            out.addcmul_(slope, side.spread(g[k][side.lines]))
            if self.moments is not None:
                moment = torch.sub(y, of_lines, out=buffer(1, shape)).mul_(slope)
                self.moments[k][side.lines] += side.sum(moment)


class RankLosses:
    """The mean of a form over the positives of each line, and its derivatives.

    numbers: T and the form's parameters.  t: [lines, k], as of ``Ranks``.
    """

    def __init__(self, t: Tensor, numbers: Tensor, form: str) -> None:
        _, *self.parameters = numbers.tolist()
        self.form, self.t = RANK_FORMS[form], t
        self.is_real = t < ABSENT
        real = self.is_real.to(t.dtype)
        self.share = real / real.sum(1, keepdim=True).clamp(min=1)

    def positive_ranks(self) -> Tensor:
        """R+, [lines, k]."""
        ranks = torch.zeros_like(self.t)
        y = self.t.masked_fill(~self.is_real, -ABSENT)
        for k in range(self.t.shape[1]):
            ranks[:, k] = torch.sigmoid(y - self.t[:, k, None]).sum(1) - 0.5
        return ranks

    def _term(self, ranks: Tensor) -> RankTerm:
        return self.form(self.positive_ranks(), ranks, self.parameters)

    def values(self, ranks: Tensor) -> Tensor:
        """The losses, [lines].  ranks: R-, [lines, k]."""
        return (self._term(ranks).value * self.share).sum(1)

    def gradient(self, ranks: Tensor, losses_grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """dL/dR- [lines, k], dL/dt by R+ [lines, k], dL/d(parameters), dL/dlog T by R+."""
        term, upstream = self._term(ranks), losses_grad[:, None] * self.share
        of_parameters = upstream.new_zeros(len(self.parameters))
        for k, slope in enumerate(term.d_parameters):
            if slope is not None:
                of_parameters[k] = (upstream * slope).sum()
        of_t, of_log = torch.zeros_like(self.t), upstream.new_zeros(())
        if term.d_positive is not None:
            g = upstream * term.d_positive
            y = self.t.masked_fill(~self.is_real, -ABSENT)
            for k in range(self.t.shape[1]):
                u = y - self.t[:, k, None]
                step = torch.sigmoid(u)
                weights = g[:, k, None] * (step - step.square())
                of_log = of_log - (weights * u).sum()
                weights[:, k] -= weights.sum(1)
                of_t += weights
        return upstream * term.d_negative, of_t, of_parameters, of_log
