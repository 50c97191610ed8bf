"""Six points in the plane with values known from pytorch-metric-learning and the authors' code."""

from __future__ import annotations

import torch

ANGLES = torch.deg2rad(torch.tensor([0, 20, 40, 60, 80, 25], dtype=torch.float64))
NORMS = torch.tensor([1, 1.5, 0.5, 2, 1, 1.2], dtype=torch.float64)
POINTS = torch.stack([ANGLES.cos(), ANGLES.sin()], 1) * NORMS[:, None]
# label 2 has no positive
LABELS = torch.tensor([0, 0, 1, 1, 2, 0])


def on_circle(*angles: float) -> torch.Tensor:
    """Unit vectors at the angles, in degrees."""
    radians = torch.deg2rad(torch.tensor(angles, dtype=torch.float64))
    return torch.stack([radians.cos(), radians.sin()], 1)
