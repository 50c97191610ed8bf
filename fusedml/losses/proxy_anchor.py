"""Proxy-Anchor loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fusedml import formulas
from fusedml.distances import CosineSimilarity
from fusedml.foreign import is_a, qualified_name
from fusedml.heads import softplus
from fusedml.hyperparameters import Checks, any_number, positive_number
from fusedml.inputs import Batch, pair_indices, require_labels_without_references
from fusedml.losses.base import BaseLoss, IndicesTuple, already_reduced, element_losses
from fusedml.reducers import DivisorReducer, LossInfo
from fusedml.routes.choice import Pairs
from fusedml.routes.pair_losses import PairLosses
from fusedml.routes.proxies import (
    check_class_labels,
    check_proxies,
    num_classes_present,
    proxy_pairs,
    sample_weights,
)

_DIVISOR_REDUCERS = (
    "fusedml.reducers.DivisorReducer",
    "pytorch_metric_learning.reducers.divisor_reducer.DivisorReducer",
)


class ProxyAnchorLoss(BaseLoss):
    """sum_c log(1 + sum_{y_i = c} e^{-alpha (s_ci - margin)}) / (number of classes in the batch)
      + sum_c log(1 + sum_{y_i != c} e^{alpha (s_ci + margin)}) / num_classes.

    s_ci is the cosine similarity of proxy c and embedding i.  The proxies are the parameter
    ``proxies``, [num_classes, embedding_size], drawn from kaiming_normal_(mode="fan_out"); the
    authors train them with 100 times the learning rate.  They are cast to the dtype and moved to
    the device of the embeddings for the computation; the parameter itself stays as it is
    (pytorch-metric-learning overwrites it, and loses precision after a half-precision batch).

    margin: a similarity.  alpha: > 0.  An index tuple becomes a weight w_i for each sample, its
    count relative to the largest, which multiplies the exponentials by e^{w_i - 1}.
    weight_regularizer, weight_reg_weight: a function of the proxies, added to the loss.
    weight_init_func: initialises the proxies in place.

    Raises ValueError without labels or with references; LabelError (a ValueError and RuntimeError)
    for labels that are not integers in [0, num_classes), the range being checked on the CPU only.

    Source: Kim et al., "Proxy Anchor Loss for Deep Metric Learning", CVPR 2020, eq. (4).
    """

    hyperparameters: ClassVar[Checks] = {"margin": any_number, "alpha": positive_number}

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float | Tensor = 0.1,
        alpha: float | Tensor = 32,
        *,
        weight_regularizer: nn.Module | None = None,
        weight_reg_weight: float = 1,
        weight_init_func: Callable[[Tensor], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        # before the reducers are set, which depend on it
        self._has_weight_regularizer = weight_regularizer is not None
        super().__init__(**kwargs)
        self.weight_regularizer = weight_regularizer
        self.weight_reg_weight = weight_reg_weight
        self.weight_init_func = weight_init_func or self.get_default_weight_init_func()
        self.num_classes = num_classes
        self.proxies = nn.Parameter(torch.empty(num_classes, embedding_size))
        self.weight_init_func(self.proxies)
        self.margin = margin
        self.alpha = alpha

    def get_default_distance(self) -> nn.Module:
        return CosineSimilarity()

    def get_default_reducer(self) -> nn.Module:
        return DivisorReducer()

    def get_default_weight_init_func(self) -> Callable[[Tensor], Any]:
        """The initialiser of a loss constructed without one."""
        return partial(nn.init.kaiming_normal_, mode="fan_out")

    def _sub_loss_names(self) -> list[str]:
        names = ["pos_loss", "neg_loss"]
        return [*names, "weight_reg_loss"] if self._has_weight_regularizer else names

    def get_logits(self, embeddings: Tensor) -> Tensor:
        """The distance matrix of embeddings [n, d] and proxies, [n, num_classes]."""
        return self.distance(embeddings, self.proxies.to(embeddings))

    def check_call(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: IndicesTuple | None,
        ref_emb: Tensor | None,
        ref_labels: Tensor | None,
    ) -> None:
        require_labels_without_references(embeddings, labels, ref_emb, ref_labels)

    def sub_losses(
        self, batch: Batch, indices_tuple: IndicesTuple | None
    ) -> dict[str, LossInfo | PairLosses]:
        assert batch.labels is not None  # check_call
        check_proxies(self.proxies, batch.embeddings)
        check_class_labels(batch.labels, self.num_classes)
        present = num_classes_present(batch.labels, self.num_classes)
        pairs = self._pairs(batch, indices_tuple)
        if self._only_divides():
            # both on the device: a number would be copied there in every step
            divisors = {
                "positive_divisor": present,
                "negative_divisor": torch.full_like(present, self.num_classes),
            }
            formula = self._formula(**divisors)
            losses: dict[str, Any] = {"loss": already_reduced(pairs.row_losses(formula).sum())}
        else:
            row = pairs.row_statistics(self._formula())
            classes = torch.arange(self.num_classes, device=batch.embeddings.device)
            terms = ((row.lse_positive, present), (row.lse_negative, self.num_classes))
            losses = {
                name: element_losses(softplus(lse), divisor=divisor, labels=classes)
                for name, (lse, divisor) in zip(("pos_loss", "neg_loss"), terms, strict=True)
            }
        if self.weight_regularizer is not None:
            regularization = self.weight_regularizer(self.proxies) * self.weight_reg_weight
            losses["weight_reg_loss"] = already_reduced(regularization)
        return losses

    def _formula(self, **divisors: Any) -> formulas.ProxyAnchor:
        return formulas.ProxyAnchor(
            margin=self.value_of("margin"), alpha=self.value_of("alpha"), **divisors
        )

    def _only_divides(self) -> bool:
        """Whether both terms are summed and divided, so that the fused head can do it."""
        if not is_a(self.reducer, "reducers", "MultipleReducers"):
            return False
        reducers: Any = self.reducer.reducers
        return all(
            name in reducers and qualified_name(reducers[name]) in _DIVISOR_REDUCERS
            for name in ("pos_loss", "neg_loss")
        )

    def _pairs(self, batch: Batch, indices_tuple: IndicesTuple | None) -> Pairs:
        assert batch.labels is not None  # check_call
        weights = None
        if indices_tuple is not None:
            indices = pair_indices(indices_tuple, batch)
            if any(index.numel() for index in indices):
                weights = sample_weights(indices, indices_tuple, batch.embeddings.shape[0])
        return proxy_pairs(
            self.proxies,
            batch.embeddings,
            batch.labels,
            self.distance,
            self.backend,
            type(self).__name__,
            weights,
        )
