"""transformers' Trainer: a model that returns the loss, the first of its outputs.

The model of any encoder looks like ``EncoderWithLoss``; this one is made, so that nothing is
downloaded.  Needs ``pip install transformers accelerate datasets``.

    python examples/transformers_trainer.py
"""

from __future__ import annotations

import tempfile

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from examples.plain_loop import CLASSES, made_data, made_network, recall_at_1
from fusedml.losses import ArcFaceLoss


class EncoderWithLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = made_network()
        # its vectors are parameters: they are trained and saved with the encoder
        self.loss_function = ArcFaceLoss(num_classes=CLASSES, embedding_size=8, scale=16)

    def forward(self, samples: Tensor, labels: Tensor) -> dict[str, Tensor]:
        embeddings = self.network(samples)
        return {"loss": self.loss_function(embeddings, labels), "embeddings": embeddings}


def train(steps: int = 60) -> tuple[float, float]:
    """Recall@1 on other points of the same classes, before and after."""
    torch.manual_seed(0)
    model = EncoderWithLoss()
    samples, labels = made_data()
    data = Dataset.from_dict({"samples": samples.tolist(), "labels": labels.tolist()})
    validation = made_data(seed=2)
    before = recall_at_1(model.network, *validation)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=128,
            learning_rate=1e-2,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=0,
        )
        Trainer(model, arguments, train_dataset=data).train()
    return before, recall_at_1(model.network, *validation)


if __name__ == "__main__":
    print("Recall@1 before {:.3f}, after {:.3f}".format(*train()))
