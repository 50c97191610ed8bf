"""What a rank receives, counted where it calls ``torch.distributed``."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch.distributed as dist
from torch import Tensor


class CountedBytes:
    """What this rank receives while the block runs."""

    def __enter__(self) -> CountedBytes:
        self.received = 0
        gather, irecv, to_all = dist.all_gather, dist.irecv, dist.all_to_all_single
        own = dist.get_rank()

        def counted_gather(outputs: list[Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.received += sum(y.nbytes for i, y in enumerate(outputs) if i != own)
            return gather(outputs, x, *args, **kwargs)

        def counted_batch(operations: list[Any]) -> Any:
            self.received += sum(op.tensor.nbytes for op in operations if op.op is irecv)
            return exchange_all(operations)

        def counted_to_all(output: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Any:
            others = dist.get_world_size() - 1
            self.received += output.nbytes // dist.get_world_size() * others
            return to_all(output, x, *args, **kwargs)

        exchange_all = dist.batch_isend_irecv
        self.patches = [
            mock.patch.object(dist, "all_gather", counted_gather),
            mock.patch.object(dist, "batch_isend_irecv", counted_batch),
            mock.patch.object(dist, "all_to_all_single", counted_to_all),
        ]
        for patch in self.patches:
            patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        for patch in self.patches:
            patch.stop()
