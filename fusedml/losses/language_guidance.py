"""Guidance of an image model by the language of its classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from fusedml.engine.inputs import check_embeddings, make_batch
from fusedml.engine.precision import owned, result_dtype
from fusedml.hyperparameters import Checks, any_number, temperature
from fusedml.losses.base import Backend, Promises
from fusedml.losses.distillation import DistillationLoss, check_rows, mean_divergence


class LanguageGuidanceLoss(DistillationLoss):
    """L = (T^2 / n) sum_i sum_j q_ij log(q_ij / p_ij),
    p_ij = e^{s_ij / T} / sum_k e^{s_ik / T}, q_ij = e^{t_ij / T} / sum_k e^{t_ik / T}.

    s are the cosines of the embeddings of a batch, t those of the language of their classes, the
    mean over K texts of each, plus the shift; T is the temperature.  For pairs of equal labels, the
    diagonal among them, both are 1 + shift: what is learnt is how different classes are.  The
    language is constant.  It is meant to be added to a loss that learns the classes.

    Args:
        temperature: T.
        shift: added to the cosines of the language.
        backend: "auto", "cuda", "torch" or "dense".

    Source: Roth, Vinyals and Akata, "Integrating Language Guidance into Vision-based Deep Metric
    Learning", CVPR 2022, section 3.
    """

    hyperparameters: ClassVar[Checks] = {"temperature": temperature, "shift": any_number}
    promises = Promises({128: 2.0})

    def __init__(
        self,
        temperature: float | Tensor = 1.0,
        shift: float | Tensor = 1.0,
        *,
        backend: Backend = "auto",
    ) -> None:
        super().__init__(backend=backend)
        self.temperature = temperature
        self.shift = shift

    def forward(self, embeddings: Tensor, labels: Tensor, language: Tensor) -> Tensor:
        """The loss, 0-d, in the dtype of the embeddings (under autocast float32).

        Args:
            embeddings: [n, d], floating point.
            labels: [n], any dtype and values.
            language: [n, e], or [n, K, e] of K texts, floating point: embeddings of the names or
                descriptions of each sample's class.

        Raises:
            ValueError: for wrong shapes or devices.
            TypeError: for wrong dtypes.
        """
        problem = make_batch(embeddings, labels, None, None, True).problem()
        rows = self._language_rows(language, embeddings)
        value, shift = self.value_of("temperature"), self.value_of("shift")
        # the backward compares them again
        codes = owned(problem.anchor_labels)
        divergences = self.divergences(embeddings, rows, value, codes, shift)
        return mean_divergence(divergences, value).to(result_dtype(embeddings))

    if TYPE_CHECKING:
        __call__ = forward

    def of_teacher(self, embeddings: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
        return self(embeddings, labels, teacher)

    def _language_rows(self, language: Tensor, embeddings: Tensor) -> Tensor:
        """[n, K e], whose products are the means of the K cosines."""
        if not isinstance(language, Tensor) or language.ndim != 3:
            check_embeddings(language, "language")
            language = language[:, None]
        check_rows(language, embeddings, "language")
        n, k, width = language.shape
        texts = language.detach().reshape(n * k, width)
        check_embeddings(texts, "language")
        return (self.unit_rows(texts) / k**0.5).reshape(n, k * width)
