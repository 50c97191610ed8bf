"""Lists of pairs or triplets in two sweeps: counted, then written at their places.

Memory is the list: nothing is allocated before its size is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

# Up to this many entries of each list the first sweep keeps what it counts, and there is no second.
FEW_ENTRIES = 1 << 19


def sort_keys(x: Tensor) -> Tensor:
    """Integers that are ordered as the float32 or float64 numbers are; -0.0 is 0.0.

    A stable sort of them takes a tenth of the time.
    """
    x = x + 0.0  # no -0.0
    return _turned(x.view(torch.int64 if x.dtype == torch.float64 else torch.int32))


def of_sort_keys(keys: Tensor) -> Tensor:
    """The numbers that have these keys."""
    return _turned(keys).view(torch.float64 if keys.dtype == torch.int64 else torch.float32)


def _turned(bits: Tensor) -> Tensor:
    """The bits of negative numbers descend."""
    sign = 63 if bits.dtype == torch.int64 else 31
    return bits ^ ((bits >> sign) & torch.iinfo(bits.dtype).max)


def ascending_order(lines: Tensor, x: Tensor) -> Tensor:
    """The order of entries by their lines, then by x; of equal ones the order given."""
    order = torch.argsort(sort_keys(x), stable=True)
    return order[torch.argsort(lines[order].to(torch.int32), stable=True)]


class Part(NamedTuple):
    """What some lines list: each its heads with every column that it keeps.

    heads: numbers [k] each, the first of a pair, or the first two of a triplet.
    keeps: bool [k, m].
    ascending: None, and a line lists its columns from the first to the last; or [k, m], and it
        lists them by these numbers, of equal ones the first column first.
    to: which of several lists it is a part of.
    """

    heads: tuple[Tensor, ...]
    keeps: Tensor
    ascending: Tensor | None = None
    to: int = 0

    def entries(self) -> Tensor:
        """[heads + 1, entries], int64: the heads of each entry, and its column."""
        lines, columns = torch.where(self.keeps)
        if self.ascending is not None:
            order = ascending_order(lines, self.ascending[lines, columns])
            lines, columns = lines[order], columns[order]
        return torch.stack([*(head[lines] for head in self.heads), columns])


class Lists:
    """Lists that are made of parts, in their order.

    parts: called once or twice; each time it yields the same parts.
    num_heads: of each list.
    check: is given the number of entries of all lists before they are allocated.
    """

    def __init__(
        self,
        parts: Callable[[], Iterable[Part]],
        num_heads: tuple[int, ...],
        check: Callable[[int], None],
        device: torch.device,
    ) -> None:
        self._parts, self._num_heads, self._check = parts, num_heads, check
        self._device = device

    def written(self) -> tuple[Tensor, ...]:
        """The lists, one after the other: the heads of each, and its columns; int64, 1-D."""
        # what is written here as it is counted needs no second sweep.  One tensor each, not one a
        # part: small ones that stay would keep large ones from using memory again
        few = [self._empty(k, FEW_ENTRIES) for k in self._num_heads]
        sizes = [0] * len(few)
        for part in self._parts():
            entries = part.entries() if part.keeps.numel() <= FEW_ENTRIES else None
            size = int(torch.count_nonzero(part.keeps)) if entries is None else entries.shape[1]
            begin = sizes[part.to]
            sizes[part.to] = end = begin + size
            if end <= FEW_ENTRIES:
                few[part.to][:, begin:end] = part.entries() if entries is None else entries
        self._check(sum(sizes))
        if max(sizes) <= FEW_ENTRIES:
            lists = [of_list[:, :size].clone() for of_list, size in zip(few, sizes, strict=True)]
        else:
            del few
            lists = [self._empty(k, size) for k, size in zip(self._num_heads, sizes, strict=True)]
            self._write(lists)
        return tuple(numbers for of_list in lists for numbers in of_list)

    def _empty(self, num_heads: int, size: int) -> Tensor:
        return torch.empty((num_heads + 1, max(0, size)), dtype=torch.int64, device=self._device)

    def _write(self, lists: list[Tensor]) -> None:
        ends = [0] * len(lists)
        for part in self._parts():
            entries = part.entries()
            begin = ends[part.to]
            ends[part.to] = end = begin + entries.shape[1]
            if end <= lists[part.to].shape[1]:
                lists[part.to][:, begin:end] = entries
        if ends != [of_list.shape[1] for of_list in lists]:
            raise RuntimeError(
                "the pairs were measured twice, and their distances were not the same: distance "
                "must give equal values for equal embeddings"
            )
