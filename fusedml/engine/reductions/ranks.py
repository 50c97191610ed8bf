"""Smooth ranks of a line's positives among its negatives, and losses made of them.

    R-_k = sum over the negatives of sigma((y - t_k) / T),   t_k the hardnesses of the positives,

a sum against thresholds (``engine.reductions.thresholds``) whose results are wanted one by one.
R+ of the positives among themselves follows from t alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fusedml.engine.reductions.entries import Side
from fusedml.engine.reductions.thresholds import ABSENT, Buffer, threshold_parts
from fusedml.ranks import OF_POSITIVE_RANKS, RANK_FORMS


class Ranks:
    """R- of some lines, and the weights of their pairs.

    t: [lines, k], the hardnesses of the positives divided by T, padded with ABSENT.  The blocks'
    are divided, too.  keeps_steps: whether the one block that is added is weighed next, its memory
    not being scratch.
    """

    def __init__(self, t: Tensor, wide: torch.dtype, keeps_steps: bool = False) -> None:
        self.t = t.T.contiguous()
        self.sums = torch.zeros_like(self.t, dtype=wide)
        self.steps: list[Tensor] | None = [] if keeps_steps else None
        # of the backward: sum of sigma', and of u sigma'
        self.slopes = torch.zeros_like(self.t)
        self.moments: Tensor | None = None

    def meets(self, y: Tensor, side: Side) -> bool:
        """Whether there is anything to be added."""
        return y.numel() > 0 and len(self.t) > 0

    def add(self, y: Tensor, side: Side, buffer: Buffer) -> None:
        """Takes in the pairs of a block, of hardness y."""
        for part in threshold_parts(self.t, y):
            step = self._step(y, side.spread(self.t[part, side.lines]), buffer)
            self.sums[part, side.lines] += side.sum(step)
            if self.steps is not None:
                self.steps.append(step)

    def _step(self, y: Tensor, t: Tensor, buffer: Buffer) -> Tensor:
        """sigma of a block and of some thresholds, spread to [k, ...]."""
        return torch.sub(y, t, out=buffer(1, (len(t), *y.shape))).sigmoid_()

    def weigh(self, y: Tensor, side: Side, g: Tensor, out: Tensor, buffer: Buffer) -> None:
        """Adds sum_k g_k dR_k/dy of the pairs of a block to ``out``.  g: [k, lines]."""
        for number, part in enumerate(threshold_parts(self.t, y)):
            of_lines = side.spread(self.t[part, side.lines])
            step = self.steps[number] if self.steps else self._step(y, of_lines, buffer)
            slope = torch.addcmul(step, step, step, value=-1, out=buffer(2, step.shape))
            self.slopes[part, side.lines] += side.sum(slope)
            if self.moments is not None:
                moment = torch.sub(y, of_lines, out=step).mul_(slope)
                self.moments[part, side.lines] += side.sum(moment)
            of_parts = side.spread(g[part, side.lines])
            if len(slope) == 1:
                out.addcmul_(slope[0], of_parts[0])
            else:
                out.add_(slope.mul_(of_parts).sum(0))


class RankLosses:
    """The mean of a form over the positives of each line, and its derivatives.

    t: [lines, k], as of ``Ranks``.  ranks: R-, [lines, k].  numbers: T and the form's parameters.
    is_full: whether t is known not to be padded.
    """

    def __init__(
        self, t: Tensor, ranks: Tensor, numbers: Tensor, form: str, is_full: bool = False
    ) -> None:
        _, *self.parameters = numbers.tolist()
        # _y: the positives as pairs, which meet nothing where there is none
        self.t = self._y = t
        if is_full:
            self.share = torch.full_like(t, 1 / max(t.shape[1], 1))
        else:
            is_real = t < ABSENT
            real = is_real.to(t.dtype)
            self.share = real / real.sum(1, keepdim=True).clamp_(min=1)
            self._y = t.masked_fill(is_real.logical_not_(), -ABSENT)
        positive = self._positive_ranks() if form in OF_POSITIVE_RANKS else ranks  # not looked at
        self.term = RANK_FORMS[form](positive, ranks, self.parameters)

    def _positive_ranks(self) -> Tensor:
        """R+, [lines, k]."""
        parts = [self._among(part).sigmoid_().sum(2) for part in self._parts()]
        ranks = parts[0] if len(parts) == 1 else torch.cat([self.t[:, :0], *parts], 1)
        return ranks.sub_(0.5)

    def _parts(self) -> Iterator[slice]:
        return threshold_parts(self.t.T, self._y)

    def _among(self, part: slice) -> Tensor:
        """u of all positives and of some as thresholds, [lines, thresholds, k]."""
        return self._y.unsqueeze(1) - self.t[:, part].unsqueeze(2)

    def values(self) -> Tensor:
        """The losses, [lines]."""
        return (self.term.value * self.share).sum(1)

    def gradient(self, losses_grad: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """dL/dR- [lines, k], dL/dt by R+ [lines, k], and of each line dL/d(parameters),
        [parameters, lines], and dL/dlog T by R+, [lines].

        losses_grad: [lines]; None for 1.
        """
        term = self.term
        upstream = self.share if losses_grad is None else losses_grad[:, None] * self.share
        of_parameters = upstream.new_zeros(len(self.parameters), len(upstream))
        for k, slope in enumerate(term.d_parameters):
            if slope is not None:
                of_parameters[k] = (upstream * slope).sum(1)
        of_t, of_log = torch.zeros_like(self.t), upstream.new_zeros(len(upstream))
        if term.d_positive is not None:
            g = upstream * term.d_positive
            for part in self._parts():
                u = self._among(part)
                step = torch.sigmoid(u)
                weights = torch.addcmul(step, step, step, value=-1).mul_(g[:, part].unsqueeze(2))
                of_log -= u.mul_(weights).sum((1, 2))
                of_t += weights.sum(1)
                of_t[:, part] -= weights.sum(2)
        return upstream * term.d_negative, of_t, of_parameters, of_log


class RankWeights:
    """Some lines in the backward.

    ranks: of the forward.  upstream: dL/d(losses), None for 1.  g: dL/dR-, [k, lines].
    """

    def __init__(self, ranks: Ranks, losses: RankLosses, upstream: Tensor | None) -> None:
        g, self.of_t, self.of_parameters, self.of_log = losses.gradient(upstream)
        self.g = g.T.contiguous()
        self.ranks = ranks

    def of_thresholds(self) -> Tensor:
        """dL/dt, [lines, k], once the negatives have been weighed."""
        return self.of_t - (self.g * self.ranks.slopes).T

    def of_numbers(self, numbers: Tensor) -> Tensor:
        """dL/d(numbers) of each line, [numbers, lines], if the ranks have moments."""
        assert self.ranks.moments is not None
        of_log = self.of_log - (self.g * self.ranks.moments).sum(0)
        of_temperature = of_log / numbers[0].to(of_log)
        return torch.cat([of_temperature[None], self.of_parameters]).to(numbers)


def rank_weights(
    t: Tensor,
    ranks: Tensor,
    numbers: Tensor,
    form: str,
    upstream: Tensor,
    needs_numbers: bool,
) -> RankWeights:
    """Of lines whose ranks, R- [lines, k], are known."""
    lines = Ranks(t, t.dtype)
    if needs_numbers:
        lines.moments = torch.zeros_like(lines.t)
    return RankWeights(lines, RankLosses(t, ranks, numbers, form), upstream)
