"""A queue of embeddings, in whose newest rows a loss finds those of the batch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fusedml.engine.arguments import NamedArguments, check_count
from fusedml.engine.inputs import check_embeddings
from fusedml.engine.labels import common_dtype
from fusedml.engine.pairs import widest_dtype

Rings = list[tuple[Tensor, Tensor]]


def outside_of_graphs(is_recursive: bool) -> Callable[[Any], Any]:
    """``torch.compiler.disable``, but that the compiler is not imported unless it is in use.

    is_recursive: whether what the function calls is not compiled either.
    """

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            if "torch._dynamo" not in sys.modules:
                return function(*args, **kwargs)
            apart = torch.compiler.disable(function, recursive=is_recursive)
            return apart(*args, **kwargs)

        run._torchdynamo_disable = True  # type: ignore[attr-defined]
        return run

    return decorated


class Slots(NamedTuple):
    """Where ``size`` rows from ``first`` on lie in a ring of ``capacity``: up to ``end``, and the
    last ``wrapped`` of them from 0 on.

    ``parked`` rows of the ring's beginning [0, size) are in the slots of nobody there: they change
    places with those at ``end - parked`` while the rows stand at the beginning.
    """

    size: int
    first: int
    end: int
    wrapped: int
    parked: int

    @classmethod
    def of(cls, first: int, size: int, capacity: int) -> Slots:
        wrapped = max(0, first + size - capacity)
        parked = min(first, size) - wrapped
        return cls(size, first, min(first + size, capacity), wrapped, max(0, parked))

    def bring_to_front(self, ring: Tensor, rows: Tensor) -> None:
        """Writes ``rows`` at the beginning, what is to stay of it being parked in their slots."""
        if self.parked:
            held = ring[self.wrapped : self.wrapped + self.parked]
            ring[self.end - self.parked : self.end] = held.clone()
        ring[: self.size] = rows

    def bring_back(self, ring: Tensor, rows: Tensor) -> None:
        """Writes the rows into their slots, and what was parked there where it was."""
        if self.parked:
            held = ring[self.end - self.parked : self.end].clone()
            ring[self.wrapped : self.wrapped + self.parked] = held
        self.write(ring, rows)

    def write(self, ring: Tensor, rows: Tensor) -> None:
        """Writes the rows into their slots."""
        ring[self.first : self.end] = rows[: self.size - self.wrapped]
        ring[: self.wrapped] = rows[self.size - self.wrapped :]


class Queue(NamedArguments, nn.Module):
    """The last ``memory_size`` embeddings and, if it ``has_labels``, their labels: one a row, or
    which of ``num_classes`` it has.

    Buffers and attributes have the names of pytorch-metric-learning's CrossBatchMemory.
    """

    embedding_memory: Tensor
    label_memory: Tensor

    def __init__(
        self,
        embedding_size: int,
        memory_size: int,
        memory_dtype: torch.dtype | None,
        has_labels: bool,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        if memory_dtype is not None:
            if not isinstance(memory_dtype, torch.dtype):
                raise TypeError(
                    "memory_dtype must be None or a torch.dtype, got "
                    f"{memory_dtype!r}, {type(memory_dtype).__name__}"
                )
            if not memory_dtype.is_floating_point:
                raise ValueError(f"memory_dtype must be floating point, got {memory_dtype}")
        self.embedding_size = check_count("embedding_size", embedding_size)
        self.memory_size = check_count("memory_size", memory_size)
        self.memory_dtype = memory_dtype
        self.has_labels = has_labels
        self.num_classes = None if num_classes is None else check_count("num_classes", num_classes)
        self.reset_queue()

    def reset_queue(self) -> None:
        """Empties the queue."""
        shape = self.memory_size, self.embedding_size
        given = self._buffers.get("embedding_memory")
        device = None if given is None else given.device
        memory = torch.zeros(shape, dtype=self.memory_dtype, device=device)
        self.register_buffer("embedding_memory", memory)
        if self.has_labels:
            of_row: tuple[int, ...] = ()
            dtype = torch.int64
            if self.num_classes is not None:
                of_row, dtype = (self.num_classes,), torch.bool
            labels = torch.zeros((self.memory_size, *of_row), dtype=dtype, device=device)
            self.register_buffer("label_memory", labels)
        self.queue_idx = 0
        self.has_been_filled = False

    def get_extra_state(self) -> dict[str, Any]:
        """How far the queue is filled, beside its buffers in the ``state_dict``."""
        return {"queue_idx": self.queue_idx, "has_been_filled": self.has_been_filled}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Takes what ``get_extra_state`` returned."""
        self.queue_idx = int(state["queue_idx"])
        self.has_been_filled = bool(state["has_been_filled"])

    def extra_repr(self) -> str:
        """The sizes, as ``print(module)`` shows them."""
        return f"embedding_size={self.embedding_size}, memory_size={self.memory_size}"

    def __len__(self) -> int:
        """Number of embeddings in the queue."""
        return self.memory_size if self.has_been_filled else self.queue_idx

    def check(self, embeddings: Tensor, name: str) -> None:
        check_embeddings(embeddings, name)
        if embeddings.shape[1] != self.embedding_size:
            raise ValueError(
                f"{name} must have embedding_size = {self.embedding_size} columns, got shape "
                f"{tuple(embeddings.shape)}"
            )

    def check_num_classes(self, labels: Tensor) -> None:
        expected = () if self.num_classes is None else (self.num_classes,)
        if tuple(labels.shape[1:]) != expected:
            raise ValueError(
                f"labels must be of shape {(labels.shape[0], *expected)}, as num_classes = "
                f"{self.num_classes} of the memory, got shape {tuple(labels.shape)}"
            )

    def check_size(self, size: int) -> None:
        if size > self.memory_size:
            raise ValueError(
                f"a batch must have at most memory_size = {self.memory_size} rows to remember, "
                f"got {size}"
            )

    def enqueue(self, rows: Tensor, labels: Tensor | None, is_compiled: bool) -> tuple[Stored, int]:
        """Enqueues rows [b, d]: what is in the queue, and the place of the first of them.

        The losses' backward has its own copy of what it reads, so that what was stored may be
        overwritten before it.  A compiled backward may read everything.
        """
        _, slots = self._enqueue(rows.detach(), labels, Slots.write)
        return self._stored(rows, labels, is_compiled), slots.first

    @contextmanager
    def at_the_front(
        self, rows: Tensor, labels: Tensor | None, is_compiled: bool
    ) -> Iterator[Stored]:
        """Enqueues rows [b, d], and yields what is in the queue with these at its beginning, until
        the block is left.  As ``enqueue``.
        """
        rings, slots = self._enqueue(rows.detach(), labels, Slots.bring_to_front)
        try:
            yield self._stored(rows, labels, is_compiled)
        finally:
            _bring_back(rings, slots)

    def _stored(self, rows: Tensor, labels: Tensor | None, is_compiled: bool) -> Stored:
        """What is in the queue, the embeddings in the dtype of rows."""
        size = len(self)
        embeddings = self.embedding_memory[:size].to(rows.dtype, copy=is_compiled)
        if labels is None:
            return Stored(embeddings, None)
        stored = self.label_memory[:size]
        return Stored(embeddings, stored.clone() if is_compiled else stored)

    @outside_of_graphs(True)
    @torch.no_grad()
    def _enqueue(
        self,
        rows: Tensor,
        labels: Tensor | None,
        write: Callable[[Slots, Tensor, Tensor], None],
    ) -> tuple[Rings, Slots]:
        """Counts the rows in and writes them; with what belongs in which slots."""
        dtype = rows.dtype if self.memory_dtype is None else self.memory_dtype
        self.embedding_memory = self._moved(self.embedding_memory, rows.device, dtype)
        rings = [(self.embedding_memory, rows)]
        if labels is not None:
            kept = self._label_dtype(labels)
            self.label_memory = self._moved(self.label_memory, labels.device, kept)
            rings.append((self.label_memory, labels.detach()))
        slots = Slots.of(self.queue_idx, rows.shape[0], self.memory_size)
        if slots.first + slots.size >= self.memory_size:
            self.has_been_filled = True
        self.queue_idx = (slots.first + slots.size) % self.memory_size
        for ring, given in rings:
            write(slots, ring, given)
        return rings, slots

    def _label_dtype(self, labels: Tensor) -> torch.dtype:
        """In which these are kept together with those in the queue: none changes its value."""
        kept, given = self.label_memory.dtype, labels.dtype
        if len(self) == 0:
            return given
        if kept.is_floating_point != given.is_floating_point:
            return widest_dtype(labels.device)
        common = common_dtype(kept, given)
        if common == torch.uint64 and (kept.is_signed or given.is_signed):
            raise ValueError(
                f"labels must be unsigned, or all signed, as no dtype holds both: the memory has "
                f"{kept}, got {given}; reset_queue() empties it"
            )
        return common

    def _moved(self, ring: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        """On the device of the rows; an empty one may have been made where nothing is kept."""
        if ring.is_meta and len(self) == 0:
            return torch.zeros_like(ring, device=device, dtype=dtype)
        return ring.to(device, dtype)


@outside_of_graphs(True)
@torch.no_grad()
def _bring_back(rings: Rings, slots: Slots) -> None:
    for ring, given in rings:
        slots.bring_back(ring, given)


class Stored(NamedTuple):
    """What is in a queue, [m, d], and its labels, [m] or [m, num_classes]."""

    embeddings: Tensor
    labels: Tensor | None
