"""What to write instead of a call that was probably meant otherwise: ends of error messages."""

from __future__ import annotations

from typing import Any

from torch import Tensor

_LABELS = {"ref_emb": "ref_labels", "references": "reference_labels"}


def of_no_tensor(value: Any, name: str) -> str:
    """For ``value``, which is not a tensor."""
    return f": write torch.as_tensor({name})" if hasattr(value, "__len__") else ""


def of_no_indices(value: Any) -> str:
    """What was given, for ``value``, which is no index tuple of 3 or 4 tensors."""
    if isinstance(value, tuple | list):
        return f"{len(value)}"
    if isinstance(value, type):
        return f"the class {value.__name__}: write {value.__name__}(...)(embeddings, labels)"
    written = ": write miner(embeddings, labels)" if callable(value) else ""
    return f"no tuple but {type(value).__name__}{written}"


def of_embeddings(embeddings: Tensor, name: str) -> str:
    """For embeddings that are not 2-D, or not floating point."""
    if name == "ref_emb" and embeddings.ndim == 1:
        return ": it follows indices_tuple, so write ref_emb=... and ref_labels=... by name"
    if embeddings.ndim != 3:
        return ""
    views, labels = embeddings.shape[1], _LABELS.get(name, "labels")
    return (
        f": for {views} views of each sample write {name}.flatten(0, 1) and "
        f"{labels}.repeat_interleave({views})"
    )


def of_labels(labels: Tensor, embeddings: Tensor, name: str, *, takes_sets: bool) -> str:
    """For labels, one row for each embedding, that are not 1-D.

    takes_sets: whether they might be several labels a row.
    """
    if labels.is_floating_point() and labels.shape == embeddings.shape:
        return of_two_views(embeddings, labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        return f": write {name}.squeeze(1)"
    if labels.ndim == 2 and takes_sets:
        return ", but not of booleans, or 0 and 1, for several labels a row"
    if labels.ndim == 2:
        return f": write {name}.argmax(1) if its rows are one-hot"
    return ""


def of_two_views(embeddings: Tensor, others: Tensor | None) -> str:
    """For embeddings without labels, if ``others`` may be other views of the same samples."""
    if others is None or others.shape != embeddings.shape:
        return ""
    return (
        ": if these are two views of the same samples, write torch.cat([view, other_view]) for the "
        f"embeddings and torch.arange({len(embeddings)}).repeat(2) for their labels"
    )


def are_swapped(embeddings: Any, labels: Any) -> bool:
    """Whether each looks like the other: embeddings are 1-D, labels a floating-point matrix."""
    return (
        isinstance(embeddings, Tensor)
        and isinstance(labels, Tensor)
        and embeddings.ndim == 1
        and labels.ndim == 2
        and labels.is_floating_point()
    )
