"""The random subset of a batch with the largest loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fusedml.engine.arguments import check_count, check_object
from fusedml.miners.base import BaseMiner, MinerOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


class MaximumLossMiner(BaseMiner):
    """Of ``num_trials`` random subsets of the batch, the one with the largest loss.

    Returns the numbers of its embeddings, int64 [output_batch_size], in the order drawn: a part of
    the batch to go on with (``embeddings[chosen]``), not an index tuple.  The subsets are drawn
    without replacement by ``torch.randperm`` on the CPU, and so are the same on every device.

    Args:
        loss: (embeddings, labels, indices_tuple) -> a number, evaluated without gradients.
        miner: (embeddings, labels) -> the index tuple of a subset; None for all its pairs.
        output_batch_size: embeddings of a subset, at most those of the batch; None for half of the
            batch, rounded up.
        num_trials: at least 1.

    Records with ``collect_stats``: ``max_loss`` and ``avg_loss`` of the trials.

    ``MaximumLossMiner`` of early versions of pytorch-metric-learning, which 2.9 has no more.
    """

    needs_labels = False
    measures_pairs = False

    def __init__(
        self,
        loss: Callable[..., Tensor],
        miner: Callable[..., Sequence[Tensor]] | None = None,
        output_batch_size: int | None = None,
        num_trials: int = 5,
        **kwargs: Unpack[MinerOptions],
    ) -> None:
        super().__init__(**kwargs)
        check_object("loss", loss)
        if miner is not None:
            check_object("miner", miner)
        if output_batch_size is not None:
            output_batch_size = check_count("output_batch_size", output_batch_size)
        self.loss, self.miner = loss, miner
        self.output_batch_size = output_batch_size
        self.num_trials = check_count("num_trials", num_trials)
        self.add_to_recordable_attributes(list_of_names=["num_trials"])
        self.add_to_recordable_attributes(list_of_names=["avg_loss", "max_loss"], is_stat=True)

    def mine(
        self, embeddings: Tensor, labels: Tensor | None, ref_emb: Tensor, ref_labels: Tensor | None
    ) -> Tensor:
        if ref_emb is not embeddings:
            raise ValueError("ref_emb is not supported for MaximumLossMiner")
        n = embeddings.shape[0]
        size = (n + 1) // 2 if self.output_batch_size is None else self.output_batch_size
        if size > n:
            raise ValueError(
                f"output_batch_size must be at most the number of embeddings, {n}, got {size}"
            )
        orders = [torch.randperm(n, device="cpu") for _ in range(self.num_trials)]
        subsets = [order[:size].to(embeddings.device) for order in orders]
        losses = torch.stack([self._loss_of(embeddings, labels, chosen) for chosen in subsets])
        if self.collect_stats:
            self.avg_loss, self.max_loss = losses.mean().item(), losses.max().item()
        return subsets[int(losses.argmax())]

    def _loss_of(self, embeddings: Tensor, labels: Tensor | None, chosen: Tensor) -> Tensor:
        part = embeddings[chosen]
        part_labels = None if labels is None else labels[chosen]
        mined = None if self.miner is None else self.miner(part, part_labels)
        return self.loss(part, part_labels, mined).detach()

    def output_assertion(self, output: Any) -> None:
        """A subset is no index tuple: there is nothing to count."""
