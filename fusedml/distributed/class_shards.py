"""Losses against the vectors of classes, each rank having those of other classes.

A rank has C_r of the C vectors.  It measures the rows of all ranks by its own vectors and reduces
the measures to parts of the losses, a few floats a row: what these are, a loss says.  Merged over
the ranks the parts make the loss, and its derivative with respect to a part is that of the whole:

    lse_i = log sum_r e^{lse_ir},    dL/dlse_ir = dL/dlse_i e^{lse_ir - lse_i}.

The gradient of an own vector is complete, since all rows met it.  That of a row is the sum of what
each rank's vectors do to it: it travels once, n d numbers from each rank.  No vector ever does.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fusedml.distributed.exchange import Exchange, num_ranks, placeholder
from fusedml.engine.inputs import Batch
from fusedml.losses import LOSSES
from fusedml.losses.base import IndicesTuple
from fusedml.losses.class_weights import ClassWeightsLoss


def own_classes(num_classes: int, group: dist.ProcessGroup | None = None) -> range:
    """Which of all classes are this rank's: as many for each, but for one.

    num_classes: those of all ranks.  group: a process group, None for the default one.  Without
    ``torch.distributed`` all are.
    """
    ranks = num_ranks(group)
    rank = dist.get_rank(group) if ranks > 1 else 0
    return range(num_classes * rank // ranks, num_classes * (rank + 1) // ranks)


def check_takes_shards(loss: nn.Module) -> None:
    """Raises ValueError unless the ranks may have the vectors of some classes each."""
    if not (isinstance(loss, ClassWeightsLoss) and loss.takes_shards):
        losses = [one for one in LOSSES.values() if issubclass(one, ClassWeightsLoss)]
        served = ", ".join(one.__name__ for one in losses if one.takes_shards)
        raise ValueError(
            f"num_classes serves {served}, got {type(loss).__name__}, of which each rank needs all "
            "there is: leave num_classes out"
        )
    if loss.weight_regularizer is not None:
        raise ValueError(
            "num_classes serves no weight_regularizer, which is a function of all vectors"
        )


def check_shards(sizes: list[int], num_classes: int) -> None:
    """Raises ValueError unless the ranks have all classes together, and each has some."""
    if sum(sizes) != num_classes or min(sizes) == 0:
        raise ValueError(
            "each rank's loss must have the vectors of its own classes, at least one, and all "
            f"together num_classes = {num_classes}, got {sizes} of the ranks"
        )


def loss_of_shards(
    shared: Any,
    num_classes: int,
    rows: Exchange,
    embeddings: Tensor,
    all_labels: Tensor | None,
    indices_tuple: IndicesTuple | None,
) -> Any:
    """A loss against vectors of which this rank has some.

    shared: a copy of the loss, which this changes.  rows: of the embeddings of all ranks.
    """
    own = placeholder(embeddings, shared.num_classes, 0.0)
    classes = Exchange(rows.group, own, "the vectors of the classes")
    check_shards(classes.sizes, num_classes)
    shared.shard = ExchangedShard(rows, classes)
    spread, of_own = rows.spread(embeddings), shared.sub_losses

    def sub_losses(batch: Batch, indices: IndicesTuple | None) -> Any:
        return of_own(batch._replace(embeddings=spread), indices)

    shared.sub_losses = sub_losses
    given = placeholder(embeddings, rows.num_rows, 0.0)
    if shared.embedding_regularizer is not None:
        given = rows.joined(embeddings)
    return shared(given, all_labels, indices_tuple)


class ExchangedShard:
    """A ``fusedml.losses.class_weights.ClassShard``.

    rows, classes: of the embeddings and of the vectors of all ranks.

    As with ``exchange._Joined`` gradients are multiplied by the number of ranks, but for those of
    the vectors, which no mean over the ranks divides.
    """

    def __init__(self, rows: Exchange, classes: Exchange) -> None:
        self.rows, self.classes = rows, classes
        self.begin, self.num_classes = classes.begin, classes.num_rows

    def own(self, parameter: Tensor) -> Tensor:
        return _Scaled.apply(parameter, 1 / self.rows.num_ranks)

    def merged(self, lse: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        return _Merged.apply(lse, own, self.rows)

    def lines(self, x: Tensor) -> Tensor:
        return self.classes.joined(x)


class _Scaled(torch.autograd.Function):
    """x, whose gradient is multiplied by ``factor``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


class _Merged(torch.autograd.Function):
    """Log-sum-exp and sum over the ranks, each of its own rows, in the order of the ranks."""

    @staticmethod
    def forward(ctx: Any, lse: Tensor, own: Tensor, rows: Exchange) -> tuple[Tensor, Tensor]:
        parts = rows.collect(torch.stack([lse, own], 1))
        of_rows = torch.stack([parts[:, :, 0].logsumexp(0), parts[:, :, 1].sum(0)], 1)
        merged, total = (x.contiguous() for x in rows.gather(of_rows).unbind(1))
        # without any other class both are -inf: (-inf) - (-inf) would be NaN
        share = torch.where(lse == -torch.inf, 0, (lse - merged).exp())
        ctx.num_ranks = rows.num_ranks
        ctx.save_for_backward(share)
        return merged, total

    @staticmethod
    def backward(ctx: Any, grad: Tensor, own_grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (share,) = ctx.saved_tensors
        return grad * share * ctx.num_ranks, own_grad * ctx.num_ranks, None
