"""Small image data sets from scikit-learn, split for retrieval."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d


class Split(NamedTuple):
    """Images [n, 1, height, width] in [0, 1] and labels [n] to train on and to retrieve among."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def digits(seed: int) -> Split:
    """1797 handwritten digits of 8 x 8 pixels; half of the images of each digit is held out."""
    from sklearn.datasets import load_digits  # noqa: PLC0415  only the data set in use is loaded

    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 16
    return hold_out_images(images, torch.from_numpy(data.target).long(), seed)


def olivetti(seed: int) -> Split:
    """400 faces of 40 people, reduced to 32 x 32 pixels; half of the people is held out.

    Downloaded once, into scikit-learn's data folder.
    """
    from sklearn.datasets import fetch_olivetti_faces  # noqa: PLC0415

    data = fetch_olivetti_faces()
    images = avg_pool2d(torch.from_numpy(data.images).float()[:, None], 2)
    return hold_out_classes(images, torch.from_numpy(data.target).long(), seed)


def hold_out_images(images: Tensor, labels: Tensor, seed: int) -> Split:
    """Half of the images of each class to train on, the other half to test."""
    generator = torch.Generator().manual_seed(seed)
    is_train = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=generator)
        is_train[members[order[: len(members) // 2]]] = True
    return Split(images[is_train], labels[is_train], images[~is_train], labels[~is_train])


def hold_out_classes(images: Tensor, labels: Tensor, seed: int) -> Split:
    """All images of half of the classes to train on, those of the other classes to test."""
    classes = labels.unique()
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))
    is_train = torch.isin(labels, classes[order[: len(classes) // 2]])
    # losses with proxies count their classes from 0
    train_labels = labels[is_train].unique(return_inverse=True)[1]
    return Split(images[is_train], train_labels, images[~is_train], labels[~is_train])


DATA_SETS: dict[str, Callable[[int], Split]] = {"digits": digits, "olivetti": olivetti}
