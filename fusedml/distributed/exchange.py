"""What ranks tell each other: rows of tensors, gathered or passed around a ring.

Everything travels as bytes, so that every dtype does, with ``torch.distributed`` alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fusedml.engine.pairs import accumulation_dtype

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def num_ranks(group: dist.ProcessGroup | None = None) -> int:
    """Of a group, or of the default one; 1 without an initialised ``torch.distributed``."""
    is_ready = dist.is_available() and dist.is_initialized()
    return dist.get_world_size(group) if is_ready else 1


def placeholder(like: Tensor, num_rows: int, value: float) -> Tensor:
    """[num_rows, d] in the place of embeddings that are not here, in no memory."""
    return like.new_full((), value).expand(num_rows, like.shape[1])


class Exchange:
    """The rows of all ranks of a group, in the order of the ranks.

    sizes: rows of each rank.  begin, end: which of all rows are this rank's.
    """

    def __init__(self, group: dist.ProcessGroup | None, rows: Tensor, name: str) -> None:
        """Raises ValueError, on every rank, unless all have rows of one width and dtype."""
        default: Any = dist.group.WORLD
        self.group: dist.ProcessGroup = default if group is None else group
        self.rank, self.num_ranks = dist.get_rank(self.group), dist.get_world_size(self.group)
        said = torch.tensor([*rows.shape, _DTYPES.index(rows.dtype)], device=rows.device)
        heard = said.new_empty(self.num_ranks, 3)
        dist.all_gather(list(heard.unbind(0)), said, self.group)
        told = heard.tolist()
        if len({tuple(of_rank[1:]) for of_rank in told}) > 1:
            each = ", ".join(f"[{n}, {d}] {_DTYPES[dtype]}" for n, d, dtype in told)
            raise ValueError(f"{name} must have one width and dtype on all ranks, got {each}")
        self.sizes = [of_rank[0] for of_rank in told]
        self.begin = sum(self.sizes[: self.rank])
        self.end = self.begin + self.sizes[self.rank]
        self.num_rows = sum(self.sizes)

    @property
    def own(self) -> slice:
        """Which of all rows are this rank's."""
        return slice(self.begin, self.end)

    @torch.no_grad()
    def gather(self, x: Tensor) -> Tensor:
        """All rows [N, ...] from the ranks' own [n, ...], n as of ``sizes``."""
        most, width = max(self.sizes), x.shape[1:].numel() * x.dtype.itemsize
        sent = x.new_zeros((most, width), dtype=torch.uint8)
        if len(x):
            sent[: len(x)] = x.contiguous().view(len(x), -1).view(torch.uint8)
        heard = sent.new_empty((self.num_ranks, most, width))
        dist.all_gather(list(heard.unbind(0)), sent, self.group)
        rows = torch.cat([of_rank[:n] for of_rank, n in zip(heard, self.sizes, strict=True)])
        return rows.view(x.dtype).view(self.num_rows, *x.shape[1:])

    @torch.no_grad()
    def collect(self, x: Tensor) -> Tensor:
        """What every rank has of the own rows, [ranks, n, ...], from its [N, ...] of all rows."""
        as_bytes = x.contiguous().view(x.shape[0], -1).view(torch.uint8)
        n = self.sizes[self.rank]
        heard = as_bytes.new_empty((self.num_ranks * n, as_bytes.shape[1]))
        dist.all_to_all_single(heard, as_bytes, [n] * self.num_ranks, self.sizes, self.group)
        return heard.view(x.dtype).view(self.num_ranks, n, *x.shape[1:])

    @torch.no_grad()
    def ring(self, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """The rows of the other ranks, those of one at a time, with their places among all.

        While those of one rank are worked on, the next ones are on their way.
        """
        ends = list(accumulate(self.sizes))
        held, of = x.contiguous(), self.rank
        for step in range(self.num_ranks):
            coming = (of - 1) % self.num_ranks
            waiting, received = [], x.new_empty(self.sizes[coming], *x.shape[1:])
            if step < self.num_ranks - 1:
                waiting = self._pass_on(held, received)
            if step:
                yield slice(ends[of] - self.sizes[of], ends[of]), held
            for request in waiting:
                request.wait()
            held, of = received, coming

    def _pass_on(self, held: Tensor, received: Tensor) -> list[Any]:
        """Starts sending to the next rank, and receiving from the one before."""
        to, source = ((self.rank + k) % self.num_ranks for k in (1, -1))
        operations = []
        for kind, peer, rows in ((dist.isend, to, held), (dist.irecv, source, received)):
            if rows.numel():
                as_bytes = rows.view(len(rows), -1).view(torch.uint8)
                of_world = dist.get_global_rank(self.group, peer)
                operations.append(dist.P2POp(kind, as_bytes, of_world, self.group))
        return dist.batch_isend_irecv(operations) if operations else []

    def joined(self, x: Tensor) -> Tensor:
        """``gather``, differentiable in the own rows: see :class:`_Joined`."""
        return _Joined.apply(x, self)

    def spread(self, x: Tensor) -> Tensor:
        """``gather``; the gradient of an own row is the sum of what all ranks have of it."""
        return _Spread.apply(x, self)


class _Joined(torch.autograd.Function):
    """All rows, of which the own ones are this rank's to differentiate.

    All ranks compute the same loss of all rows, and each the whole gradient of its own: the own
    part of the gradient is complete, and no gradient travels.  The mean over the ranks of what
    follows in a model is that of one process only if each rank's part counts as often as there are
    ranks.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, exchange: Exchange) -> Tensor:
        ctx.exchange = exchange
        return exchange.gather(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad[ctx.exchange.own] * ctx.exchange.num_ranks, None


class _Spread(torch.autograd.Function):
    """All rows, of which each rank makes another part of the loss: their gradients travel home."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, exchange: Exchange) -> Tensor:
        ctx.exchange = exchange
        return exchange.gather(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        parts = ctx.exchange.collect(grad)
        return parts.sum(0, dtype=accumulation_dtype(grad.dtype)).to(grad.dtype), None
