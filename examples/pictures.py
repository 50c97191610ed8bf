"""The demo's pictures: embeddings before and after training, time and memory by batch size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")  # files only; no display is needed

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor
from torch.nn.functional import normalize

from examples.costs import Cost

if TYPE_CHECKING:
    from examples.train_digits import Trained


def project(embeddings: Tensor) -> Tensor:
    """The first two principal components of the normalised embeddings, [n, 2]."""
    centred = normalize(embeddings)
    centred = centred - centred.mean(0)
    return centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T


def draw_embeddings(trained: Sequence[Trained], labels: Tensor, path: Path) -> None:
    """One panel before training, and one for each loss after it; a colour for each class."""
    panels = [("before training", trained[0].before.map_at_r, trained[0].embeddings_before)]
    panels += [(result.loss, result.after.map_at_r, result.embeddings_after) for result in trained]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.2 * len(panels), 3.6), squeeze=False, layout="constrained"
    )
    for axis, (title, map_at_r, embeddings) in zip(axes[0], panels, strict=True):
        points = project(embeddings)
        axis.scatter(points[:, 0], points[:, 1], c=labels, cmap="tab10", s=6, linewidths=0)
        axis.set_title(f"{title}\nMAP@R {map_at_r:.3f}", fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.suptitle("Unseen images, first two principal components", fontsize=10)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_costs(costs: Sequence[Cost], path: Path) -> None:
    """Milliseconds and MB of a step against the batch size, log-log; dense is dashed."""
    figure, (times, peaks) = plt.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
    _draw_lines(times, costs, "milliseconds", "time of a step, ms")
    _draw_lines(peaks, costs, "extra_mb", "peak memory above the inputs, MB")
    times.legend(fontsize=7)
    d = costs[0].case.d
    figure.suptitle(f"Forward and backward of the losses, d = {d}; dashed: the full matrix")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_lines(axis: Axes, costs: Sequence[Cost], quantity: str, label: str) -> None:
    by_size = [cost for cost in costs if not cost.is_training_batch]
    for index, loss in enumerate(dict.fromkeys(cost.case.loss for cost in by_size)):
        own = [cost for cost in by_size if cost.case.loss == loss]
        sizes = [cost.case.n for cost in own]
        for provider, style in (("fusedml", "o-"), ("dense", "o--")):
            values = [getattr(cost, quantity)[provider] for cost in own]
            name = f"{loss}, {provider}"
            axis.plot(sizes, values, style, color=f"C{index}", markersize=3, label=name)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("batch size")
    axis.set_ylabel(label)
    axis.grid(alpha=0.3)
