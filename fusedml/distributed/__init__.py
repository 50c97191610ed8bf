"""Losses of the global batch, the rows of all ranks of ``torch.distributed``."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fusedml.distances import fused_measure
from fusedml.distributed.class_shards import (
    check_shards,
    check_takes_shards,
    loss_of_shards,
    own_classes,
)
from fusedml.distributed.exchange import Exchange, num_ranks, placeholder
from fusedml.distributed.shared_pairs import SharedPairs
from fusedml.distributed.shared_towers import Towers, shared_losses
from fusedml.engine.arguments import (
    NamedArguments,
    check_choice,
    check_count,
    check_flag,
    check_object,
)
from fusedml.engine.backends import DENSE
from fusedml.engine.foreign import refuse_forward
from fusedml.engine.inputs import (
    Batch,
    as_members,
    check_embeddings,
    check_labels,
    check_not_swapped,
)
from fusedml.engine.labels import on_device
from fusedml.engine.pairs import PairProblem
from fusedml.engine.precision import prepare, tile_dtype
from fusedml.engine.routes.choice import Pairs
from fusedml.engine.routes.pair_losses import PairLosses
from fusedml.formulas import Hyperparameter, pack
from fusedml.losses import TWO_TOWER_LOSSES
from fusedml.losses.base import BaseLoss, IndicesTuple, listed_info
from fusedml.losses.class_weights import ClassWeightsLoss
from fusedml.losses.formula_loss import RowwiseLoss
from fusedml.losses.two_towers import TwoTowerLoss
from fusedml.memory import CrossBatchMemory
from fusedml.reducers import LossInfo

__all__ = ["DistributedLoss", "DistributedLossWrapper", "own_classes"]

SubLosses = dict[str, LossInfo | PairLosses]
EXCHANGES = ("gather", "ring")


class DistributedLoss(NamedArguments, nn.Module):
    """The loss of the rows of all ranks, on every rank, from each rank's own rows.

    Called like the loss, with this rank's embeddings and labels; ranks may have different numbers
    of rows, or none.  Gradients are those of one process on the global batch times the number of
    ranks, so that the mean over the ranks, which DistributedDataParallel takes, is the gradient of
    that one process: of the model and of the loss's own parameters.  No gradient travels: what does
    is, for N rows of d numbers of e bytes on P ranks,

        N_max (P - 1) (d e + 8) bytes of embeddings and labels to each rank, and
        28 N_max (P - 1) of statistics (16 more with ``mining_epsilon``),

    N_max the rows of the rank that has most, in float32; a ring sends the embeddings once more in
    the backward (and once more with ``mining_epsilon``), and no rank holds all of them.  What each
    rank computes:

    * losses of one term per anchor (``RowwiseLoss``): its rows against all columns;
    * ``ClipLoss``, ``InfoNCELoss``: its rows of both sets against all of the other, which both
      travel (28 bytes a row in each direction that has a loss);
    * losses against a vector for each class: its own rows, and embeddings do not travel at all;
    * such losses with ``num_classes``, of which each rank has the vectors of C_r classes: all rows
      against its own vectors;
    * losses of one term per positive pair: the log-sum-exps of its rows, and all positive pairs;
    * all others, and index tuples, other distances, references, memory banks: all pairs of the
      global batch.

    With ``num_classes`` no vector of a class travels, but two numbers a row do, and the gradients
    of the embeddings: with n own rows

        N_max (P - 1) (d e + 16) + n (P - 1) (d e + 8) bytes to each rank,

    and for ``ProxyAnchorLoss`` 8 C_max (P - 1) instead of 8 (N_max + n) (P - 1) of numbers.

    Args:
        loss: one of ``fusedml.losses``, of embeddings and labels or of two sets of features; or a
            ``CrossBatchMemory``.
        group: a process group, None for the default one.
        exchange: "gather", or "ring" to pass the embeddings from rank to rank, for losses of one
            term per anchor and of two sets of features.
        num_classes: None where each rank has the vectors of all classes; or how many all ranks
            have together, of which ``loss`` has this rank's, ``own_classes(num_classes)``.  Their
            gradient is that of one process: DistributedDataParallel must not average it.

    Without an initialised ``torch.distributed``, or in a group of one rank, it is the loss itself.

    Raises:
        TypeError: for what is none of our losses, or overrides ``forward``.
        ValueError: for an unknown exchange, and for "ring" or ``num_classes`` with a loss or an
            input that they do not serve.
    """

    def __init__(
        self,
        loss: nn.Module,
        group: dist.ProcessGroup | None = None,
        exchange: Literal["gather", "ring"] = "gather",
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        check_object("loss", loss)
        if not isinstance(loss, BaseLoss | TwoTowerLoss | CrossBatchMemory):
            raise TypeError(
                "loss must be one of fusedml.losses without a teacher, or a CrossBatchMemory, got "
                f"{type(loss).__name__}"
            )
        refuse_forward(type(self).__name__, loss)
        check_choice("exchange", exchange, EXCHANGES)
        self.loss = loss
        self.group = group
        self.exchange = exchange
        self.num_classes = None if num_classes is None else check_count("num_classes", num_classes)
        if num_classes is not None:
            check_takes_shards(loss)
        if exchange == "ring":
            self._check_ring()

    def _check_ring(self) -> None:
        loss: Any = self.loss
        if isinstance(loss, CrossBatchMemory):
            raise ValueError("exchange='ring' serves no CrossBatchMemory: take 'gather'")
        if isinstance(loss, TwoTowerLoss):
            if loss.is_cross_entropy and loss.backend != DENSE:
                return
            served = [name for name, one in TWO_TOWER_LOSSES.items() if one.is_cross_entropy]
            raise ValueError(
                f"exchange='ring' serves {' and '.join(served)}, and no backend='dense', of two "
                f"sets of features, got {type(loss).__name__}; take exchange='gather'"
            )
        is_served = isinstance(loss, RowwiseLoss) and loss.pairs_equal_labels
        if not is_served or fused_measure(loss.distance) is None or loss.backend == DENSE:
            raise ValueError(
                "exchange='ring' serves losses of one term per anchor, a fused distance and no "
                f"backend='dense', got {type(loss).__name__}; take exchange='gather'"
            )
        if loss.embedding_regularizer is not None:
            raise ValueError("exchange='ring' serves no embedding_regularizer: take 'gather'")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The loss of the global batch, the same bits on every rank.

        Of ``BaseLoss`` with (embeddings, labels, indices_tuple, ref_emb, ref_labels):

            embeddings: [n, d], this rank's.
            labels: [n] or [n, C], or None with an index tuple.
            indices_tuple: None, or one of the global batch, the same on every rank: rank 0's rows
                come first.
            ref_emb: [m, d], this rank's; those of all ranks are the references.
            ref_labels: [m] or [m, C].

        Of ``CrossBatchMemory`` with (embeddings, labels, indices_tuple, enqueue_mask), whose queue
        is of the rows of all ranks, the same on each.  Of ``TwoTowerLoss`` as the loss, with this
        rank's features.

        Raises:
            ValueError, TypeError: as the loss does.
        """
        if num_ranks(self.group) == 1:
            if self.num_classes is not None:
                check_shards([self.loss.num_classes], self.num_classes)  # type: ignore[list-item]
            return self.loss(*args, **kwargs)
        if isinstance(self.loss, TwoTowerLoss):
            names = self.loss.input_names
            named = dict(zip(names, args[:2], strict=False)) | kwargs
            features = [named.pop(name) for name in names]
            return self._of_towers(self.loss, *features, *args[2:], **named)
        if isinstance(self.loss, CrossBatchMemory):
            return self._of_memory(self.loss, *args, **kwargs)
        return self._of_embeddings(*args, **kwargs)

    def _of_memory(
        self,
        memory: CrossBatchMemory,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: IndicesTuple | None = None,
        enqueue_mask: Tensor | None = None,
    ) -> Any:
        """Every rank has the same queue, of the rows of all."""
        check_not_swapped(embeddings, labels)
        check_embeddings(embeddings)
        check_labels(labels, embeddings, label_rule=memory.loss.rule_of_sets())
        exchange = Exchange(self.group, embeddings, "embeddings")
        all_labels = exchange.gather(as_members(on_device(labels, embeddings.device)))
        mask = enqueue_mask
        if mask is not None:
            mask = exchange.gather(mask.to(embeddings.device))
        return memory(exchange.joined(embeddings), all_labels, indices_tuple, mask)

    def _of_towers(
        self, loss: TwoTowerLoss, features: Tensor, others: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """A loss of two sets of features."""
        loss.check(features, others)
        both_exchanges = tuple(
            Exchange(self.group, x, name)
            for x, name in zip((features, others), loss.input_names, strict=True)
        )
        of_features, of_others = both_exchanges
        towers = Towers((of_features, of_others), self.exchange, loss.backend)
        shared = copy.copy(loss)
        if loss.backend == DENSE or not loss.is_cross_entropy:
            rows, columns = of_features.joined(features), of_others.joined(others)
            order = torch.argsort(towers.codes[1]).to(columns.device)
            return shared(rows, columns[order], *args, **kwargs)
        dtype = tile_dtype(features)
        own = prepare(features, dtype, loss.normalizes), prepare(others, dtype, loss.normalizes)

        def losses(_: Tensor, __: Tensor, scale: Hyperparameter, both: bool) -> Tensor:
            return shared_losses(towers, own, pack(scale, 0.0, scale, 0.0), both)

        shared.losses = losses  # type: ignore[method-assign, assignment]
        places = placeholder(features, of_features.num_rows, 0.0)
        return shared(places, placeholder(others, of_others.num_rows, 0.0), *args, **kwargs)

    def _of_embeddings(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: IndicesTuple | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
        self_offset: int | None = None,
    ) -> Any:
        """A loss of embeddings and labels, called as ``BaseLoss``."""
        if self_offset is not None:
            raise ValueError(
                f"self_offset is not supported by {type(self).__name__}, which gathers the rows "
                "and leaves out their own pairs itself"
            )
        check_not_swapped(embeddings, labels)
        check_embeddings(embeddings)
        assert isinstance(self.loss, BaseLoss)  # forward
        given_labels = labels
        if labels is not None:
            check_labels(labels, embeddings, label_rule=self.loss.rule_of_sets())
            labels = as_members(on_device(labels, embeddings.device))
        exchange = Exchange(self.group, embeddings, "embeddings")
        all_labels = None if labels is None else exchange.gather(labels)
        shared = copy.copy(self.loss)
        if self.num_classes is not None:
            if ref_emb is not None or ref_labels is not None:
                raise ValueError(f"ref_emb is not supported for {type(shared).__name__}")
            return loss_of_shards(
                shared, self.num_classes, exchange, embeddings, all_labels, indices_tuple
            )
        if ref_emb is None and indices_tuple is None and all_labels is not None:
            if isinstance(self.loss, ClassWeightsLoss) and self.loss.has_independent_rows():
                return self._of_rows(shared, exchange, embeddings, labels, all_labels)
            return self._of_pairs(shared, exchange, embeddings, all_labels)
        if self.exchange == "ring":
            raise ValueError("exchange='ring' serves no references and no index tuples")
        rows = exchange.joined(embeddings)
        if ref_emb is None:
            return shared(rows, all_labels, indices_tuple)
        return shared(
            rows,
            all_labels,
            indices_tuple,
            *self._references(rows, embeddings, given_labels, all_labels, ref_emb, ref_labels),
        )

    def _references(
        self,
        rows: Tensor,
        embeddings: Tensor,
        labels: Tensor | None,
        all_labels: Tensor | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Those of all ranks; the batch itself and its labels remain these."""
        check_embeddings(ref_emb, "ref_emb")
        others = Exchange(self.group, ref_emb, "ref_emb")
        references = rows if ref_emb is embeddings else others.joined(ref_emb)
        if ref_labels is None or ref_labels is labels:
            return references, all_labels if ref_labels is not None else None
        assert isinstance(self.loss, BaseLoss)  # forward
        check_labels(ref_labels, ref_emb, "ref_labels", self.loss.rule_of_sets())
        return references, others.gather(as_members(on_device(ref_labels, ref_emb.device)))

    def _of_rows(
        self,
        shared: BaseLoss,
        exchange: Exchange,
        embeddings: Tensor,
        labels: Tensor | None,
        all_labels: Tensor,
    ) -> Any:
        """A loss of each row by itself: the losses travel instead of the embeddings."""
        of_own = shared.sub_losses

        def sub_losses(batch: Batch, _: IndicesTuple | None) -> SubLosses:
            own = of_own(batch._replace(embeddings=embeddings, labels=labels), None)
            found: SubLosses = {}
            for name, losses in own.items():
                info = listed_info(losses) if isinstance(losses, PairLosses) else losses
                found[name] = info
                if info["reduction_type"] == "element":
                    info["losses"] = exchange.joined(info["losses"])
                    info["indices"] = torch.arange(exchange.num_rows, device=embeddings.device)
            return found

        shared.sub_losses = sub_losses  # type: ignore[method-assign, assignment]
        rows = placeholder(embeddings, exchange.num_rows, 0.0)
        if shared.embedding_regularizer is not None:
            rows = exchange.joined(embeddings)
        return shared(rows, all_labels)

    def _of_pairs(
        self, shared: BaseLoss, exchange: Exchange, embeddings: Tensor, all_labels: Tensor
    ) -> Any:
        """A loss of pairs: those of the batch with itself are shared out."""
        is_ring = self.exchange == "ring"
        rows = (
            placeholder(embeddings, exchange.num_rows, torch.nan)
            if is_ring
            else exchange.joined(embeddings)
        )
        measure = fused_measure(shared.distance)
        ordinary = shared.pairs_of

        def pairs_of(problem: PairProblem, matrix: Any = None, is_prepared: bool = False) -> Pairs:
            is_own = problem.anchors is rows and problem.references is None
            if not is_own or measure is None or is_prepared or shared.backend == DENSE:
                return ordinary(problem, matrix, is_prepared)
            return SharedPairs(
                exchange,
                self.exchange,
                problem,
                embeddings,
                measure,
                shared.backend,
                lambda: ordinary(problem, matrix, is_prepared),
            )

        shared.pairs_of = pairs_of  # type: ignore[method-assign]
        return shared(rows, all_labels)


class DistributedLossWrapper(DistributedLoss):
    """:class:`DistributedLoss` by pytorch-metric-learning's name, whose own refuses our losses.

    As there the value is the loss of the global batch times the number of ranks; the gradients are
    those of :class:`DistributedLoss`, which are theirs.

    Args:
        loss: one of ``fusedml.losses``, or a ``CrossBatchMemory``.
        efficient: False.  With True theirs compares a rank's rows with constants, and loses the
            others' part of the gradient, which costs nothing here.

    Raises:
        TypeError: for what is none of our losses.
        ValueError: for ``efficient=True``, and for references with a ``CrossBatchMemory``.
    """

    def __init__(self, loss: nn.Module, efficient: bool = False) -> None:
        super().__init__(loss)
        if check_flag("efficient", efficient):
            raise ValueError(
                "efficient must be False, got True: each rank reduces only its own rows here, and "
                "has their whole gradient all the same"
            )

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: IndicesTuple | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
        enqueue_mask: Tensor | None = None,
    ) -> Any:
        """The loss times the number of ranks; ``enqueue_mask`` is of a ``CrossBatchMemory``."""
        rest = ref_emb, ref_labels
        if isinstance(self.loss, CrossBatchMemory):
            if ref_emb is not None or ref_labels is not None:
                raise ValueError("ref_emb and ref_labels are not supported for a CrossBatchMemory")
            rest = (enqueue_mask,)  # type: ignore[assignment]
        loss = super().forward(embeddings, labels, indices_tuple, *rest)
        return loss + (num_ranks() - 1) * loss.detach()
