"""A new loss in a few lines: the triplet loss on smooth extrema, trained on made data.

``fusedml.pair_statistics`` gives the log-sum-exps of every anchor's positive and negative logits,
differentiably and without an n x m matrix.  Whatever is written of them in PyTorch is a loss.

    python examples/custom_loss.py
"""

from __future__ import annotations

import torch
from torch import Tensor

import fusedml


def soft_triplet_loss(
    embeddings: Tensor, labels: Tensor, scale: float | Tensor = 16.0, margin: float = 0.1
) -> Tensor:
    """The triplet loss on the smooth hardest positive and negative of each anchor.

        L_i = softplus(scale (max_N s - min_P s + margin)) / scale,
        max_N s ~ log sum_N e^{scale s} / scale,    min_P s ~ -log sum_P e^{-scale s} / scale.

    embeddings: [n, d]; normalised here.  labels: [n].  scale: > 0, larger is closer to the hardest
    pair; a tensor may require a gradient.  The mean over the anchors that have both kinds of pair.
    """
    row = fusedml.pair_statistics(
        torch.nn.functional.normalize(embeddings),
        labels,
        positive_scale=-scale,
        negative_scale=scale,
    )
    is_used = (row.num_positive > 0) & (row.num_negative > 0)
    # an unused anchor has lse = -inf: 0 in its place keeps NaN out of the gradient
    hardest = torch.where(is_used, row.lse_positive + row.lse_negative, 0)
    losses = torch.nn.functional.softplus(hardest + scale * margin) / scale
    return torch.where(is_used, losses, 0).sum() / is_used.sum().clamp(min=1)


def main() -> None:
    """Ten classes on lines through the origin of a 16-dimensional space, learnt by one layer."""
    torch.manual_seed(0)
    labels = torch.arange(10).repeat_interleave(40)
    samples = torch.randn(10, 16)[labels] + 0.7 * torch.randn(400, 16)
    layer = torch.nn.Linear(16, 8)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    for step in range(101):
        loss = soft_triplet_loss(layer(samples), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 25 == 0:
            print(f"step {step:3d}   loss {loss.item():.4f}   {accuracy(layer, samples, labels)}")


@torch.no_grad()
def accuracy(layer: torch.nn.Module, samples: Tensor, labels: Tensor) -> str:
    """The share of samples whose nearest neighbour has their label."""
    embeddings = torch.nn.functional.normalize(layer(samples))
    nearest = (embeddings @ embeddings.T).fill_diagonal_(-2).argmax(1)
    return f"Recall@1 {(labels[nearest] == labels).float().mean().item():.3f}"


if __name__ == "__main__":
    main()
