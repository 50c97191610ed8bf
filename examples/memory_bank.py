"""Cross-batch memory: small batches against the embeddings of the last thousands.

Wang et al., "Cross-Batch Memory for Embedding Learning", CVPR 2020.  The queue begins to be used
when the network no longer changes quickly.

    python examples/memory_bank.py
"""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, TensorDataset

import fusedml
from examples.plain_loop import made_data, made_network, recall_at_1
from fusedml.losses import ContrastiveLoss


def train(epochs: int = 6, warm_up: int = 1) -> tuple[float, float]:
    """Recall@1 on other points of the same classes, before and after."""
    torch.manual_seed(0)
    network, loss_function = made_network(), ContrastiveLoss()
    memory_loss = fusedml.CrossBatchMemory(loss_function, embedding_size=8, memory_size=256)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    loader = DataLoader(TensorDataset(*made_data()), batch_size=32, shuffle=True)
    validation = made_data(seed=2)
    before = recall_at_1(network, *validation)
    for epoch in range(epochs):
        for samples, labels in loader:
            embeddings = network(samples)
            loss = (loss_function if epoch < warm_up else memory_loss)(embeddings, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return before, recall_at_1(network, *validation)


if __name__ == "__main__":
    print("Recall@1 before {:.3f}, after {:.3f}".format(*train()))
