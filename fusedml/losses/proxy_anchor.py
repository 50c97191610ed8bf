"""Proxy-Anchor loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fusedml import formulas
from fusedml.distances import CosineSimilarity, qualified_name, sign_of
from fusedml.errors import LabelError
from fusedml.heads import softplus
from fusedml.losses.base import BaseLoss, IndicesTuple, already_reduced, element_losses
from fusedml.losses.hyperparameters import any_number, positive_number
from fusedml.losses.inputs import Batch, pair_indices
from fusedml.losses.n_pairs import require_labels_without_references
from fusedml.pairs import PairProblem
from fusedml.reducers import DivisorReducer, LossInfo, is_named
from fusedml.routes import BlockedPairs, PairIndices, PairLosses, Pairs, labelled_pairs

_DIVISOR_REDUCERS = (
    "fusedml.reducers.DivisorReducer",
    "pytorch_metric_learning.reducers.divisor_reducer.DivisorReducer",
)


def check_class_labels(labels: Tensor, num_classes: int) -> None:
    """Raises LabelError unless integers in [0, num_classes).

    The range is checked on the CPU only: on another device it would cost a sync.  There a label
    outside of it is a class without a proxy.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise LabelError(f"labels must be integers for this loss function, got {labels.dtype}")
    if labels.device.type != "cpu" or labels.numel() == 0 or torch.compiler.is_compiling():
        return
    if torch._C._functorch.is_functorch_wrapped_tensor(labels):
        return
    low, high = (int(bound) for bound in torch.aminmax(labels))
    if low < 0 or high >= num_classes:
        raise LabelError(
            f"labels must be in [0, num_classes) = [0, {num_classes}), got values from {low} to "
            f"{high}"
        )


def num_classes_present(labels: Tensor, num_classes: int) -> Tensor:
    """Number of different labels in [0, num_classes), int64, 0-d; at least 1."""
    values = labels.sort().values
    is_new = torch.ones_like(values, dtype=torch.bool)
    is_new[1:] = values[1:] != values[:-1]
    has_proxy = (values >= 0) & (values < num_classes)
    return (is_new & has_proxy).sum().clamp(min=1)


def sample_weights(indices: PairIndices, indices_tuple: IndicesTuple, size: int) -> Tensor:
    """How often each sample is listed in a tuple, relative to the most listed one, [size]."""
    listed = [indices[0], indices[1], indices[3]]
    if len(indices_tuple) == 4:
        listed.append(indices[2])
    counts = torch.bincount(torch.cat(listed), minlength=size)
    return counts / counts.max()


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

    hyperparameters = {"margin": any_number, "alpha": positive_number}

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
        self._check_size(batch.embeddings)
        check_class_labels(batch.labels, self.num_classes)
        present = num_classes_present(batch.labels, self.num_classes)
        pairs = self._pairs(batch, indices_tuple)
        if self._only_divides():
            formula = self._formula(positive_divisor=present, negative_divisor=self.num_classes)
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

    def _check_size(self, embeddings: Tensor) -> None:
        if embeddings.shape[1] != self.proxies.shape[1]:
            raise ValueError(
                f"embeddings must have embedding_size = {self.proxies.shape[1]} columns, got shape "
                f"{tuple(embeddings.shape)}"
            )

    def _formula(self, **divisors: Any) -> formulas.ProxyAnchor:
        return formulas.ProxyAnchor(
            margin=self.value_of("margin"), alpha=self.value_of("alpha"), **divisors
        )

    def _only_divides(self) -> bool:
        """Whether both terms are summed and divided, so that the fused head can do it."""
        if not is_named(self.reducer, "MultipleReducers"):
            return False
        reducers = self.reducer.reducers
        return all(
            name in reducers and qualified_name(reducers[name]) in _DIVISOR_REDUCERS
            for name in ("pos_loss", "neg_loss")
        )

    def _pairs(self, batch: Batch, indices_tuple: IndicesTuple | None) -> Pairs:
        """Proxies as anchors, labelled 0, 1, ..., against the embeddings."""
        embeddings, labels = batch.embeddings, batch.labels
        problem = PairProblem(
            self.proxies.to(embeddings.device),
            embeddings,
            torch.arange(self.num_classes, device=embeddings.device),
            labels.long(),
            exclude_diagonal=False,
        )
        if indices_tuple is not None:
            indices = pair_indices(indices_tuple, batch)
            if any(index.numel() for index in indices):
                weights = sample_weights(indices, indices_tuple, embeddings.shape[0])
                offsets = weights.to(embeddings) - 1
                return BlockedPairs(problem, self._matrix, sign_of(self.distance), offsets)
        return labelled_pairs(
            problem, self.distance, self.backend, type(self).__name__, self._matrix
        )

    def _matrix(self, proxies: Tensor, embeddings: Tensor) -> Tensor:
        # the distance is defined from embeddings to proxies
        return self.distance(embeddings, proxies.to(embeddings)).T
