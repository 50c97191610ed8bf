"""A training loop in plain PyTorch: batches of a few classes, any loss of the package.

Made data: points around class centres, which a small network learns to tell apart.

    python examples/plain_loop.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fusedml.losses import MultiSimilarityLoss

CLASSES, FEATURES = 16, 24


def made_data(samples_per_class: int = 32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points [n, FEATURES] around the centre of their class, and their labels [n]."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(CLASSES).repeat_interleave(samples_per_class)
    noise = torch.randn(len(labels), FEATURES, generator=generator)
    return centres[labels] + noise, labels


def made_network() -> nn.Module:
    """Two layers, from FEATURES to 8."""
    return nn.Sequential(nn.Linear(FEATURES, 64), nn.ReLU(), nn.Linear(64, 8))


@torch.no_grad()
def recall_at_1(network: nn.Module, samples: Tensor, labels: Tensor) -> float:
    """The share of samples whose nearest neighbour has their label."""
    dtype = next(network.parameters()).dtype
    embeddings = nn.functional.normalize(network(samples.to(dtype)))
    nearest = (embeddings @ embeddings.T).fill_diagonal_(-2).argmax(1)
    return (labels[nearest] == labels).float().mean().item()


def train(steps: int = 60) -> tuple[float, float]:
    """Recall@1 on other points of the same classes, before and after."""
    torch.manual_seed(0)
    network, loss_function = made_network(), MultiSimilarityLoss()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    loader = DataLoader(TensorDataset(*made_data()), batch_size=128, shuffle=True)
    validation = made_data(seed=2)
    before = recall_at_1(network, *validation)
    done = 0
    while done < steps:
        for samples, labels in loader:
            loss = loss_function(network(samples), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
    return before, recall_at_1(network, *validation)


if __name__ == "__main__":
    print("Recall@1 before {:.3f}, after {:.3f}".format(*train()))
