"""Samples with several labels each: pictures with tags, articles with topics.

The data are made: each of 12 classes is a direction, and a sample is the noisy sum of one to three
of them.  Two samples are alike if they have a class in common.

    python examples/several_labels.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fusedml
from fusedml.losses import SupConLoss

NUM_CLASSES, FEATURES = 12, 32


def made_data(size: int = 600, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features [size, FEATURES], and which classes each has, bool [size, NUM_CLASSES]."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(NUM_CLASSES, FEATURES, generator=torch.Generator().manual_seed(42))
    lists = [
        torch.randperm(NUM_CLASSES, generator=generator)[: 1 + k % 3].tolist() for k in range(size)
    ]
    labels = fusedml.multi_hot(lists, NUM_CLASSES)
    noise = torch.randn(size, FEATURES, generator=generator)
    return labels.float() @ directions + 2 * noise, labels


@torch.no_grad()
def precision_at_5(network: nn.Module, samples: Tensor, labels: Tensor) -> float:
    """Of the 5 nearest others of each sample, the share that has a class in common with it."""
    embeddings = nn.functional.normalize(network(samples))
    nearest = (embeddings @ embeddings.T).fill_diagonal_(-1).topk(5).indices
    return (labels[:, None] & labels[nearest]).any(2).float().mean().item()


def train(steps: int = 60) -> tuple[float, float]:
    """Precision at 5 on other samples of the same classes, before and after."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(FEATURES, 64), nn.ReLU(), nn.Linear(64, 16))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    loss_function = SupConLoss(label_rule="any")
    samples, labels = made_data()
    validation = made_data(size=300, seed=1)
    before = precision_at_5(network, *validation)
    for _ in range(steps):
        chosen = torch.randint(len(samples), (128,))
        loss = loss_function(network(samples[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return before, precision_at_5(network, *validation)


if __name__ == "__main__":
    print("precision at 5 before {:.3f}, after {:.3f}".format(*train()))
