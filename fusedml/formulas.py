"""The losses as formulas: each maps its hyper-parameters to logits and a head.

A formula says how the measure x of a pair (a similarity, or a distance) becomes its logit,

    z_ij = scale+ x_ij + shift+  on positives,     z_ij = scale- x_ij + shift-  on negatives,

and which head (``fusedml.heads``) turns the rows' log-sum-exps into losses.  ``sign`` is +1 when a
larger x means more alike (similarities) and -1 when it means less alike (distances): a loss written
for one serves both, as in pytorch-metric-learning's ``distance.margin``.

Hyper-parameters are Python numbers or 0-d tensors; a tensor that requires a gradient receives it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fusedml.pairs import widest_dtype

Hyperparameter = float | Tensor


def pack(*values: Hyperparameter) -> Tensor:
    """Hyper-parameters as one vector in float64, on the CPU unless one of them is elsewhere."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    if not tensors:
        return torch.tensor(values, dtype=torch.float64, device="cpu")
    device = next((t.device for t in tensors if t.device.type != "cpu"), tensors[0].device)
    return torch.stack(
        [torch.as_tensor(value, dtype=widest_dtype(device), device=device) for value in values]
    )


@dataclass(frozen=True)
class Formula:
    """Base of all formulas.  ``head`` names an entry of ROW_HEADS or PAIR_HEADS.

    needs_reference_lse: whether a pair head looks at the log-sum-exp of the reference's row, too.
    """

    head: ClassVar[str]
    needs_reference_lse: ClassVar[bool] = False

    def logit(self, sign: float) -> Tensor:
        """(scale+, shift+, scale-, shift-), [4], float64."""
        raise NotImplementedError

    def head_parameters(self) -> Tensor:
        """The head's own parameters, 1-D float64; empty when it has none."""
        return pack()


@dataclass(frozen=True)
class MultiSimilarity(Formula):
    """L_i = log(1 + sum_P e^{-alpha (s-base)}) / alpha + log(1 + sum_N e^{beta (s-base)}) / beta.

    Wang et al., "Multi-Similarity Loss with General Pair Weighting", CVPR 2019, eq. (15).
    """

    alpha: Hyperparameter = 2.0
    beta: Hyperparameter = 50.0
    base: Hyperparameter = 0.5
    head: ClassVar[str] = "multi_similarity"

    def logit(self, sign: float) -> Tensor:
        alpha, beta = sign * self.alpha, sign * self.beta
        return pack(-alpha, alpha * self.base, beta, -beta * self.base)

    def head_parameters(self) -> Tensor:
        return pack(self.alpha, self.beta)


@dataclass(frozen=True)
class GeneralizedLiftedStructure(Formula):
    """L_i = relu(log sum_P e^{d - pos_margin} + log sum_N e^{neg_margin - d}).

    Hermans et al., "In Defense of the Triplet Loss", 2017, eq. (8); an empty set's term is 0.
    """

    neg_margin: Hyperparameter = 1.0
    pos_margin: Hyperparameter = 0.0
    head: ClassVar[str] = "generalized_lifted_structure"

    def logit(self, sign: float) -> Tensor:
        return pack(-sign, sign * self.pos_margin, sign, -sign * self.neg_margin)


@dataclass(frozen=True)
class LiftedStructure(GeneralizedLiftedStructure):
    """L_ip = relu(log(E_i + E_p) + d_ip - pos_margin)^2 / 2, E_i = sum_N e^{neg_margin - d_ik}.

    One term per ordered positive pair.  Song et al., "Deep Metric Learning via Lifted Structured
    Feature Embedding", CVPR 2016, eq. (4).
    """

    head: ClassVar[str] = "lifted_structure"
    needs_reference_lse: ClassVar[bool] = True


@dataclass(frozen=True)
class ProxyAnchor(Formula):
    """Row c is proxy c: softplus(lse_P)/positive_divisor + softplus(lse_N)/negative_divisor with

    z = -alpha (s - margin) on positives and alpha (s + margin) on negatives.
    Kim et al., "Proxy Anchor Loss for Deep Metric Learning", CVPR 2020, eq. (4).
    """

    margin: Hyperparameter = 0.1
    alpha: Hyperparameter = 32.0
    positive_divisor: Hyperparameter = 1.0
    negative_divisor: Hyperparameter = 1.0
    head: ClassVar[str] = "proxy_anchor"

    def logit(self, sign: float) -> Tensor:
        alpha = sign * self.alpha
        return pack(-alpha, alpha * self.margin, alpha, alpha * self.margin)

    def head_parameters(self) -> Tensor:
        return pack(self.positive_divisor, self.negative_divisor)


@dataclass(frozen=True)
class NPairs(Formula):
    """L_i = -log(e^{s_ip} / (e^{s_ip} + sum_N e^{s_in})), one positive per anchor.

    Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", NIPS 2016,
    eq. (9).
    """

    head: ClassVar[str] = "n_pairs"

    def logit(self, sign: float) -> Tensor:
        return pack(sign, 0.0, sign, 0.0)


@dataclass(frozen=True)
class SupCon(Formula):
    """L_i = log sum_{P u N} e^{s / temperature} - mean_P s / temperature.

    Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, eq. (2).
    """

    temperature: Hyperparameter = 0.1
    head: ClassVar[str] = "sup_con"

    def logit(self, sign: float) -> Tensor:
        scale = sign / self.temperature
        return pack(scale, 0.0, scale, 0.0)


@dataclass(frozen=True)
class NTXent(Formula):
    """L_ip = -log(e^{s_ip / T} / (e^{s_ip / T} + sum_N e^{s_in / T})) per ordered positive pair.

    Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML
    2020, eq. (1); van den Oord et al. 2018 (InfoNCE).
    """

    temperature: Hyperparameter = 0.07
    head: ClassVar[str] = "nt_xent"

    def logit(self, sign: float) -> Tensor:
        scale = sign / self.temperature
        return pack(scale, 0.0, scale, 0.0)
