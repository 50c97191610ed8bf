"""One positive pair for each class, chosen without a host sync and with static shapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fusedml.distances import fused_measure
from fusedml.engine.labels import label_codes
from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.precision import is_autocast, is_free_to_read, prepare, tile_dtype
from fusedml.engine.routes.choice import Pairs, PairsOf
from fusedml.engine.routes.pair_losses import ListedLosses, PairLosses
from fusedml.engine.whole import is_small
from fusedml.reducers import RowSums, zero_loss

# up to so many listed pairs a sort costs less than what makes it one of fewer numbers
_FEW_LISTED = 1 << 12


class ClassPairs(NamedTuple):
    """Pairs (anchor, positive), [2, k].

    num_pairs: int64, 0-d: how many of them are meant, the first ones; None for all.
    """

    members: Tensor
    num_pairs: Tensor | None


def first_positive_pairs(labels: Tensor) -> ClassPairs:
    """The first two members of each class that has two, in the order of the class labels.

    labels: [n].  On a GPU and in a compiled graph the result has n // 2 slots.
    """
    values, order = torch.sort(label_codes(labels), stable=True)
    num_pairs: Tensor | None = None
    if is_free_to_read(values):
        slots = _starts(values, 2)
    else:
        is_pair = values[1:] == values[:-1]
        # k is the first of its class, and k + 1 is of it, too
        is_pair[1:].logical_and_(values[2:] != values[:-2])
        slots, num_pairs = _places(is_pair, labels.shape[0] // 2)
    return ClassPairs(order[torch.stack([slots, slots + 1])], num_pairs)


def first_listed_pairs(labels: Tensor, rows: Tensor, columns: Tensor) -> ClassPairs:
    """The first listed pair of each anchor label, in the order of the labels."""
    values, num_pairs = label_codes(labels).index_select(0, rows), None
    if not is_free_to_read(values):
        values, order = torch.sort(values, stable=True)
        is_first = torch.ones_like(values, dtype=torch.bool)
        is_first[1:] = values[1:] != values[:-1]
        slots, num_pairs = _places(is_first, labels.shape[0])
        places = order.index_select(0, slots)
    elif rows.shape[0] <= _FEW_LISTED:
        places = _first_of_each(values)
    else:  # a miner lists row by row: few runs of equal labels
        values, counts = torch.unique_consecutive(values, return_counts=True)
        places = _begins(counts).index_select(0, _first_of_each(values))
    pairs = rows.index_select(0, places), columns.index_select(0, places)
    return ClassPairs(torch.stack(pairs), num_pairs)


def _first_of_each(values: Tensor) -> Tensor:
    """Where each value is found first, in the order of the values."""
    values, order = torch.sort(values, stable=True)
    return order.index_select(0, _starts(values, 1))


def _starts(values: Tensor, least: int) -> Tensor:
    """Where each run of at least so many equal values begins; values: [n], ascending."""
    counts = torch.unique_consecutive(values, return_counts=True)[1]
    starts = _begins(counts)
    return starts if least == 1 else starts[counts >= least]


def _begins(counts: Tensor) -> Tensor:
    """Where parts of so many begin."""
    return counts.cumsum(0).sub_(counts)


def _places(mask: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Positions of at most ``most`` entries, the True ones first and in order; number of these."""
    return torch.argsort((~mask).to(torch.uint8), stable=True)[:most], mask.sum()


def _is_small(one: Tensor, other: Tensor, backend: str) -> bool:
    """Whether products in the embeddings' own dtype may be held whole."""
    is_exact = one.dtype == accumulation_dtype(one.dtype) and not is_autocast(one)
    return is_exact and is_small(backend, one, other)


def class_pair_losses(
    embeddings: Tensor,
    pairs: ClassPairs,
    of_pairs: Callable[[Pairs], Tensor],
    of_matrix: Callable[[Tensor], Tensor],
    distance: nn.Module,
    backend: str,
    pairs_of: PairsOf,
) -> PairLosses:
    """The losses of the anchors against all positives, one for each class.

    of_pairs: the losses of the anchors, [k], from the pairs, (k, k) being the positives.
    of_matrix: the same from a whole matrix of dot products, [k, k].
    pairs_of: makes the pairs of the problem.

    The slots beyond num_pairs are neutral.  NaN or inf anywhere among the embeddings makes all
    losses NaN.
    """
    members, num_pairs = pairs
    count = members.shape[1]
    chosen = embeddings.index_select(0, members.view(-1))
    measure = fused_measure(distance)
    if measure is not None:  # both sides at once
        chosen = prepare(chosen, tile_dtype(embeddings), measure.normalize)
    one, other = chosen.split(count) if count else (chosen, chosen)
    has_empty_slots = num_pairs is not None
    is_dot = measure is not None and measure.name == "dot"
    if is_dot and not has_empty_slots and _is_small(one, other, backend):
        losses = of_matrix(one.mm(other.T))
    else:
        classes = torch.arange(count, device=embeddings.device)
        problem = PairProblem(
            one,
            other,
            classes,
            classes,
            exclude_diagonal=False,
            extent=None if num_pairs is None else torch.stack([num_pairs, num_pairs]),
        )
        is_prepared = measure is not None
        losses = of_pairs(pairs_of(problem, None, is_prepared))
    given = embeddings.detach()
    if not (is_free_to_read(given) and math.isfinite(given.sum())):
        losses = losses + zero_loss(given)

    def rows() -> RowSums:
        if num_pairs is None:
            return RowSums(losses, None)
        classes = torch.arange(count, device=losses.device)
        return RowSums(losses, (classes < num_pairs)[: losses.shape[0]].long())

    def listed() -> ListedLosses:
        meant = count if num_pairs is None else int(num_pairs)
        return ListedLosses(losses[:meant], *members[:, :meant])

    return PairLosses(rows, listed, reduction_type="element")
