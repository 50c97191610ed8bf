"""Losses with a call of their own, miners and queues: what is called beside the registry's losses.

Derived from what there is, so that a new one is covered by itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fusedml import losses, memory, miners
from tests.losses.made import DIMENSION, NUM_CLASSES, ONE_OF_EACH_KIND, PAIR_LOSSES


class Call(NamedTuple):
    """A module, and arguments by their names in messages: tensors, or numbers."""

    make: Callable[[], Any]
    arguments: dict[str, Any]

    def outputs(self) -> list[Tensor]:
        """What a module made here returns, and the gradients of a loss."""
        made = self.make()(*self.arguments.values())
        if not isinstance(made, Tensor) or not made.requires_grad:
            return [made] if isinstance(made, Tensor) else list(made)
        leaves = [x for x in self.arguments.values() if isinstance(x, Tensor) and x.requires_grad]
        return [made, *torch.autograd.grad(made, leaves)]


def _rows(n: int, seed: int) -> Tensor:
    x = torch.randn(n, DIMENSION, generator=torch.Generator().manual_seed(seed))
    return normalize(x).requires_grad_()


def _of_miner(name: str, needs_loss: bool) -> Any:
    miner = getattr(miners, name)
    arguments = {"loss": losses.SupConLoss()} if needs_loss else miner.example_arguments
    made = miner(**arguments)

    def mine(*args: Any) -> Any:
        torch.manual_seed(0)
        return made(*args)

    return mine


def _filled(queue: Any, *first: Any) -> Any:
    """A queue that remembers a batch."""
    queue(*first)
    return queue


def _of_memory(name: str, size: int, x: Tensor, labels: Tensor) -> Any:
    queue = memory.CrossBatchMemory(getattr(losses, name)(), DIMENSION, size)
    return _filled(queue, x.detach().flip(0), labels)


def _of_queue(size: int, x: Tensor) -> Any:
    queue = memory.MomentumQueue(losses.InfoNCELoss(), DIMENSION, size)
    return _filled(queue, x.detach(), x.detach().flip(0))


def _of_teacher(name: str) -> Any:
    return losses.DISTILLATION_LOSSES[name].of_weights(None).of_teacher


def calls(n: int) -> dict[str, Call]:
    """By name, of n rows; n must be a multiple of 3, which miners have of each class."""
    x, other = _rows(n, 1), _rows(n, 2)
    labels, few = torch.arange(n) % NUM_CLASSES, torch.arange(n) % (n // 3)
    made: dict[str, Call] = {}
    for name, loss in losses.TWO_TOWER_LOSSES.items():
        features = dict(zip(loss.input_names, (x, other), strict=True))
        made[name] = Call(loss, {**features, **loss.example_arguments})
    features = {"images": x, "texts": other}
    made["VSELoss, hardest"] = Call(partial(losses.VSELoss, max_violation=True), features)
    for name in losses.DISTILLATION_LOSSES:
        given = {"embeddings": x, "labels": labels, "teacher": other.detach()}
        made[name] = Call(partial(_of_teacher, name), given)
    for name in set(miners.__all__) - {"BaseMiner"}:
        needs_loss = "loss" in inspect.signature(getattr(miners, name).__init__).parameters
        given = {"embeddings": x, "labels": few}
        references = {"ref_emb": other.detach(), "ref_labels": few.flip(0).float()}
        miner = partial(_of_miner, name, needs_loss)
        made[name] = Call(miner, given)
        if not needs_loss:  # which takes none
            made[f"{name}, references"] = Call(miner, {**given, **references})
    given = {"embeddings": x, "labels": labels}
    for name in set(PAIR_LOSSES) & set(ONE_OF_EACH_KIND):  # they pass references on
        queue = partial(_of_memory, name, n + 9, x, labels)
        made[f"CrossBatchMemory, {name}"] = Call(queue, given)
    keys = {"queries": x, "keys": other.detach()}
    made["MomentumQueue"] = Call(partial(_of_queue, n + 9, x), keys)
    return dict(sorted(made.items()))
