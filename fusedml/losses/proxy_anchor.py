"""Proxy-Anchor loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from fusedml.distances import CosineSimilarity
from fusedml.engine.inputs import Batch
from fusedml.engine.routes.choice import Pairs
from fusedml.engine.routes.pair_losses import PairLosses
from fusedml.engine.routes.proxies import (
    check_class_labels,
    num_classes_present,
    proxy_pairs,
    tuple_weights,
)
from fusedml.errors import LabelError
from fusedml.formulas import RowFormula, pack
from fusedml.heads import softplus
from fusedml.hyperparameters import Checks, any_number, positive_number
from fusedml.losses.base import IndicesTuple, Promises, already_reduced, element_losses
from fusedml.losses.class_weights import ClassWeightsLoss, WeightOptions
from fusedml.reducers import DivisorReducer, LossInfo, parts_of, twin_of

if TYPE_CHECKING:
    from typing_extensions import Unpack


class ProxyAnchorLoss(ClassWeightsLoss):
    """L_c = log(1 + sum_{y_i = c} e^{-alpha (s_ci - margin)})
           + log(1 + sum_{y_i != c} e^{alpha (s_ci + margin)}).

    s_ci is the cosine similarity of proxy c and embedding i.  The sum over c of the first term is
    divided by the number of classes in the batch, that of the second by num_classes.  The proxies
    are the parameter ``proxies``, [num_classes, embedding_size], drawn from
    kaiming_normal_(mode="fan_out"); the authors train them with 100 times the learning rate.  They
    are cast to the dtype and moved to the device of the embeddings for the computation; the
    parameter itself stays as it is (pytorch-metric-learning overwrites it, and loses precision
    after a half-precision batch).

    An index tuple becomes a weight w_i for each sample, its count relative to the largest, which
    multiplies the exponentials by e^{w_i - 1}.

    A sample of several classes, with labels [n, num_classes], is a positive of the proxy of each,
    at the price of num_classes^2 / 8 bytes.

    Args:
        num_classes: labels are integers in [0, num_classes).
        embedding_size: columns of the embeddings.
        margin: a similarity.
        alpha: > 0.
        weight_regularizer: a function of the proxies, added to the loss.
        weight_reg_weight: its factor.
        weight_init_func: initialises the proxies in place.

    Raises:
        ValueError: without labels or with references; for label_rule="all".
        LabelError: (a ValueError and RuntimeError) for labels that are not integers in
            [0, num_classes), the range being checked on the CPU only.

    Source: Kim et al., "Proxy Anchor Loss for Deep Metric Learning", CVPR 2020, eq. (4).
    """

    pml_hooks = ("get_logits",)  # theirs makes the loss of them
    default_distance = CosineSimilarity
    takes_label_sets = True
    default_reducer = DivisorReducer
    hyperparameters: ClassVar[Checks] = {"margin": any_number, "alpha": positive_number}
    weights_name = "proxies"
    takes_shards = True
    promises = Promises({128: 3.0}, to_a_million_classes=True)

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float | Tensor = 0.1,
        alpha: float | Tensor = 32,
        **kwargs: Unpack[WeightOptions],
    ) -> None:
        super().__init__(num_classes, embedding_size, **kwargs)
        if self.label_rule == "all":
            raise ValueError("label_rule must be 'any', as a proxy is of one class, got 'all'")
        self.margin = margin
        self.alpha = alpha

    def get_default_weight_init_func(self) -> Callable[[Tensor], Any]:
        return partial(nn.init.kaiming_normal_, mode="fan_out")

    @classmethod
    def matrix_shape(
        cls, class_sizes: Sequence[int], num_references: int, num_classes: int
    ) -> tuple[int, int]:
        return num_classes, sum(class_sizes)  # the proxies are the anchors

    def has_independent_rows(self) -> bool:
        return False

    def term_names(self) -> list[str]:
        return ["pos_loss", "neg_loss"]

    def logit(self, sign: float) -> Tensor:
        alpha, margin = sign * self.value_of("alpha"), self.value_of("margin")
        return pack(-alpha, alpha * margin, alpha, alpha * margin)

    def sub_losses(
        self, batch: Batch, indices_tuple: IndicesTuple | None
    ) -> dict[str, LossInfo | PairLosses]:
        assert batch.labels is not None  # it takes no references
        num_classes, shard = self.num_all_classes(), self.shard
        if batch.labels.ndim == 2:
            _check_num_columns(batch.labels, num_classes)
        else:
            check_class_labels(batch.labels, num_classes)
        pairs = self._pairs(batch, batch.labels, indices_tuple)
        present = num_classes_present(batch.labels, num_classes)
        if self._only_divides() and shard is None:
            # both on the device: a number would be copied there in every step
            divisors = pack(present, torch.full_like(present, num_classes))
            formula = RowFormula(self.logit, None, "softplus_sum", divisors)
            losses: dict[str, Any] = {"loss": already_reduced(pairs.row_losses(formula).sum())}
        else:
            row = pairs.row_statistics(RowFormula(self.logit, None))
            classes = torch.arange(num_classes, device=batch.embeddings.device)
            lines = [softplus(lse) for lse in (row.lse_positive, row.lse_negative)]
            if shard is not None:
                lines = [*shard.lines(torch.stack(lines, 1)).unbind(1)]
            losses = {
                name: element_losses(of_lines, divisor=divisor, labels=classes)
                for name, of_lines, divisor in zip(
                    self.term_names(), lines, (present, num_classes), strict=True
                )
            }
        return losses | self.weight_regularization(batch.embeddings)

    def _only_divides(self) -> bool:
        """Whether both terms are summed and divided, so that the fused form can do it."""
        reducers = parts_of(self.reducer, self.term_names())
        twins = [None] if reducers is None else [*map(twin_of, reducers)]
        return all(twin is not None and twin.divides and not twin.collect_stats for twin in twins)

    def _pairs(self, batch: Batch, labels: Tensor, indices_tuple: IndicesTuple | None) -> Pairs:
        proxies = self.class_vectors(batch.embeddings)
        if labels.ndim == 2:
            first = 0 if self.shard is None else self.shard.begin
            labels = labels[:, first : first + proxies.shape[0]]
        elif self.shard is not None:
            labels = labels.long() - self.shard.begin  # by the own proxies' numbers
        weights = tuple_weights(indices_tuple, batch)
        return proxy_pairs(proxies, batch.embeddings, labels, self.distance, self.pairs_of, weights)


def _check_num_columns(labels: Tensor, num_classes: int) -> None:
    if labels.shape[1] != num_classes:
        raise LabelError(
            f"labels must be of num_classes = {num_classes} columns, or one number a row, got "
            f"shape {tuple(labels.shape)}"
        )
