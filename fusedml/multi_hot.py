"""Lists of class numbers as the labels that the losses take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import index

import torch
from torch import Tensor


def multi_hot(
    lists: Sequence[Iterable[int]],
    num_classes: int,
    device: torch.device | str | None = None,
) -> Tensor:
    """Labels [n, num_classes], bool, of n samples with any number of classes each, or none.

    Args:
        lists: the classes of each sample, integers in [0, num_classes), in any order.
        num_classes: C, the same for all that is compared with each other.
        device: where the labels are to be; the CPU if None.

    Raises:
        ValueError: for a class out of range.
        TypeError: for a class that is no integer.
    """
    rows: list[int] = []
    columns: list[int] = []
    for row, classes in enumerate(lists):
        for number in classes:
            if not 0 <= number < num_classes:
                raise ValueError(
                    f"lists must hold classes in [0, num_classes) = [0, {num_classes}), got "
                    f"{number} for sample {row}"
                )
            rows.append(row)
            columns.append(index(number))
    labels = torch.zeros((len(lists), num_classes), dtype=torch.bool, device="cpu")
    labels[rows, columns] = True
    return labels if device is None else labels.to(device)
