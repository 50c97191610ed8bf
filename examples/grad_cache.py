"""GradCache by hand: a batch of any size in the memory of a part of it, with the same gradient.

Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", RepL4NLP
2021.  The embeddings of all parts are computed without a graph; the loss of the whole batch gives
the gradient at the embeddings; then each part is embedded again and backpropagates its rows of it.
The fused loss needs no matrix, so nothing in a step grows with the square of the batch.

    python examples/grad_cache.py
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from examples.plain_loop import FEATURES, made_data
from fusedml.losses import MultiSimilarityLoss


def cached_step(
    network: nn.Module,
    loss_function: Callable[[Tensor, Tensor], Tensor],
    samples: Tensor,
    labels: Tensor,
    rows: int,
) -> Tensor:
    """The loss of all samples; adds its gradient to the network's, ``rows`` samples at a time.

    Dropout and the like draw the same numbers in both passes, on the CPU.
    """
    parts = samples.split(rows)
    states, embeddings = [], []
    with torch.no_grad():
        for part in parts:
            states.append(torch.get_rng_state())
            embeddings.append(network(part))
    state_after = torch.get_rng_state()
    whole = torch.cat(embeddings).requires_grad_()
    loss = loss_function(whole, labels)
    (grad,) = torch.autograd.grad(loss, whole)
    for part, state, part_grad in zip(parts, states, grad.split(rows), strict=True):
        torch.set_rng_state(state)
        network(part).backward(part_grad)
    torch.set_rng_state(state_after)
    return loss.detach()


def made_network_with_dropout() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 8))


def train(steps: int = 20, rows: int = 64) -> list[float]:
    """The losses of steps of all 512 samples at once."""
    samples, labels = made_data()
    network, loss_function = made_network_with_dropout(), MultiSimilarityLoss()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        losses.append(cached_step(network, loss_function, samples, labels, rows).item())
        optimizer.step()
    return losses


if __name__ == "__main__":
    print("losses", " ".join(f"{loss:.3f}" for loss in train()))
