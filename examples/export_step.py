"""torch.export: network and loss in one exported program, for batches of any size.

The program calls the fused operators by name (``torch.ops.fusedml``): import fusedml where it runs.

    python examples/export_step.py
"""

from __future__ import annotations

import io

import torch
from torch import Tensor, nn

from examples.plain_loop import made_data, made_network
from fusedml.losses import MultiSimilarityLoss


class NetworkWithLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = made_network()
        self.loss_function = MultiSimilarityLoss()

    def forward(self, samples: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self.loss_function(self.network(samples), labels)
        return loss


def exported(model: NetworkWithLoss) -> bytes:
    """The saved program, whose batch size is free."""
    n = torch.export.Dim("n", min=4)
    samples, labels = made_data(samples_per_class=4)
    program = torch.export.export(
        model, (samples, labels), dynamic_shapes={"samples": {0: n}, "labels": {0: n}}
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


def losses_of_both(samples_per_class: int) -> tuple[Tensor, Tensor]:
    """The loss of a batch of another size, by the model and by the program that was loaded."""
    torch.manual_seed(0)
    model = NetworkWithLoss()
    program = torch.export.load(io.BytesIO(exported(model)))
    batch = made_data(samples_per_class)
    return model(*batch), program.module()(*batch)


if __name__ == "__main__":
    print("model {:.6f}, exported program {:.6f}".format(*losses_of_both(samples_per_class=9)))
