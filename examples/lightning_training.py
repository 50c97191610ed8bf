"""Lightning: the loss is a submodule, so that its parameters move, are saved and are optimised.

ProxyAnchorLoss has parameters of its own, a proxy for each class, which its authors train with 100
times the network's learning rate.  Needs ``pip install lightning``.

    python examples/lightning_training.py
"""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from examples.plain_loop import CLASSES, made_data, made_network, recall_at_1
from fusedml.losses import ProxyAnchorLoss


class Embedder(lightning.LightningModule):
    def __init__(self, learning_rate: float = 5e-3) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.network = made_network()
        self.loss_function = ProxyAnchorLoss(num_classes=CLASSES, embedding_size=8)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        samples, labels = batch
        loss: Tensor = self.loss_function(self.network(samples), labels)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = [
            {"params": self.network.parameters()},
            {"params": self.loss_function.parameters(), "lr": 100 * self.learning_rate},
        ]
        return torch.optim.AdamW(groups, lr=self.learning_rate)


def train(epochs: int = 8, **trainer_options: Any) -> tuple[float, float]:
    """Recall@1 on other points of the same classes, before and after."""
    torch.manual_seed(0)
    model = Embedder()
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **trainer_options,
    )
    validation = made_data(seed=2)
    before = recall_at_1(model.network, *validation)
    trainer.fit(model, DataLoader(TensorDataset(*made_data()), batch_size=128, shuffle=True))
    return before, recall_at_1(model.network, *validation)


if __name__ == "__main__":
    print("Recall@1 before {:.3f}, after {:.3f}".format(*train()))
