"""Which dtype the tiles and the results have, with and without autocast."""

from __future__ import annotations

import torch
from torch import Tensor

from fusedml.pairs import accumulation_dtype

_AUTOCAST_DEVICES = frozenset(
    device for device in ("cpu", "cuda", "xpu", "mps") if torch.amp.is_autocast_available(device)
)


def is_autocast(tensor: Tensor) -> bool:
    """Whether autocast is on for the tensor's device."""
    device = tensor.device.type
    return device in _AUTOCAST_DEVICES and torch.is_autocast_enabled(device)


def tile_dtype(embeddings: Tensor) -> torch.dtype:
    """Dtype in which pairs are measured: the embeddings', or autocast's, which spares float64."""
    if is_autocast(embeddings) and embeddings.dtype != torch.float64:
        return torch.get_autocast_dtype(embeddings.device.type)
    return embeddings.dtype


def result_dtype(embeddings: Tensor) -> torch.dtype:
    """Dtype of a module's scalar: the embeddings'; under autocast float32, or float64."""
    if is_autocast(embeddings):
        return accumulation_dtype(embeddings.dtype)
    return embeddings.dtype


def prepare(x: Tensor, dtype: torch.dtype, normalize: bool) -> Tensor:
    """Embeddings as the tiles see them: L2-normalised if asked, in ``dtype``.

    Half-precision rows are normalised in float32 and rounded once.
    """
    if normalize:
        x = torch.nn.functional.normalize(x.to(accumulation_dtype(dtype)), dim=1)
    return x.to(dtype)
