"""Several vectors of a class become one measure: reductions of groups, and their slopes.

A group is the measures y_k of an row with the vectors of one class.  Each reduction is a
function of ordinary PyTorch, and the same with its slope for the tiles.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def maximum(y: Tensor, dim: int) -> Tensor:
    """max_k y_k; the gradient goes to the first of equal ones."""
    return y.max(dim).values


def soft_maximum(y: Tensor, dim: int) -> Tensor:
    """S = sum_k p_k y_k with p = softmax(y)."""
    return (torch.softmax(y, dim) * y).sum(dim)


REDUCTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    function.__name__: function for function in (maximum, soft_maximum)
}
