"""accelerate: ``prepare`` the loss with the network where it has parameters; call it as always.

Needs ``pip install accelerate``.

    python examples/accelerate_training.py
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

from examples.plain_loop import CLASSES, made_data, made_network, recall_at_1
from fusedml.losses import NormalizedSoftmaxLoss


def train(epochs: int = 15, mixed_precision: str = "no") -> tuple[float, float]:
    """Recall@1 on other points of the same classes, before and after."""
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, mixed_precision=mixed_precision)
    network = made_network()
    loss_function = NormalizedSoftmaxLoss(num_classes=CLASSES, embedding_size=8)
    parameters = [*network.parameters(), *loss_function.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    loader = DataLoader(TensorDataset(*made_data()), batch_size=128, shuffle=True)
    validation = made_data(seed=2)
    before = recall_at_1(network, *validation)
    network, loss_function, optimizer, loader = accelerator.prepare(
        network, loss_function, optimizer, loader
    )
    for _ in range(epochs):
        for samples, labels in loader:
            with accelerator.autocast():
                loss = loss_function(network(samples), labels)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
    return before, recall_at_1(accelerator.unwrap_model(network), *validation)


if __name__ == "__main__":
    print("Recall@1 before {:.3f}, after {:.3f}".format(*train()))
