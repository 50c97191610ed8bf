"""A batch against the vectors of the classes: these as anchors (proxies), or the embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fusedml.distances import sign_of
from fusedml.engine import kept
from fusedml.engine.foreign import check_local
from fusedml.engine.inputs import Batch, are_few, pair_indices
from fusedml.engine.label_sets import packed, sets_of_one
from fusedml.engine.labels import label_codes
from fusedml.engine.pairs import PairProblem, accumulation_dtype, widest_dtype
from fusedml.engine.precision import is_free_to_read
from fusedml.engine.routes.blocks import BlockedPairs, Matrix
from fusedml.engine.routes.choice import Pairs, PairsOf
from fusedml.engine.routes.listed import count
from fusedml.errors import LabelError

# tensors of all pairs that the backward of a block needs
_HELD = 5
# of blocks of proxies where these are too large to be held
_BLOCK_HEIGHT = 4


def check_class_labels(labels: Tensor, num_classes: int) -> None:
    """Raises LabelError unless integers in [0, num_classes).

    The range is checked on the CPU and outside of torch.compile and torch.func only: elsewhere it
    would cost a sync.  There a label out of range is a class without a proxy.
    """
    if labels.ndim != 1:
        raise LabelError(
            "labels must be one number of a class for each row, of shape (batch_size,), got shape "
            f"{tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise LabelError(f"labels must be integers for this loss function, got {labels.dtype}")
    if not is_free_to_read(labels) or labels.numel() == 0:
        return
    codes = labels if labels.dtype == torch.int64 else label_codes(labels)
    # the codes of uint64 are theirs less 2^63
    shift = 1 << 63 if labels.dtype == torch.uint64 else 0
    ends = torch.aminmax(codes)
    low, high = ends.min.item() + shift, ends.max.item() + shift
    if low < 0 or high >= num_classes:
        raise LabelError(
            f"labels must be in [0, num_classes) = [0, {num_classes}), got values from {low} to "
            f"{high}"
        )


def poison_of_labels(labels: Tensor, num_classes: int) -> Tensor | None:
    """[n]: 1, or NaN for a label outside of [0, num_classes); None where these raise.

    A sample without a class has no positive: its loss would be a number that means nothing.
    """
    if is_free_to_read(labels):
        return None
    codes = labels.to(torch.int64)  # PyTorch compares no unsigned ones
    is_known = (codes >= 0) & (codes < num_classes)
    return torch.where(is_known, 1.0, math.nan)


def check_proxies(proxies: Tensor, embeddings: Tensor, name: str = "proxies") -> None:
    """Raises ValueError unless the proxies have the embedding size of the embeddings.

    name: of the parameter that they are.
    """
    check_local(proxies, name)
    if proxies.ndim != 2 or proxies.shape[1] != embeddings.shape[1]:
        raise ValueError(
            "embeddings must have as many columns as the proxies, got shapes "
            f"{tuple(embeddings.shape)} and {tuple(proxies.shape)}"
        )


def num_classes_present(labels: Tensor, num_classes: int) -> Tensor:
    """Number of different labels in [0, num_classes), int64, 0-d; at least 1.

    labels: [n], or [n, num_classes], which classes each row has.
    """
    if labels.ndim == 2:
        return labels.any(0).sum().clamp(min=1)
    if are_few(labels):
        present = sum(0 <= label < num_classes for label in {*labels.tolist()})
        return torch.tensor(max(present, 1), device=labels.device)
    values = labels.long().sort().values
    is_new = torch.ones_like(values, dtype=torch.bool)
    is_new[1:] = values[1:] != values[:-1]
    has_proxy = (values >= 0) & (values < num_classes)
    return (is_new & has_proxy).sum().clamp(min=1)


def tuple_weights(
    indices_tuple: Sequence[Tensor] | None, batch: Batch, *, anchors_only: bool = False
) -> Tensor | None:
    """How often a tuple lists each sample, relative to the most listed one, [n].

    None without a tuple; an empty one is none.  anchors_only: its other indices do not count.
    """
    if indices_tuple is None:
        return None
    indices = pair_indices(indices_tuple, batch)
    if not any(index.numel() for index in indices):
        return None
    listed = [indices.positive_rows]
    if not anchors_only:
        listed += [indices.positive_columns, indices.negative_columns]
    if len(indices_tuple) == 4:
        listed.append(indices.negative_rows)
    counts = count(torch.cat(listed), batch.embeddings.shape[0])
    counts = counts.to(widest_dtype(counts.device))
    return counts / counts.max()


def proxy_pairs(
    proxies: Tensor,
    embeddings: Tensor,
    labels: Tensor,
    distance: nn.Module,
    pairs_of: PairsOf,
    weights: Tensor | None = None,
) -> Pairs:
    """Proxies [C, d], labelled 0, 1, ..., as anchors of the embeddings [n, d].

    labels: [n], or [n, C], which classes each row has.
    pairs_of: makes the pairs of the problem, given the matrix of any other distance.
    weights: None or [n]; the logits of sample i are shifted by weights[i] - 1.
    """
    device, num_classes = embeddings.device, proxies.shape[0]
    if labels.ndim == 2:
        codes = sets_of_one(num_classes, device), packed(labels)
    else:
        codes = torch.arange(num_classes, device=device), labels.long()
    problem = PairProblem(
        proxies.to(device),
        embeddings,
        *codes,
        exclude_diagonal=False,
        anchors_sorted=True,
    )

    def matrix(some_proxies: Tensor, all_embeddings: Tensor) -> Tensor:
        # the distance is defined from embeddings to proxies
        return distance(all_embeddings, some_proxies.to(all_embeddings)).T

    if weights is not None:
        offsets, watched = weights.to(embeddings) - 1, distance.parameters()
        given = problem, matrix, sign_of(distance), offsets, watched
        return BlockedPairs(*given, height=_block_height(problem))
    return pairs_of(problem, matrix)


def _block_height(problem: PairProblem) -> int:
    """Of blocks of proxies: all in one, which is computed once, if that may be kept."""
    num_pairs = math.prod(problem.shape)
    size = _HELD * num_pairs * accumulation_dtype(problem.anchors.dtype).itemsize
    return max(1, num_pairs) if size <= kept.MOST_BYTES else _BLOCK_HEIGHT


def class_pairs(
    embeddings: Tensor,
    labels: Tensor,
    vectors: Tensor,
    pairs_of: PairsOf,
    matrix: Matrix | None = None,
    is_prepared: bool = False,
) -> Pairs:
    """Embeddings [n, d] as anchors of the vectors [C, d] of the classes 0, 1, ...

    Each row has one positive.  matrix, is_prepared: as in ``labelled_pairs``.
    """
    problem = PairProblem(
        embeddings,
        vectors,
        labels.long(),
        torch.arange(vectors.shape[0], device=embeddings.device),
        exclude_diagonal=False,
    )
    return pairs_of(problem, matrix, is_prepared)
