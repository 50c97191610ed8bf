"""Simultaneous similarity-based self-distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from fusedml.engine.arguments import check_object
from fusedml.engine.pairs import accumulation_dtype
from fusedml.engine.precision import result_dtype
from fusedml.formulas import Hyperparameter
from fusedml.hyperparameters import Checks, any_number, temperature
from fusedml.losses.base import Backend, Promises
from fusedml.losses.distillation import DistillationLoss, mean_divergence
from fusedml.losses.multi_similarity import MultiSimilarityLoss

if TYPE_CHECKING:
    from typing_extensions import Self


class S2SDLoss(DistillationLoss):
    """L = (L_0 + sum_b L_b / B) / 2 + weight sum_b D_b / B + feature_weight D_f,
    D = (T^2 / n) sum_i sum_j q_ij log(q_ij / p_ij).

    L_0 is the loss of the embeddings, L_b that of the wider embeddings of target branch b = 1 .. B
    on the same features.  D_b distils the branch's cosines t into the embeddings' cosines s, D_f
    those of the features: p and q are the softmax rows of s / T and t / T.  Branches learn by their
    own losses only, features by the embeddings: for D both are constant.

    Args:
        loss: of embeddings and labels, L_0.
        target_losses: one for each target branch, L_b.
        weight: of the distillation of the branches.
        temperature: T.
        feature_weight: of the distillation of the features.
        backend: "auto", "cuda", "torch" or "dense", of the distillation; the losses have their own.

    Raises:
        TypeError: for losses that are no objects.
        ValueError: without target losses.

    Source: Roth et al., "Simultaneous Similarity-based Self-Distillation for Deep Metric Learning",
    ICML 2021, section 3.
    """

    hyperparameters: ClassVar[Checks] = {
        "weight": any_number,
        "temperature": temperature,
        "feature_weight": any_number,
    }
    trains_teacher = True
    promises = Promises({128: 2.0})

    def __init__(
        self,
        loss: nn.Module,
        target_losses: Sequence[nn.Module],
        weight: float | Tensor = 1.0,
        temperature: float | Tensor = 1.0,
        feature_weight: float | Tensor = 0.0,
        *,
        backend: Backend = "auto",
    ) -> None:
        super().__init__(backend=backend)
        check_object("loss", loss)
        if not isinstance(target_losses, Sequence | nn.ModuleList):
            raise TypeError(
                "target_losses must be a list of losses, one for each target branch, got "
                f"{type(target_losses).__name__}"
            )
        if len(target_losses) == 0:
            raise ValueError("target_losses must hold a loss for each target branch, got none")
        for number, target in enumerate(target_losses):
            check_object(f"target_losses[{number}]", target)
        self.loss = loss
        self.target_losses = nn.ModuleList(target_losses)
        self.weight = weight
        self.temperature = temperature
        self.feature_weight = feature_weight

    @classmethod
    def of_weights(cls, weights: Tensor | None, **arguments: Any) -> Self:
        """See :meth:`fusedml.losses.BaseLoss.of_weights`."""
        own = {key: arguments[key] for key in ("backend",) if key in arguments}
        given = {
            "loss": MultiSimilarityLoss(**own),
            "target_losses": [MultiSimilarityLoss(**own)],
            **arguments,
        }
        return cls(**given)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        target_embeddings: Sequence[Tensor],
        features: Tensor | None = None,
    ) -> Tensor:
        """The loss, 0-d, in the dtype of the embeddings (under autocast float32).

        Args:
            embeddings: [n, d], floating point.
            labels: [n], any dtype and values.
            target_embeddings: of each branch, [n, d_b], floating point.
            features: [n, e], what the embeddings are made of; None only if feature_weight is 0.

        Raises:
            ValueError: for wrong shapes or devices, another number of branches than of target
                losses, and features that are missing.
            TypeError: for wrong dtypes.
        """
        if len(target_embeddings) != len(self.target_losses):
            raise ValueError(
                f"target_embeddings must hold one tensor for each of the {len(self.target_losses)} "
                f"target losses, got {len(target_embeddings)}"
            )
        weight, feature_weight = self.value_of("weight"), self.value_of("feature_weight")
        total = self.loss(embeddings, labels).to(accumulation_dtype(embeddings.dtype)) / 2
        branches = zip(self.target_losses, target_embeddings, strict=True)
        of_branches = torch.stack(
            [
                loss(rows, labels) / 2
                + weight * self._distilled(embeddings, rows, f"target_embeddings[{b}]")
                for b, (loss, rows) in enumerate(branches)
            ]
        )
        total = total + of_branches.mean()
        if features is not None:
            total = total + feature_weight * self._distilled(embeddings, features, "features")
        elif not (torch.compiler.is_compiling() or self.feature_weight == 0):
            raise ValueError(f"features must be given for feature_weight = {self.feature_weight}")
        return total.to(result_dtype(embeddings))

    if TYPE_CHECKING:
        __call__ = forward

    def _distilled(self, embeddings: Tensor, teacher: Tensor, name: str) -> Tensor:
        value: Hyperparameter = self.value_of("temperature")
        constant = teacher.detach() if isinstance(teacher, Tensor) else teacher
        rows = self.teacher_rows(constant, embeddings, name)
        return mean_divergence(self.divergences(embeddings, rows, value), value)

    def of_teacher(self, embeddings: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
        return self(embeddings, labels, [teacher])
