from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.datasets
import torch

from examples import image_data


def test_digits_hold_out_half_of_each_digit():
    data = image_data.digits(seed=0)
    assert data.train_images.shape[1:] == (1, 8, 8)
    assert len(data.train_labels) + len(data.test_labels) == 1797
    train, test = data.train_labels.bincount(), data.test_labels.bincount()
    assert len(train) == 10 and ((test - train == 0) | (test - train == 1)).all()
    assert data.train_images.min() >= 0 and data.train_images.max() <= 1


def test_splits_follow_the_seed():
    first, again, other = (image_data.digits(seed) for seed in (0, 0, 1))
    assert torch.equal(first.train_images, again.train_images)
    assert not torch.equal(first.train_labels, other.train_labels) or not torch.equal(
        first.train_images, other.train_images
    )


@pytest.fixture
def made_faces(monkeypatch):
    """Six people with four faces each, in scikit-learn's shape."""
    people = np.repeat(np.arange(6), 4)
    rng = np.random.default_rng(0)
    faces = rng.random((6, 64, 64))[people] * 0.8 + rng.random((24, 64, 64)) * 0.2
    data = SimpleNamespace(images=faces.astype(np.float32), target=people)
    monkeypatch.setattr(sklearn.datasets, "fetch_olivetti_faces", lambda: data)


def test_olivetti_holds_out_people(made_faces):
    data = image_data.olivetti(seed=0)
    assert data.train_images.shape == (12, 1, 32, 32) == data.test_images.shape
    assert data.train_labels.unique().tolist() == [0, 1, 2]
    assert data.test_labels.unique().numel() == 3
    # nobody is in both halves: a face's mean brightness is its person's, nearly
    gap = data.train_images.flatten(1)[:, None] - data.test_images.flatten(1)
    assert gap.abs().mean(2).min() > 0.1
