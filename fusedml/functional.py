"""The losses as functions.

All take embeddings [n, d] (floating point), labels [n], hyper-parameters as numbers or 0-d tensors
(a tensor that requires a gradient receives it), and

    ref_emb, ref_labels  [m, d] and [m]: what the embeddings are compared with instead of with
                         themselves.  The pairs i == j are left out unless ref_labels is another
                         object than labels.
    distance             a ``fusedml.distances`` or pytorch-metric-learning object
    reduction            "mean": the value of the loss's module; "sum"; "none": the single losses
    backend              "auto", "cuda" or "torch"

and return float32 (float64 for float64 embeddings).  Wrong shapes, values, ``reduction`` or
``backend`` raise ValueError, wrong types TypeError, each naming the argument.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fusedml import formulas
from fusedml.backends import check_backend, require_backend
from fusedml.distances import CosineSimilarity, DotProductSimilarity, LpDistance, fused_measure
from fusedml.formulas import Formula, Hyperparameter
from fusedml.hyperparameters import any_number, as_hyperparameter, positive_number
from fusedml.inputs import make_batch
from fusedml.pairs import accumulation_dtype
from fusedml.reducers import masked_mean, mean, zero_loss
from fusedml.routes.choice import Pairs, labelled_pairs
from fusedml.routes.class_pairs import class_pair_losses, first_positive_pairs
from fusedml.routes.fused import FusedPairs
from fusedml.routes.pair_losses import PairLosses
from fusedml.routes.proxies import (
    check_class_labels,
    check_proxies,
    num_classes_present,
    proxy_pairs,
)

_REDUCTIONS = ("mean", "sum", "none")


def multi_similarity_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    alpha: Hyperparameter = 2.0,
    beta: Hyperparameter = 50.0,
    base: Hyperparameter = 0.5,
    mining_epsilon: Hyperparameter | None = None,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    distance: nn.Module | None = None,
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """L_i = log(1 + sum_P e^{-alpha (s - base)}) / alpha
           + log(1 + sum_N e^{beta (s - base)}) / beta.

    alpha, beta: > 0.  mining_epsilon: None, or the margin of online mining.  [n] with
    reduction="none".  See :class:`fusedml.losses.MultiSimilarityLoss`.
    Source: Wang et al., CVPR 2019, eq. (15).
    """
    formula = formulas.MultiSimilarity(
        as_hyperparameter("alpha", alpha, positive_number),
        as_hyperparameter("beta", beta, positive_number),
        as_hyperparameter("base", base, any_number),
    )
    if mining_epsilon is not None:
        mining_epsilon = as_hyperparameter("mining_epsilon", mining_epsilon, any_number)
    _check_reduction(reduction)
    distance = CosineSimilarity() if distance is None else distance
    pairs = _pairs(embeddings, labels, ref_emb, ref_labels, distance, backend)
    if pairs is None:
        return _no_pairs(embeddings, reduction)
    return _reduce(pairs.row_losses(formula, mining_epsilon), reduction)


def generalized_lifted_structure_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    neg_margin: Hyperparameter = 1.0,
    pos_margin: Hyperparameter = 0.0,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    distance: nn.Module | None = None,
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """L_i = relu(log sum_P e^{d - pos_margin} + log sum_N e^{neg_margin - d}).

    [n] with reduction="none".  See :class:`fusedml.losses.GeneralizedLiftedStructureLoss`.
    Source: Hermans et al., 2017, eq. (8).
    """
    formula = formulas.GeneralizedLiftedStructure(
        as_hyperparameter("neg_margin", neg_margin, any_number),
        as_hyperparameter("pos_margin", pos_margin, any_number),
    )
    _check_reduction(reduction)
    distance = LpDistance() if distance is None else distance
    pairs = _pairs(embeddings, labels, ref_emb, ref_labels, distance, backend)
    if pairs is None:
        return _no_pairs(embeddings, reduction)
    return _reduce(pairs.row_losses(formula), reduction)


def lifted_structure_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    neg_margin: Hyperparameter = 1.0,
    pos_margin: Hyperparameter = 0.0,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    distance: nn.Module | None = None,
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """L_ip = relu(log(sum_{N_i} e^{neg_margin - d_ik} + sum_{N_p} e^{neg_margin - d_pk})
                   + d_ip - pos_margin)^2 / 2.

    With reduction="none" one loss for each ordered positive pair, row by row: memory in proportion
    to their number.  See :class:`fusedml.losses.LiftedStructureLoss`.
    Source: Song et al., CVPR 2016, eq. (4).
    """
    formula = formulas.LiftedStructure(
        as_hyperparameter("neg_margin", neg_margin, any_number),
        as_hyperparameter("pos_margin", pos_margin, any_number),
    )
    _check_reduction(reduction)
    distance = LpDistance() if distance is None else distance
    pairs = _pairs(embeddings, labels, ref_emb, ref_labels, distance, backend)
    return _pair_loss(embeddings, pairs, formula, reduction)


def nt_xent_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    temperature: Hyperparameter = 0.07,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    distance: nn.Module | None = None,
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """L_ip = -log(e^{s_ip / T} / (e^{s_ip / T} + sum_{N_i} e^{s_in / T})), T the temperature.

    temperature: > 0.  With reduction="none" one loss for each ordered positive pair, row by row:
    memory in proportion to their number.  See :class:`fusedml.losses.NTXentLoss`.
    Source: Chen et al., ICML 2020, eq. (1).
    """
    formula = formulas.NTXent(as_hyperparameter("temperature", temperature, positive_number))
    _check_reduction(reduction)
    distance = CosineSimilarity() if distance is None else distance
    pairs = _pairs(embeddings, labels, ref_emb, ref_labels, distance, backend)
    return _pair_loss(embeddings, pairs, formula, reduction)


def sup_con_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    temperature: Hyperparameter = 0.1,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    distance: nn.Module | None = None,
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """L_i = log sum_{P u N} e^{s / temperature} - mean_P s / temperature.

    temperature: > 0.  "mean" is over the anchors whose loss is above 0; [n] with reduction="none".
    See :class:`fusedml.losses.SupConLoss`.  Source: Khosla et al., NeurIPS 2020, eq. (2).
    """
    formula = formulas.SupCon(as_hyperparameter("temperature", temperature, positive_number))
    _check_reduction(reduction)
    distance = CosineSimilarity() if distance is None else distance
    pairs = _pairs(embeddings, labels, ref_emb, ref_labels, distance, backend)
    if pairs is None:
        return _no_pairs(embeddings, reduction)
    losses = pairs.row_losses(formula) * pairs.has_negative()
    if reduction == "mean":
        return masked_mean(losses, ~(losses <= 0))
    return _reduce(losses, reduction)


def n_pairs_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    distance: nn.Module | None = None,
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """L_k = -log(e^{<a_k, p_k>} / sum_l e^{<a_k, p_l>}), a_k and p_k the first two of each class.

    With reduction="none" one loss for each class that has two members, in the order of the labels:
    this costs a host sync.  See :class:`fusedml.losses.NPairsLoss`.
    Source: Sohn, NIPS 2016, eq. (9).
    """
    _check_reduction(reduction)
    check_backend(backend)
    make_batch(embeddings, labels, None, None, labels_needed=True)
    pairs = first_positive_pairs(labels.to(embeddings.device))
    distance = DotProductSimilarity() if distance is None else distance
    losses = class_pair_losses(embeddings, pairs, distance, backend, "n_pairs_loss")
    return _reduce_pairs(losses, reduction)


def proxy_anchor_loss(
    embeddings: Tensor,
    labels: Tensor,
    proxies: Tensor,
    *,
    margin: Hyperparameter = 0.1,
    alpha: Hyperparameter = 32.0,
    distance: nn.Module | None = None,
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """L_c = log(1 + sum_{y_i = c} e^{-alpha (s_ci - margin)})
           + log(1 + sum_{y_i != c} e^{alpha (s_ci + margin)}).

    labels: integers in [0, C).  proxies: [C, d].  alpha: > 0.
    "mean" averages the first term over the classes in the batch and the second over all C; "sum" is
    the sum of L_c, and "none" gives L_c, [C].
    See :class:`fusedml.losses.ProxyAnchorLoss`.  Source: Kim et al., CVPR 2020, eq. (4).
    """
    hyperparameters: dict[str, Any] = {
        "margin": as_hyperparameter("margin", margin, any_number),
        "alpha": as_hyperparameter("alpha", alpha, positive_number),
    }
    _check_reduction(reduction)
    check_backend(backend)
    batch = make_batch(embeddings, labels, None, None, labels_needed=True)
    check_proxies(proxies, embeddings)
    assert batch.labels is not None  # make_batch
    num_classes = proxies.shape[0]
    check_class_labels(batch.labels, num_classes)
    distance = CosineSimilarity() if distance is None else distance
    pairs = proxy_pairs(proxies, embeddings, batch.labels, distance, backend, "proxy_anchor_loss")
    if reduction == "mean":
        present = num_classes_present(batch.labels, num_classes)
        hyperparameters["positive_divisor"] = present
        hyperparameters["negative_divisor"] = torch.full_like(present, num_classes)
    losses = pairs.row_losses(formulas.ProxyAnchor(**hyperparameters))
    return losses if reduction == "none" else losses.sum()


def mining_thresholds(
    embeddings: Tensor,
    labels: Tensor,
    epsilon: Hyperparameter,
    *,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    distance: nn.Module | None = None,
    backend: str = "auto",
) -> Tensor:
    """The Multi-Similarity mining rule as thresholds for :func:`fusedml.pair_statistics`, [2, n].

    A positive is mined if s < max_N s + epsilon (row 0), a negative if s > min_P s - epsilon
    (row 1); with a distance, of -d.  Not differentiable.
    Raises ValueError for a distance that is not fused.
    Source: Wang et al., CVPR 2019, eq. (11) and (12).
    """
    measure = fused_measure(CosineSimilarity() if distance is None else distance)
    if measure is None:
        raise ValueError(
            "distance must be a cosine, dot-product or Euclidean distance, got "
            f"{type(distance).__name__}"
        )
    batch = make_batch(embeddings, labels, ref_emb, ref_labels, labels_needed=True)
    require_backend(check_backend(backend), embeddings, "pair_extrema")
    pairs = FusedPairs(batch.problem(), measure, backend)
    return pairs.mining_thresholds(as_hyperparameter("epsilon", epsilon, any_number))


def _check_reduction(reduction: str) -> None:
    if reduction not in _REDUCTIONS:
        choices = ", ".join(repr(name) for name in _REDUCTIONS)
        raise ValueError(f"reduction must be one of {choices}, got {reduction!r}")


def _pairs(
    embeddings: Tensor,
    labels: Tensor,
    ref_emb: Tensor | None,
    ref_labels: Tensor | None,
    distance: nn.Module,
    backend: str,
) -> Pairs | None:
    """The pairs of a call, or None if pytorch-metric-learning's rule makes the loss 0."""
    check_backend(backend)
    batch = make_batch(embeddings, labels, ref_emb, ref_labels, labels_needed=True)
    if batch.has_too_few_pairs():
        return None
    return labelled_pairs(batch.problem(), distance, backend)


def _reduce(losses: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return losses
    return mean(losses) if reduction == "mean" else losses.sum()


def _reduce_pairs(losses: PairLosses, reduction: str) -> Tensor:
    if reduction == "none":
        return losses.listed().losses
    rows = losses.rows()
    return rows.mean() if reduction == "mean" else rows.sums.sum()


def _pair_loss(embeddings: Tensor, pairs: Pairs | None, formula: Formula, reduction: str) -> Tensor:
    if pairs is None:
        zero = zero_loss(embeddings).to(accumulation_dtype(embeddings.dtype))
        return zero.expand(0) if reduction == "none" else zero
    return _reduce_pairs(pairs.pair_losses(formula), reduction)


def _no_pairs(embeddings: Tensor, reduction: str) -> Tensor:
    """Zero losses of the anchors, connected to the graph."""
    losses = (embeddings * 0).sum(1).to(accumulation_dtype(embeddings.dtype))
    return losses if reduction == "none" else losses.sum()
