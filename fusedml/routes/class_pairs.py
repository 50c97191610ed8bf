"""One positive pair for each class, chosen without a host sync and with static shapes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fusedml.formulas import Formula
from fusedml.pairs import PairProblem
from fusedml.reducers import RowSums, zero_loss
from fusedml.routes.choice import labelled_pairs
from fusedml.routes.pair_losses import ListedLosses, PairLosses


class ClassPairs(NamedTuple):
    """Pairs (anchors[k], positives[k]).

    num_pairs: int64, 0-d: how many of them are meant, the first ones; None for all.
    """

    anchors: Tensor
    positives: Tensor
    num_pairs: Tensor | None


def first_positive_pairs(labels: Tensor) -> ClassPairs:
    """The first two members of each class that has two, in the order of the class labels.

    labels: [n].  On a GPU and in a compiled graph the result has n // 2 slots.
    """
    values, order = torch.sort(labels, stable=True)
    is_pair = values[1:] == values[:-1]
    is_pair[1:] &= values[2:] != values[:-2]  # k is the first of its class, and k + 1 is of it, too
    slots, num_pairs = _places(is_pair, labels.shape[0] // 2)
    return ClassPairs(order.index_select(0, slots), order.index_select(0, slots + 1), num_pairs)


def first_listed_pairs(labels: Tensor, rows: Tensor, columns: Tensor) -> ClassPairs:
    """The first listed pair of each anchor label, in the order of the labels."""
    values, order = torch.sort(labels[rows], stable=True)
    is_first = torch.ones_like(values, dtype=torch.bool)
    is_first[1:] = values[1:] != values[:-1]
    slots, num_pairs = _places(is_first, labels.shape[0])
    chosen = order[slots]
    return ClassPairs(rows[chosen], columns[chosen], num_pairs)


def _places(mask: Tensor, most: int) -> tuple[Tensor, Tensor | None]:
    """Positions of the True entries in order, and None where their number costs no host sync.

    Elsewhere positions of at most ``most`` entries, the True ones first, and the number of these.
    """
    if mask.device.type == "cpu" and not torch.compiler.is_compiling():
        return mask.nonzero().squeeze(1), None
    return torch.argsort((~mask).to(torch.uint8), stable=True)[:most], mask.sum()


def class_pair_losses(
    embeddings: Tensor,
    pairs: ClassPairs,
    formula: Formula,
    distance: nn.Module,
    backend: str,
    owner: str,
) -> PairLosses:
    """Losses of a row head on the anchors against all positives, one for each class.

    The slots beyond num_pairs are neutral.  NaN or inf anywhere among the embeddings makes all
    losses NaN.
    """
    anchors, positives, num_pairs = pairs
    classes = torch.arange(anchors.shape[0], device=embeddings.device)
    problem = PairProblem(
        embeddings.index_select(0, anchors),
        embeddings.index_select(0, positives),
        classes,
        classes,
        exclude_diagonal=False,
        extent=None if num_pairs is None else torch.stack([num_pairs, num_pairs]),
    )
    losses = labelled_pairs(problem, distance, backend, owner).row_losses(formula)
    losses = losses + zero_loss(embeddings.detach())

    def rows() -> RowSums:
        if num_pairs is None:
            return RowSums(losses, torch.ones_like(classes))
        return RowSums(losses, (classes < num_pairs)[: losses.shape[0]].long())

    def listed() -> ListedLosses:
        count = losses.shape[0] if num_pairs is None else int(num_pairs)
        return ListedLosses(losses[:count], anchors[:count], positives[:count])

    return PairLosses(rows, listed, reduction_type="element")
