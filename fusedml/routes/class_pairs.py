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
    """Pairs (anchors[k], positives[k]); the first ``num_pairs`` (int64, 0-d) are meant."""

    anchors: Tensor
    positives: Tensor
    num_pairs: Tensor


def first_positive_pairs(labels: Tensor) -> ClassPairs:
    """The first two members of each class that has two, in the order of the class labels.

    labels: [n].  The result has n // 2 slots.
    """
    values, order = torch.sort(labels, stable=True)
    is_same = values[1:] == values[:-1]
    is_first = torch.ones_like(is_same)
    is_first[1:] = ~is_same[:-1]
    is_pair = is_same & is_first  # member k is the first of its class and k + 1 is of it, too
    slots = _true_first(is_pair)[: labels.shape[0] // 2]
    return ClassPairs(order[slots], order[slots + 1], is_pair.sum())


def first_listed_pairs(labels: Tensor, rows: Tensor, columns: Tensor) -> ClassPairs:
    """The first listed pair of each anchor label, in the order of the labels."""
    values, order = torch.sort(labels[rows], stable=True)
    is_first = torch.ones_like(values, dtype=torch.bool)
    is_first[1:] = values[1:] != values[:-1]
    chosen = order[_true_first(is_first)[: labels.shape[0]]]
    return ClassPairs(rows[chosen], columns[chosen], is_first.sum())


def _true_first(mask: Tensor) -> Tensor:
    """Positions of the True entries in order, then those of the others."""
    return torch.argsort((~mask).to(torch.uint8), stable=True)


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
        embeddings[anchors],
        embeddings[positives],
        classes,
        classes,
        exclude_diagonal=False,
        extent=torch.stack([num_pairs, num_pairs]),
    )
    losses = labelled_pairs(problem, distance, backend, owner).row_losses(formula)
    losses = losses + zero_loss(embeddings.detach())

    def listed() -> ListedLosses:
        count = int(num_pairs)
        return ListedLosses(losses[:count], anchors[:count], positives[:count])

    is_used = (classes < num_pairs)[: losses.shape[0]]
    return PairLosses(lambda: RowSums(losses, is_used.long()), listed, reduction_type="element")
