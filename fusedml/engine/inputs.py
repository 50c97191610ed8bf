"""Checks of what a loss is called with, and the pair problem made of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fusedml.engine import advice
from fusedml.engine.foreign import PLAIN, check_local
from fusedml.engine.labels import (
    LabelRule,
    alike,
    alike_one_by_one,
    common_label_codes,
    label_codes,
    on_device,
)
from fusedml.engine.pairs import PairProblem, own_columns
from fusedml.engine.positives import num_positives
from fusedml.engine.precision import is_autocast, is_free_to_read
from fusedml.engine.routes.listed import PairIndices

# Indices below which a call costs more than the numbers: one looks at those of all lists.
_FEW_INDICES = 1 << 14
# up to so many are looked at in Python in less time than PyTorch's calls take
_FEWEST_INDICES = 512

# up to which a set in Python takes less time than the calls of a comparison
_FEW_LABELS = 1024


class Batch(NamedTuple):
    """A checked call of a loss.

    labels: [n]; or bool [n, C], which classes each row has.
    references: None when the embeddings are their own references.
    exclude_diagonal: whether a row's pair with itself is left out.  The labels of the two sides are
        one tensor then, unless there is a ``self_offset``.
    label_rule: when labels [n, C] make a positive pair; None where there are none.
    self_offset: None, or that of the call: the references hold embedding i at (i + offset) mod m.
    """

    embeddings: Tensor
    labels: Tensor | None
    references: Tensor | None
    reference_labels: Tensor | None
    exclude_diagonal: bool
    label_rule: LabelRule | None = None
    self_offset: int | None = None

    def has_too_few_pairs(self) -> bool:
        """pytorch-metric-learning's rule: 0 if at most one pair is positive and one negative.

        Only a batch with other references and at most two pairs can have so few.
        """
        if self.references is None or (self.exclude_diagonal and self._shares_labels()):
            return False
        n, m = self.embeddings.shape[0], self.references.shape[0]
        excluded = n if self.exclude_diagonal else 0
        size = n * m - excluded
        if size != 2:
            return size < 2
        labels, reference_labels = self._label_codes()
        assert reference_labels is not None  # make_batch
        num_alike = int(alike(labels, reference_labels).sum())
        if self.exclude_diagonal:
            own = self.own_columns(torch.arange(n, device=labels.device))
            num_alike -= int(alike_one_by_one(labels, reference_labels[own]).sum())
        return num_alike == 1

    def has_positive(self) -> bool:
        """Whether the labels make any pair positive; needs labels, and a host sync on a GPU."""
        labels = self.labels
        if labels is not None and self.references is None and are_few(labels):
            return len({*labels.tolist()}) < labels.shape[0]  # a NaN equals nothing, too
        return bool(num_positives(self.problem()).any())

    def problem(self) -> PairProblem:
        """All pairs by label; needs labels.  The measure is filled in later."""
        return PairProblem(
            self.embeddings,
            self.references,
            *self._label_codes(),
            exclude_diagonal=self.exclude_diagonal,
            self_offset=self.self_offset or 0,
        )

    def own_columns(self, rows: Tensor) -> Tensor:
        """The columns that rows are themselves."""
        assert self.references is not None
        return own_columns(rows, self.self_offset or 0, self.references.shape[0])

    def _shares_labels(self) -> bool:
        return self.reference_labels is self.labels

    def _label_codes(self) -> tuple[Tensor, Tensor | None]:
        assert self.labels is not None  # checked by make_batch
        if self.references is None:
            return label_codes(self.labels, self.label_rule), None
        assert self.reference_labels is not None  # make_batch
        if self.exclude_diagonal and self._shares_labels():
            codes = label_codes(self.labels, self.label_rule)
            return codes, codes
        return common_label_codes(self.labels, self.reference_labels, self.label_rule)


def check_not_swapped(
    embeddings: Tensor,
    labels: Tensor | None,
    name: str = "embeddings",
    labels_name: str = "labels",
) -> None:
    """Raises TypeError if each of the two was given in the place of the other."""
    if labels is not None and advice.are_swapped(embeddings, labels):
        raise TypeError(
            f"{name} and {labels_name} are swapped: {name} is 1D of shape "
            f"{tuple(embeddings.shape)}, {labels_name} is floating point of shape "
            f"{tuple(labels.shape)}"
        )


def check_tensor(value: object, name: str) -> None:
    """Raises TypeError, with what to write, for anything else."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a tensor, got {type(value).__name__}{advice.of_no_tensor(value, name)}"
        )


def check_embeddings(embeddings: Tensor, name: str = "embeddings") -> None:
    """Raises TypeError unless a floating-point tensor, ValueError unless 2-D."""
    check_tensor(embeddings, name)
    check_local(embeddings, name)
    if embeddings.layout != torch.strided:
        raise TypeError(
            f"{name} must be a dense tensor, got {embeddings.layout}: write {name}.to_dense()"
        )
    if not embeddings.is_floating_point():
        hint = advice.of_embeddings(embeddings, name)
        raise TypeError(f"{name} must be floating point, got {embeddings.dtype}{hint}")
    if embeddings.ndim != 2:
        raise ValueError(
            f"{name} must be a 2D tensor of shape (batch_size, embedding_size), got shape "
            f"{tuple(embeddings.shape)}{advice.of_embeddings(embeddings, name)}"
        )


def check_labels(
    labels: Tensor,
    embeddings: Tensor,
    name: str = "labels",
    label_rule: LabelRule | None = None,
) -> None:
    """Raises TypeError unless a real tensor, ValueError unless one label for each embedding.

    label_rule: None, or also labels [n, C] are taken: booleans, or numbers 0 and 1.
    """
    check_tensor(labels, name)
    check_local(labels, name)
    if labels.is_meta and not embeddings.is_meta:
        raise ValueError(
            f"{name} must be on a device that holds numbers, as its embeddings on "
            f"{embeddings.device}, got {name} on meta"
        )
    if labels.is_complex():
        raise TypeError(f"{name} must be integers or floating point, got {labels.dtype}")
    if labels.ndim == 0 or labels.shape[0] != embeddings.shape[0]:
        raise ValueError(
            f"Number of embeddings must equal number of labels: {name} has shape "
            f"{tuple(labels.shape)}, its embeddings have shape {tuple(embeddings.shape)}"
        )
    if labels.ndim == 1 or (label_rule is not None and _are_members(labels, name)):
        return
    hint = advice.of_labels(labels, embeddings, name, takes_sets=label_rule is not None)
    raise ValueError(
        f"labels must be a 1D tensor of shape (batch_size,): {name} has shape "
        f"{tuple(labels.shape)}{hint}"
    )


def _are_members(labels: Tensor, name: str) -> bool:
    """Whether the labels say which classes each row has.

    Numbers are looked at, on a GPU at the price of a host sync: they may be anything, such as a
    second view of the samples.  Raises TypeError for numbers where they cannot be.
    """
    if labels.ndim != 2 or labels.dtype == torch.bool:
        return labels.ndim == 2
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        raise TypeError(
            f"{name} of shape (batch_size, C) must be boolean under torch.compile and torch.func, "
            f"got {labels.dtype}: write {name}.bool()"
        )
    # a column of class numbers may be of 0 and 1 as well
    return labels.shape[1] != 1 and bool(((labels == 0) | (labels == 1)).all())


def as_members(labels: Tensor) -> Tensor:
    """Checked labels, those [n, C] as booleans."""
    return labels if labels.ndim == 1 or labels.dtype == torch.bool else labels != 0


def check_references(embeddings: Tensor, references: Tensor, name: str = "ref_emb") -> None:
    """Raises unless ``references`` can be measured against ``embeddings``."""
    check_embeddings(references, name)
    if references.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f"{name} must have the embedding size of embeddings, {embeddings.shape[1]}, got "
            f"shape {tuple(references.shape)}"
        )
    if references.device != embeddings.device:
        raise ValueError(
            f"{name} must be on the device of embeddings, {embeddings.device}, got "
            f"{references.device}"
        )
    if references.dtype != embeddings.dtype and not is_autocast(embeddings):
        raise ValueError(
            f"{name} must have the dtype of embeddings, {embeddings.dtype}, got {references.dtype}"
        )


def make_batch(
    embeddings: Tensor,
    labels: Tensor | None,
    ref_emb: Tensor | None,
    ref_labels: Tensor | None,
    labels_needed: bool,
    label_rule: LabelRule | None = None,
    self_offset: int | None = None,
) -> Batch:
    """A checked batch; labels are moved to the device of their embeddings.

    As in pytorch-metric-learning the diagonal is left out if the references' labels are the labels
    themselves (the same object, or not given), and is made of positives if they are a copy.
    labels_needed: False when an index tuple says what the pairs are.
    label_rule: None where labels must be [n]; else when labels [n, C] make a positive pair.
    self_offset: None, or where among the references the embeddings are.
    """
    are_right = _are_right(embeddings, labels)
    if not are_right:
        check_not_swapped(embeddings, labels)
        check_embeddings(embeddings)
        if labels is not None:
            check_labels(labels, embeddings, label_rule=label_rule)
    if labels is None and labels_needed:
        hint = advice.of_two_views(embeddings, ref_emb)
        raise ValueError(f"labels and indices_tuple cannot both be None{hint}")
    if self_offset is not None:
        check_self_offset(self_offset, embeddings, ref_emb)
    if ref_emb is None:
        ref_emb, ref_labels = embeddings, labels
    elif not (are_right and _are_right(ref_emb, ref_labels) and _are_alike(embeddings, ref_emb)):
        check_not_swapped(ref_emb, ref_labels, "ref_emb", "ref_labels")
        check_references(embeddings, ref_emb)
        if ref_labels is not None:
            check_labels(ref_labels, ref_emb, "ref_labels", label_rule)
            check_widths(labels, ref_labels)
    shares_labels = ref_labels is None or ref_labels is labels
    if shares_labels and labels_needed and ref_emb.shape[0] != embeddings.shape[0]:
        raise ValueError(
            "ref_labels are required when ref_emb has another number of rows than embeddings: "
            f"{ref_emb.shape[0]} and {embeddings.shape[0]}"
        )
    device = embeddings.device
    if labels is not None:
        labels = as_members(on_device(labels, device))
    if ref_emb is embeddings and shares_labels and self_offset is None:
        return Batch(embeddings, labels, None, None, True, label_rule)
    if shares_labels or ref_labels is None:
        ref_labels = labels
    else:
        ref_labels = as_members(on_device(ref_labels, device))
    exclude_diagonal = shares_labels or self_offset is not None
    given = embeddings, labels, ref_emb, ref_labels
    return Batch(*given, exclude_diagonal, label_rule, self_offset)


def check_self_offset(
    self_offset: int,
    embeddings: Tensor,
    ref_emb: Tensor | None,
    name: str = "ref_emb",
    own_name: str = "embeddings",
) -> None:
    """Raises TypeError for no integer; ValueError without references, or not of one of them."""
    if not isinstance(self_offset, int) or isinstance(self_offset, bool):
        raise TypeError(f"self_offset must be an int or None, got {type(self_offset).__name__}")
    if ref_emb is None:
        raise ValueError(f"self_offset needs {name}, got {self_offset} and none")
    n, m = embeddings.shape[0], ref_emb.shape[0]
    if not (n <= m and 0 <= self_offset < max(1, m)):
        raise ValueError(
            f"self_offset must be from 0 to m - 1, of at least as many {name} [m, d] as {own_name} "
            f"[n, d], got {self_offset} for m = {m} and n = {n}"
        )


def check_widths(labels: Tensor | None, ref_labels: Tensor, name: str = "ref_labels") -> None:
    """Raises ValueError unless the labels of both sides are of the same classes."""
    if labels is not None and labels.shape[1:] != ref_labels.shape[1:]:
        raise ValueError(
            f"labels and {name} must both be one a row, or of the same classes, got shapes "
            f"{tuple(labels.shape)} and {tuple(ref_labels.shape)}"
        )


def are_few(labels: Tensor) -> bool:
    """Whether labels are so few that Python counts them in less time than PyTorch's calls."""
    return labels.ndim == 1 and labels.shape[0] <= _FEW_LABELS and is_free_to_read(labels)


def _are_right(embeddings: Tensor, labels: Tensor | None) -> bool:
    """Whether checks of one side have nothing to say: what a call costs that is as it should be."""
    if type(embeddings) not in PLAIN or embeddings.ndim != 2:
        return False
    if not embeddings.is_floating_point() or embeddings.layout != torch.strided:
        return False
    return labels is None or (
        type(labels) in PLAIN
        and labels.shape == embeddings.shape[:1]
        and not labels.is_complex()
        and labels.is_meta == embeddings.is_meta
    )


def _are_alike(embeddings: Tensor, references: Tensor) -> bool:
    """The same of the references' size, dtype and device."""
    return (
        references.dtype == embeddings.dtype
        and references.device == embeddings.device
        and references.shape[1] == embeddings.shape[1]
    )


def pair_indices(
    indices_tuple: Sequence[Tensor], batch: Batch, reads_negatives: bool = True
) -> PairIndices:
    """An index tuple (anchors, positives, negatives) or (anchors, positives, anchors, negatives).

    Anchors index the embeddings, the others the references.  Raises TypeError or ValueError on
    anything else, and IndexError on an index out of range, as far as that is known without a
    device sync (on the CPU, outside of torch.compile).
    reads_negatives: False of a loss that does not: the range of a long list of them is not checked.
    """
    if not isinstance(indices_tuple, tuple | list) or len(indices_tuple) not in (3, 4):
        got = advice.of_no_indices(indices_tuple)
        raise ValueError(
            "indices_tuple must have 3 tensors (anchors, positives, negatives) or 4 (anchors, "
            f"positives, anchors, negatives), got {got}"
        )
    references = batch.embeddings if batch.references is None else batch.references
    n, m = batch.embeddings.shape[0], references.shape[0]
    device = batch.embeddings.device
    lists = list(indices_tuple)
    bounds = (n, m, m) if len(lists) == 3 else (n, m, n, m)
    are_right = _are_right_indices(lists, device, bounds)
    if not are_right:
        lists = [_index(index, position) for position, index in enumerate(lists)]
        is_long = sum(index.shape[0] for index in lists) > _FEW_INDICES
        read = 2 if is_long and not reads_negatives else len(lists)
        _check_range(lists[:read], bounds[:read])
    if len(lists) == 3:
        lists.insert(2, lists[0])
    rows, columns, negative_rows, negative_columns = lists
    if rows.shape != columns.shape or negative_rows.shape != negative_columns.shape:
        raise ValueError(
            "indices_tuple must list as many anchors as positives, and as negatives, got "
            f"lengths {tuple(len(index) for index in indices_tuple)}"
        )
    indices = PairIndices(rows, columns, negative_rows, negative_columns)
    return indices if are_right else PairIndices(*(index.to(device) for index in indices))


def _are_right_indices(indices: list[Tensor], device: torch.device, bounds: Sequence[int]) -> bool:
    """Whether they are known to be as they should be, and few."""
    if device.type != "cpu" or torch.compiler.is_compiling():
        return False
    size = 0
    for index in indices:
        if type(index) is not Tensor or index.dtype != torch.int64 or not index.is_cpu:
            return False
        if index.ndim != 1:
            return False
        size += index.shape[0]
    if size == 0:
        return True
    if size > _FEW_INDICES or torch._C._are_functorch_transforms_active():
        return False
    return _are_within(indices, bounds)


def _are_within(indices: list[Tensor], bounds: Sequence[int]) -> bool:
    """Whether all numbers are in [0, bound), of two bounds at most: in as few calls as will do."""
    if sum(index.shape[0] for index in indices) <= _FEWEST_INDICES:
        for numbers, bound in zip(map(Tensor.tolist, indices), bounds, strict=True):
            if numbers and not (min(numbers) >= 0 and max(numbers) < bound):
                return False
        return True
    low, high = _range(torch.cat(indices))
    least = min(bounds)
    if low < 0 or high < least:
        return low >= 0
    of_least = [index for index, bound in zip(indices, bounds, strict=True) if bound == least]
    bounded = torch.cat(of_least)
    return high < max(bounds) and (bounded.shape[0] == 0 or bounded.max().item() < least)


def _index(index: Tensor, position: int) -> Tensor:
    """The index in int64, its numbers unchecked."""
    if not isinstance(index, Tensor):
        raise TypeError(f"{_name(position)} must be a tensor, got {type(index).__name__}")
    check_local(index, _name(position))
    if index.ndim != 1:
        raise ValueError(f"{_name(position)} must be 1D, got shape {tuple(index.shape)}")
    if index.dtype == torch.int64:
        return index
    is_integer = not (index.is_floating_point() or index.is_complex() or index.dtype == torch.bool)
    if not is_integer and index.numel():
        raise TypeError(f"{_name(position)} must hold integers, got {index.dtype}")
    return index.to(torch.int64)  # what PyTorch has no bounds of, too


def _check_range(indices: Sequence[Tensor], bounds: Sequence[int]) -> None:
    """Raises IndexError for a number that is not in [0, bound), where reading costs no sync."""
    for k, (index, bound) in enumerate(zip(indices, bounds, strict=True)):
        if index.shape[0] and is_free_to_read(index):
            low, high = _range(index)
            if low < 0 or high >= bound:
                raise IndexError(
                    f"{_name(k)} must be in [0, {bound}), got values from {low} to {high}"
                )


def _range(index: Tensor) -> tuple[int, int]:
    lowest, highest = torch.aminmax(index)
    return int(lowest.item()), int(highest.item())


def _name(position: int) -> str:
    return f"indices_tuple[{position}]"


def require_labels(
    embeddings: Tensor, labels: Tensor | None, ref_emb: Tensor | None = None
) -> None:
    """Raises ValueError unless there are labels."""
    if labels is None:
        hint = advice.of_two_views(embeddings, ref_emb)
        raise ValueError(f"labels are required for this loss function{hint}")


def refuse_references(
    embeddings: Tensor, labels: Tensor | None, ref_emb: Tensor | None, ref_labels: Tensor | None
) -> None:
    """Raises ValueError unless there are no references but the embeddings themselves."""
    if ref_emb is not None and (ref_emb is not embeddings or ref_labels is not labels):
        raise ValueError("ref_emb is not supported for this loss function")
