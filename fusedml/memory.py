"""Queues of embeddings of earlier batches, as more references than a batch has rows.

The rows of the batch at hand are in the queue, too, and no row may meet itself: row i of the batch
is reference (i + offset) mod m, and that pair is left out.  Nothing is listed, and the queue is not
copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from fusedml.engine.arguments import check_object, refuse_keywords
from fusedml.engine.foreign import check_local, refuse_forward, refuse_hooks
from fusedml.engine.inputs import (
    Batch,
    as_members,
    check_labels,
    check_not_swapped,
    check_references,
    check_tensor,
    pair_indices,
)
from fusedml.engine.labels import alike, on_device
from fusedml.engine.queue import Queue, outside_of_graphs
from fusedml.losses.base import BaseLoss
from fusedml.losses.two_towers import TwoTowerLoss

IndicesTuple = Sequence[Tensor]


class CrossBatchMemory(Queue):
    """A loss of each batch against the last ``memory_size`` embeddings, those of the batch among
    them: L(a; r) of anchors a_i and references r_j, without the pairs of a row with itself.

    With pytorch-metric-learning's constructor and call.  No pair is listed unless there is a miner
    or an index tuple: a step costs the loss against as many references, and beside the queue one
    copy of it where the loss normalises.  ``MultiSimilarityLoss(mining_epsilon=)`` mines in it.

    The gradient flows to the batch, not to what is remembered.  The queue is in the dtype and on
    the device of the embeddings it is called with.  ``len(memory)`` is what it holds, and the
    ``state_dict`` says how far it is filled.  Under ``torch.compile`` the queue breaks the graph,
    the loss is a graph of its own, and a step copies the queue once more.

    Where pytorch-metric-learning differs: ``NCALoss`` meets a row's own copy there, at distance 0,
    and an index tuple's columns are taken for places in the queue, not in the batch.

    Args:
        loss: one of ``fusedml.losses`` that takes ``ref_emb``.
        embedding_size: columns of the embeddings.
        memory_size: how many embeddings are remembered.
        miner: None, or a function (embeddings, labels, ref_emb, ref_labels) -> index tuple, whose
            pairs of a row with itself are left out.
        memory_dtype: None for that of the embeddings, or another, such as torch.bfloat16.
        num_classes: None for labels [n]; or C, for labels [n, C], several a row.

    Raises:
        TypeError: for a loss that is none of ours or overrides ``forward``, or a miner that is no
            function.
        ValueError: for a loss that takes no ``ref_emb``, and for sizes below 1.

    Source: Wang et al., "Cross-Batch Memory for Embedding Learning", CVPR 2020.
    """

    #: methods of pytorch-metric-learning's class that are never called here
    pml_hooks: ClassVar[tuple[str, ...]] = (
        *("add_to_memory", "create_indices_tuple", "supported_losses", "check_loss_support"),
    )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        refuse_hooks(cls, "forward")

    def __init__(
        self,
        loss: BaseLoss,
        embedding_size: int,
        memory_size: int = 1024,
        miner: Callable[..., IndicesTuple] | None = None,
        *,
        memory_dtype: torch.dtype | None = None,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(
            embedding_size, memory_size, memory_dtype, has_labels=True, num_classes=num_classes
        )
        check_object("loss", loss)
        if not isinstance(loss, BaseLoss):
            raise TypeError(f"loss must be one of fusedml.losses, got {type(loss).__name__}")
        refuse_forward("CrossBatchMemory", loss)
        if not loss.takes_references:
            raise ValueError(
                f"loss must be one that takes ref_emb, got {type(loss).__name__}, which does not"
            )
        if miner is not None:
            check_object("miner", miner)
            if isinstance(miner, BaseLoss):
                raise TypeError(f"miner must make index tuples, got {type(miner).__name__}, a loss")
        self.loss = loss
        self.miner = miner

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: IndicesTuple | None = None,
        enqueue_mask: Tensor | None = None,
        **_unknown: Any,
    ) -> Any:
        """The loss, 0-d, after the batch was enqueued.

        Args:
            embeddings: [n, d], floating point.
            labels: [n], any dtype and values; or [n, num_classes], see ``BaseLoss``.
            indices_tuple: None, or pairs of the batch, (anchors, positives, negatives) or (anchors,
                positives, anchors, negatives), int64, beside the miner's or all pairs by label.
                It costs memory in proportion to all of these.
            enqueue_mask: None to enqueue all rows, which are all anchors; or bool [n]: the rows
                to enqueue, such as those of a momentum encoder, the others being the anchors.

        Raises:
            ValueError: for wrong shapes, for both a tuple and a mask, and for more rows to enqueue
                than ``memory_size``.
            TypeError: for wrong dtypes.
            IndexError: for a tuple of other rows than the batch's.
        """
        refuse_keywords(self, _unknown)
        check_not_swapped(embeddings, labels)
        self.check(embeddings, "embeddings")
        check_labels(labels, embeddings, label_rule=self.loss.rule_of_sets())
        self.check_num_classes(labels)
        labels = as_members(on_device(labels, embeddings.device))
        if enqueue_mask is None:
            self.check_size(embeddings.shape[0])
            if indices_tuple is not None:
                pair_indices(indices_tuple, Batch(embeddings, labels, None, None, True))
            given = embeddings, labels, embeddings, labels, indices_tuple
            return self._loss_of(*given, is_own=True, is_compiled=torch.compiler.is_compiling())
        if indices_tuple is not None:
            raise ValueError("indices_tuple and enqueue_mask are mutually exclusive")
        check_tensor(enqueue_mask, "enqueue_mask")
        check_local(enqueue_mask, "enqueue_mask")
        if enqueue_mask.dtype != torch.bool or enqueue_mask.shape != labels.shape[:1]:
            raise ValueError(
                f"enqueue_mask must be bool of shape {tuple(labels.shape[:1])}, got "
                f"{enqueue_mask.dtype} of shape {tuple(enqueue_mask.shape)}"
            )
        mask = enqueue_mask.to(embeddings.device)
        rows, row_labels = embeddings[mask], labels[mask]
        self.check_size(rows.shape[0])
        given = embeddings[~mask], labels[~mask], rows, row_labels, None
        return self._loss_of(*given, is_own=False, is_compiled=torch.compiler.is_compiling())

    if TYPE_CHECKING:

        def __call__(
            self,
            embeddings: Tensor,
            labels: Tensor,
            indices_tuple: IndicesTuple | None = None,
            enqueue_mask: Tensor | None = None,
        ) -> Tensor:
            """See ``forward``."""

    @outside_of_graphs(False)
    def _loss_of(
        self,
        embeddings: Tensor,
        labels: Tensor,
        rows: Tensor,
        row_labels: Tensor,
        indices_tuple: IndicesTuple | None,
        is_own: bool,
        is_compiled: bool,
    ) -> Any:
        """The loss after ``rows`` were enqueued.  is_own: whether these are the embeddings."""
        stored, first = self.enqueue(rows, row_labels, is_compiled)
        assert stored.labels is not None  # has_labels
        check_references(embeddings, stored.embeddings, "embedding_memory")
        rule, offset = self.loss.rule_of_sets(), first if is_own else None
        batch = Batch(embeddings, labels, *stored, is_own, rule, offset)
        return self.loss.of_batch(batch, self._indices(batch, indices_tuple))

    def _indices(self, batch: Batch, given: IndicesTuple | None) -> IndicesTuple | None:
        """The miner's pairs, or all by label if only a tuple is given; with those of the tuple,
        which is of the batch.
        """
        if self.miner is None:
            if given is None:
                return None
            found = _all_pairs(batch)
        else:
            found = self.miner(
                batch.embeddings, batch.labels, batch.references, batch.reference_labels
            )
        if batch.exclude_diagonal:
            found = _without_own(batch, found)
        if given is None:
            return found
        given = _in_queue(batch, given)
        if len(found) != len(given):
            found, given = _as_pairs(found), _as_pairs(given)
        return tuple(torch.cat([a, b.to(a.device)]) for a, b in zip(found, given, strict=True))


def _all_pairs(batch: Batch) -> IndicesTuple:
    problem = batch.problem()
    assert problem.reference_labels is not None  # the references' own
    is_positive = alike(problem.anchor_labels, problem.reference_labels)
    return (*is_positive.nonzero(as_tuple=True), *(~is_positive).nonzero(as_tuple=True))


def _in_queue(batch: Batch, indices: IndicesTuple) -> IndicesTuple:
    """An index tuple of the batch with the places in the queue of all but the anchors."""
    rows, positives, *rest, negatives = indices
    return (rows, batch.own_columns(positives), *rest, batch.own_columns(negatives))


def _without_own(batch: Batch, indices: IndicesTuple) -> IndicesTuple:
    """Without the pairs of a row with itself: negatives, too, of a label that equals nothing."""
    rows, positives, *rest, negatives = indices
    is_positive = batch.own_columns(rows) != positives
    is_negative = batch.own_columns(rest[0] if rest else rows) != negatives
    if not rest:
        is_positive = is_negative = is_positive & is_negative
    of_negatives = [index[is_negative] for index in (*rest, negatives)]
    return (rows[is_positive], positives[is_positive], *of_negatives)


def _as_pairs(indices: IndicesTuple) -> IndicesTuple:
    if len(indices) == 4:
        return indices
    rows, positives, negatives = indices
    return rows, positives, rows, negatives


class MomentumQueue(Queue):
    """InfoNCE of queries against their keys and a queue of earlier keys, as MoCo trains with.

        L_i = -log(e^{s(q_i, k_i) / T} / sum_j e^{s(q_i, k_j) / T}), j over the last keys

    The keys of the batch are the first of the last ``memory_size`` ones: unlike in the paper those
    of other rows are negatives, too.  The gradient flows to the queries; the keys are those of a
    momentum encoder, and receive none.

    Args:
        loss: one of queries and documents with a term for each query, whose temperature it is:
            ``InfoNCELoss()``.
        embedding_size: columns of queries and keys.
        memory_size: how many keys are remembered.
        memory_dtype: None for that of the keys, or another, such as torch.bfloat16.

    Raises:
        TypeError: for a loss that is not of two sets.
        ValueError: for one with terms of documents, too, as a symmetric one, and for sizes below 1.

    Source: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR
    2020, eq. (1) and algorithm 1.
    """

    def __init__(
        self,
        loss: TwoTowerLoss,
        embedding_size: int,
        memory_size: int = 65536,
        *,
        memory_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(embedding_size, memory_size, memory_dtype, has_labels=False)
        check_object("loss", loss)
        if not isinstance(loss, TwoTowerLoss):
            raise TypeError(f"loss must be one of queries and documents, got {type(loss).__name__}")
        if not loss.is_of_queries:
            raise ValueError(
                f"loss must have terms of queries alone (symmetric=False), got {loss!r}: keys have "
                "no gradient"
            )
        self.loss = loss

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """The loss, 0-d, after the keys were enqueued.

        Args:
            queries: [n, d], floating point.
            keys: [n, d]; key i belongs to query i.

        Raises:
            ValueError: for wrong shapes, dtypes or devices, and for n > memory_size.
            TypeError: for arguments that are no floating-point tensors.
        """
        self.check(queries, "queries")
        self.check(keys, "keys")
        if keys.shape != queries.shape:
            raise ValueError(
                f"keys must have the shape of queries, {tuple(queries.shape)}, got "
                f"{tuple(keys.shape)}"
            )
        self.check_size(keys.shape[0])
        return self._loss_of(queries, keys, torch.compiler.is_compiling())

    if TYPE_CHECKING:
        __call__ = forward

    @outside_of_graphs(False)
    def _loss_of(self, queries: Tensor, keys: Tensor, is_compiled: bool) -> Tensor:
        with self.at_the_front(keys, None, is_compiled) as (stored, _):
            loss: Tensor = self.loss(queries, stored)
            return loss
