"""The protocol that all losses follow: constructor, call, sub-losses, reduction."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fusedml.arguments import check_object, unexpected_keyword
from fusedml.backends import check_backend
from fusedml.distances import LpDistance, check_distance
from fusedml.foreign import is_a, qualified_name
from fusedml.hyperparameters import HyperparameterModule
from fusedml.inputs import Batch, make_batch
from fusedml.precision import result_dtype
from fusedml.reducers import (
    BaseReducer,
    LossInfo,
    MeanReducer,
    MultipleReducers,
    check_reducer,
    twin_of,
)
from fusedml.routes.choice import Pairs, labelled_pairs, listed_pairs
from fusedml.routes.listed import ListedPairs, PairIndices
from fusedml.routes.pair_losses import PairLosses

IndicesTuple = Sequence[Tensor]

# exact types: a subclass may add the sub-losses up in its own way
_MULTIPLE_REDUCERS = (
    "fusedml.reducers.MultipleReducers",
    "pytorch_metric_learning.reducers.multiple_reducers.MultipleReducers",
)


class BaseLoss(HyperparameterModule):
    """A loss over pairs of a batch, with pytorch-metric-learning's constructor and call.

    distance: a ``fusedml.distances`` or pytorch-metric-learning object.  Cosine, dot product and
        Euclidean distance (p = 2, power 1 or 2) are fused; any other is computed in blocks of rows,
        in bounded memory, with one warning.
    reducer: a ``fusedml.reducers`` or pytorch-metric-learning object.
    embedding_regularizer, embedding_reg_weight: a function of the embeddings, added to the loss.
    collect_stats: keep what the loss says it records, at the price of host syncs.
    backend: "auto", "cuda" or "torch".  An explicit choice never falls back to another.

    Raises TypeError on an unknown keyword, and on a distance or reducer that is no object or does
    not say whether it is a similarity; ValueError on an unknown backend.
    """

    def __init__(
        self,
        *,
        distance: nn.Module | None = None,
        reducer: nn.Module | None = None,
        embedding_regularizer: nn.Module | None = None,
        embedding_reg_weight: float = 1,
        collect_stats: bool | None = None,
        backend: str = "auto",
        **unknown: Any,
    ) -> None:
        for name, value in unknown.items():
            hint = _instead_of_reduction(value) if name == "reduction" else None
            raise unexpected_keyword(type(self), name, hint=hint)
        super().__init__()
        if distance is not None:
            check_distance(distance)
        if embedding_regularizer is not None:
            check_object("embedding_regularizer", embedding_regularizer)
        self.collect_stats = bool(collect_stats)
        self.distance = self.get_default_distance() if distance is None else distance
        self.embedding_regularizer = embedding_regularizer
        self.embedding_reg_weight = embedding_reg_weight
        self.backend = check_backend(backend)
        self.set_reducer(reducer)

    def get_default_distance(self) -> nn.Module:
        """The distance of a loss constructed without one."""
        return LpDistance(p=2)

    def get_default_reducer(self) -> nn.Module:
        """The reducer of a loss constructed without one."""
        return MeanReducer()

    def sub_loss_names(self) -> list[str]:
        """Names of the losses that are reduced one by one and added up."""
        names = self._sub_loss_names()
        return names if self.embedding_regularizer is None else [*names, "embedding_reg_loss"]

    def _sub_loss_names(self) -> list[str]:
        return ["loss"]

    def set_reducer(self, reducer: nn.Module | None) -> None:
        """Sets ``reducer``: a copy of it for every sub-loss, if there are several."""
        if reducer is not None:
            check_reducer(reducer)
        names = self.sub_loss_names()
        if reducer is not None and (
            is_a(reducer, "reducers", "MultipleReducers")
            or is_a(reducer, "reducers", "DoNothingReducer")
        ):
            self.reducer = reducer
            return
        copies = {
            name: self.get_default_reducer() if reducer is None else copy.deepcopy(reducer)
            for name in names
        }
        self.reducer = copies[names[0]] if len(names) == 1 else MultipleReducers(copies)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: IndicesTuple | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Any:
        """The loss, 0-d, in the dtype of the embeddings (under autocast float32).

        embeddings: [n, d], floating point.  labels: [n], any dtype and values.
        indices_tuple: None for all pairs by label; or (anchors, positives, negatives), or
            (anchors, positives, anchors, negatives), int64.
        ref_emb: [m, d], ref_labels: [m]: what the embeddings are compared with instead of with
            themselves.  The pairs i == j are left out unless ref_labels is another object.

        Raises ValueError or TypeError on wrong shapes, dtypes or devices; ValueError if neither
        labels nor indices_tuple is given.
        """
        self.check_call(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        batch = make_batch(embeddings, labels, ref_emb, ref_labels, indices_tuple is None)
        losses = self.sub_losses(batch, indices_tuple)
        if self.embedding_regularizer is not None:
            regularization = self.embedding_regularizer(embeddings) * self.embedding_reg_weight
            losses["embedding_reg_loss"] = already_reduced(regularization)
        return self._reduce(losses, batch)

    def check_call(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: IndicesTuple | None,
        ref_emb: Tensor | None,
        ref_labels: Tensor | None,
    ) -> None:
        """Raises on what this loss does not accept; nothing, unless overridden."""

    def sub_losses(
        self, batch: Batch, indices_tuple: IndicesTuple | None
    ) -> dict[str, LossInfo | PairLosses]:
        """The losses of a batch by name, before reduction."""
        raise NotImplementedError

    def labelled_pairs(self, batch: Batch) -> Pairs:
        """All pairs of the batch by label."""
        return labelled_pairs(batch.problem(), self.distance, self.backend, type(self).__name__)

    def listed_pairs(self, indices: PairIndices, batch: Batch) -> ListedPairs:
        """The listed pairs of the batch."""
        return listed_pairs(
            indices,
            batch.embeddings,
            batch.references,
            self.distance,
            self.backend,
            type(self).__name__,
        )

    def _reduce(self, losses: dict[str, LossInfo | PairLosses], batch: Batch) -> Any:
        dtype = result_dtype(batch.embeddings)
        if not is_a(self.reducer, "reducers", "MultipleReducers"):
            if is_a(self.reducer, "reducers", "DoNothingReducer"):
                return self.reducer(_listed(losses, dtype), batch.embeddings, batch.labels)
            (item,) = losses.items()
            return self._reduce_one(self.reducer, *item, batch).to(dtype)
        if qualified_name(self.reducer) not in _MULTIPLE_REDUCERS:
            return self.reducer(_listed(losses, dtype), batch.embeddings, batch.labels).to(dtype)
        several: Any = self.reducer
        reducers, default = several.reducers, several.default_reducer
        total: Any = 0
        for name, info in losses.items():
            reducer = reducers[name] if name in reducers else default  # noqa: SIM401
            total = total + self._reduce_one(reducer, name, info, batch)
        return total.to(dtype)

    def _reduce_one(
        self, reducer: nn.Module, name: str, info: LossInfo | PairLosses, batch: Batch
    ) -> Tensor:
        reducer = twin_of(reducer)
        if isinstance(info, PairLosses):
            if isinstance(reducer, BaseReducer) and reducer.sums_rows(info.reduction_type):
                return reducer.reduce_rows(info.rows(), batch.embeddings, batch.labels)
            info = listed_info(info)
        return reducer({name: info}, batch.embeddings, batch.labels)


def _instead_of_reduction(value: Any) -> str:
    reducer = {"mean": "MeanReducer()", "sum": "SumReducer()"}.get(value)
    functions = f"take reduction={value!r}, as in fusedml.functional"
    if reducer is None:
        return f"only the functions {functions}"
    return f"write reducer=fusedml.reducers.{reducer}; only the functions {functions}"


def element_losses(losses: Tensor, **extra: Any) -> LossInfo:
    """Losses [k] of rows 0, 1, ..., as reducers take them."""
    indices = torch.arange(losses.shape[0], device=losses.device)
    return {"losses": losses, "indices": indices, "reduction_type": "element", **extra}


def already_reduced(loss: Tensor) -> LossInfo:
    """A 0-d loss, as reducers take it."""
    return {"losses": loss, "indices": None, "reduction_type": "already_reduced"}


def listed_info(losses: PairLosses) -> LossInfo:
    """The single pair losses, as reducers take them: memory proportional to their number."""
    listed = losses.listed()
    is_element = losses.reduction_type == "element"
    indices = listed.rows if is_element else (listed.rows, listed.columns)
    return {
        "losses": listed.losses,
        "indices": indices,
        "reduction_type": losses.reduction_type,
    }


def _listed(losses: dict[str, LossInfo | PairLosses], dtype: torch.dtype) -> dict[str, LossInfo]:
    """Everything as reducers of other kinds expect it: listed, in the dtype of the result."""
    result = {}
    for name, info in losses.items():
        expected = listed_info(info) if isinstance(info, PairLosses) else info
        result[name] = {**expected, "losses": expected["losses"].to(dtype)}
    return result
