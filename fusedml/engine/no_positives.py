"""The warning that a batch has no positive pair."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fusedml.engine.caller import warn_caller
from fusedml.engine.inputs import Batch

_WARNED: set[str] = set()
_ALIKE = {"any": "a label in common", "all": "the same labels"}


def warn_without_positives(
    owner: str, loss: object, batch: Batch, indices_tuple: Sequence[Tensor] | None
) -> None:
    """Warns once per process of a loss that is 0, and without gradient, for want of positives.

    On a CPU only, and in no graph: elsewhere reading the loss would cost a host sync.
    """
    if (
        _WARNED
        or (indices_tuple is not None and indices_tuple[1].shape[0] > 0)
        or torch.compiler.is_compiling()
        or type(loss) is not Tensor
        or loss.device.type != "cpu"
        or torch._C._are_functorch_transforms_active()
        or loss.item() != 0
        or batch.embeddings.shape[0] == 0
    ):
        return
    if indices_tuple is None:
        if batch.has_positive():
            return
        what = f"no two of the {batch.embeddings.shape[0]} labels are equal"
        if batch.references is not None:
            what = "no label is among ref_labels"
            if batch.self_offset is not None:
                what = "no label is among those of other rows in the references or the queue"
        if batch.labels is not None and batch.labels.ndim == 2:
            what = f"no two rows have {_ALIKE[batch.label_rule or 'any']}"
        why = f"{what}, so no pair is positive"
    else:
        why = "indices_tuple lists no positive pair"
    _WARNED.add(owner)
    warn_caller(
        f"{owner}: {why}: the loss is 0 and teaches nothing.  Let batches have at least two rows "
        "of a label, samples of a class or views of a sample (said once per process)"
    )
