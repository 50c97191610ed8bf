"""Batches, and miners beside pytorch-metric-learning's of the same name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pytorch_metric_learning import distances as pml_distances
from pytorch_metric_learning import miners as pml
from torch import Tensor

from fusedml import distances, miners

DIMENSION = 5


class Batch(NamedTuple):
    """Arguments of a call."""

    embeddings: Tensor
    labels: Tensor
    ref_emb: Tensor | None = None
    ref_labels: Tensor | None = None


def _labels(n: int, classes: int, seed: int = 0) -> Tensor:
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(n + seed))


LABELS: dict[str, Tensor] = {
    "three a class": torch.arange(36) % 12,
    "some alone": _labels(26, 9),
    "negative, some alone": _labels(31, 12) - 5,
    "floating point": _labels(20, 5) * 0.5,
    "one class": torch.full((15,), 3),
    "all alone": torch.arange(14),
    "two large classes": torch.arange(34) % 2,
    "a pair and one": torch.tensor([1, 2, 1]),
    "one": torch.tensor([4]),
}


def gaussian(n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, DIMENSION, generator=generator, dtype=torch.float64).to(dtype)


def whole_numbers(n: int, seed: int = 0) -> Tensor:
    """Embeddings whose dot products are small integers: many are equal."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 3, (n, 3), generator=generator).double()


def references(kind: str, embeddings: Tensor, labels: Tensor) -> Batch:
    """The batch with references of that kind."""
    n = len(labels)
    if kind == "none":
        return Batch(embeddings, labels)
    if kind == "same labels":
        return Batch(embeddings, labels, gaussian(n, 1).to(embeddings), labels)
    if kind == "copied labels":
        return Batch(embeddings, labels, gaussian(n, 1).to(embeddings), labels.clone())
    assert kind == "others"
    others = labels[torch.randint(n, (19,), generator=torch.Generator().manual_seed(5))]
    return Batch(embeddings, labels, gaussian(19, 2).to(embeddings), others)


REFERENCES = ("none", "same labels", "copied labels", "others")

_STRATEGIES = [
    (positive, negative)
    for positive in ("easy", "hard", "semihard", "all")
    for negative in ("easy", "hard", "semihard", "all")
    if not (positive == negative == "semihard" or {positive, negative} == {"semihard", "all"})
]
_RANGES = {"allowed_pos_range": (0.2, 1.3), "allowed_neg_range": (0.1, 1.1)}
# name and arguments; those whose result is not random
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    *(("MultiSimilarityMiner", {"epsilon": epsilon}) for epsilon in (0.1, 0.4, -0.2)),
    ("PairMarginMiner", {}),
    ("PairMarginMiner", {"pos_margin": 0.5, "neg_margin": 1.2}),
    ("BatchHardMiner", {}),
    *(
        ("BatchEasyHardMiner", {"pos_strategy": positive, "neg_strategy": negative, **ranges})
        for positive, negative in _STRATEGIES
        for ranges in ({}, _RANGES)
    ),
    *(
        ("TripletMarginMiner", {"margin": margin, "type_of_triplets": kind})
        for kind in ("all", "hard", "semihard", "easy")
        for margin in (0.2, 0)
    ),
    ("TripletMarginMiner", {"margin": -0.3}),
    *(("AngularMiner", {"angle": angle}) for angle in (20, 45, -1, 90)),
]
IDS = ["-".join([name, *map(str, arguments.values())]) for name, arguments in SETTINGS]

# by name, ours and theirs; None: the miner's own
DISTANCES: dict[str, Callable[[Any], Any]] = {
    "cosine": lambda module: module.CosineSimilarity(),
    "euclidean": lambda module: module.LpDistance(),
    "squared": lambda module: module.LpDistance(power=2),
    "dot": lambda module: module.DotProductSimilarity(normalize_embeddings=False),
    "cubed": lambda module: module.LpDistance(power=3),
    # of rows divided by their 1-norms many would be 2, but for rounding
    "manhattan": lambda module: module.LpDistance(p=1, normalize_embeddings=False),
}
EUCLIDEAN_ONLY = ("AngularMiner", "DistanceWeightedMiner")


def both(
    name: str, arguments: dict[str, Any], distance: str | None = None, **options: Any
) -> tuple[Any, Any]:
    """A miner of ours and of theirs."""
    ours, theirs = dict(options), dict(options)
    if distance is not None:
        ours["distance"] = DISTANCES[distance](distances)
        theirs["distance"] = DISTANCES[distance](pml_distances)
    return (
        getattr(miners, name)(**arguments, **ours),
        getattr(pml, name)(**arguments, **theirs),
    )


def entries(mined: tuple[Tensor, ...]) -> list[list[tuple[int, ...]]]:
    """The triplets, or the positive and the negative pairs, in order."""
    groups = (mined,) if len(mined) == 3 else (mined[:2], mined[2:])
    return [list(zip(*(index.tolist() for index in group), strict=True)) for group in groups]
