"""How well embeddings retrieve images of the same class."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize


class Retrieval(NamedTuple):
    """Means over all queries that have another image of their class, in [0, 1]."""

    recall_at_1: float
    map_at_r: float


@torch.no_grad()
def evaluate(embeddings: Tensor, labels: Tensor, block: int = 1024) -> Retrieval:
    """Recall@1 and MAP@R by cosine similarity, each image being the query for all others.

    With R other images of the query's class, MAP@R = 1/R sum_{i <= R} [i-th is right] precision@i;
    Musgrave et al., "A Metric Learning Reality Check", ECCV 2020, section 3.2.

    embeddings: [n, d].  labels: [n].  block: queries at a time; memory is block x n.
    Raises ValueError if no class has two images.
    """
    embeddings = normalize(embeddings)
    class_sizes = (labels == labels.unique()[:, None]).sum(1)
    longest = int(class_sizes.max()) - 1
    if longest < 1:
        raise ValueError("labels must contain a class of at least two images, got none")
    ranks = torch.arange(1, longest + 1, device=labels.device)
    recalls, precisions = [], []
    for start in range(0, len(labels), block):
        queries = torch.arange(start, min(start + block, len(labels)), device=labels.device)
        similarity = embeddings[queries] @ embeddings.T
        similarity[queries - start, queries] = -torch.inf  # an image does not retrieve itself
        nearest = similarity.topk(longest).indices
        is_right = labels[nearest] == labels[queries][:, None]
        num_relevant = (labels == labels[queries][:, None]).sum(1) - 1
        counted = is_right & (ranks <= num_relevant[:, None])
        precision = counted.cumsum(1) / ranks * counted
        has_relevant = num_relevant > 0
        recalls.append(is_right[has_relevant, 0].float())
        precisions.append((precision.sum(1) / num_relevant)[has_relevant])
    return Retrieval(float(torch.cat(recalls).mean()), float(torch.cat(precisions).mean()))
