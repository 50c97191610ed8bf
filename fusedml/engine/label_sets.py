"""Several labels a row: sets of classes, packed into words of 64 bits.

The operators take codes [n], of which equal ones make a positive pair, or sets [n, W], of which
those with a member in common do.  How classes are numbered within the words is nothing to anybody.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fusedml.engine.precision import is_free_to_read

_BITS = 64
# words up to which looking for those in use costs more than it saves
_FEW_WORDS = 2


def are_sets(labels: Tensor) -> bool:
    """Whether the labels of a problem are sets, not codes."""
    return labels.ndim == 2


def _num_words(num_classes: int) -> int:
    return max(1, -(-num_classes // _BITS))


def packed(members: Tensor) -> Tensor:
    """Bool [n, C], which classes each row has, as int64 words [n, W]."""
    n, num_classes = members.shape
    num_words = _num_words(num_classes)
    bits = torch.nn.functional.pad(members.to(torch.uint8), (0, num_words * _BITS - num_classes))
    bits = bits.view(n, num_words, 8, 8)
    shifts = torch.arange(8, device=members.device)
    # in bytes first: int64 of every class would be eight times as large
    of_bytes = (bits << shifts.to(torch.uint8)).sum(3, dtype=torch.uint8)
    return (of_bytes.to(torch.int64) << 8 * shifts).sum(2)


def sets_of_one(num_classes: int, device: torch.device) -> Tensor:
    """The classes 0, 1, ... as ``packed`` sets, [num_classes, W]: num_classes^2 / 8 bytes."""
    classes = torch.arange(num_classes, device=device)
    words = torch.zeros((num_classes, _num_words(num_classes)), dtype=torch.int64, device=device)
    return words.scatter(1, (classes // _BITS)[:, None], (1 << classes % _BITS)[:, None])


def classes_of_sets(words: Tensor) -> Tensor:
    """Codes [n], int64, equal where the sets [n, W] are; an empty set equals none, not itself.

    Needs no host sync.
    """
    n, is_empty = words.shape[0], (words == 0).all(1)
    codes = words.T
    while codes.shape[0] > 1:
        # two words become one number: their ranks are below n
        ranks = _ranks(codes)
        if ranks.shape[0] % 2:
            ranks = torch.cat([ranks, torch.zeros_like(ranks[:1])])
        codes = ranks[::2] * n + ranks[1::2]
    own = torch.arange(n, device=words.device) + n
    return torch.where(is_empty, own, _ranks(codes)[0])


def _ranks(codes: Tensor) -> Tensor:
    """The place of each number among the different ones of its row, [w, n]."""
    values, order = torch.sort(codes, dim=1)
    is_new = torch.zeros_like(values)
    is_new[:, 1:] = values[:, 1:] != values[:, :-1]
    return torch.scatter(values, 1, order, is_new.cumsum(1))  # vmap knows no scatter_


def meet(sets: Tensor, others: Tensor) -> Tensor:
    """Which of the sets [r, W] have a member in common with which others [c, W]: bool [r, c]."""
    words = _words_in_use(sets, others)
    if not words:
        return torch.zeros((len(sets), len(others)), dtype=torch.bool, device=sets.device)
    others = others.T.contiguous()
    common = sets[:, words[0], None] & others[words[0]]
    # memory that is used again; vmap knows no ``out``
    is_transformed = torch._C._are_functorch_transforms_active()
    of_word = None if is_transformed or len(words) == 1 else torch.empty_like(common)
    for word in words[1:]:
        common |= torch.bitwise_and(sets[:, word, None], others[word], out=of_word)
    return common != 0


def meet_one_by_one(sets: Tensor, others: Tensor) -> Tensor:
    """Whether sets[k] and others[k], both [k, W], have a member in common: bool [k]."""
    return ((sets & others) != 0).any(1)


def _words_in_use(sets: Tensor, others: Tensor) -> list[int]:
    """The words in which both sides have members, where looking costs no host sync."""
    num_words = sets.shape[1]
    if num_words <= _FEW_WORDS or not is_free_to_read(sets):
        return list(range(num_words))
    is_used = (sets != 0).any(0) & (others != 0).any(0)
    (words,) = torch.where(is_used)
    in_use: list[int] = words.tolist()
    return in_use
