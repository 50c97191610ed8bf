"""Distillation of the similarities in a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from fusedml.engine.arguments import check_flag
from fusedml.engine.inputs import check_embeddings
from fusedml.engine.precision import result_dtype
from fusedml.hyperparameters import Checks, temperature
from fusedml.losses.base import Backend, Promises
from fusedml.losses.distillation import DistillationLoss, mean_divergence


class SimilarityDistillationLoss(DistillationLoss):
    """L = (T^2 / n) sum_i sum_j q_ij log(q_ij / p_ij),
    p_ij = e^{s_ij / T} / sum_k e^{s_ik / T}, q_ij = e^{t_ij / T} / sum_k e^{t_ik / T}.

    s are the cosines of the embeddings of a batch and t those that a teacher finds between the same
    samples, T the temperature; all pairs count, the diagonal among them.  What is learnt is who is
    like whom, so the teacher's embeddings may be of another width.  Neither matrix is held: tiles
    of both are made side by side.

    Args:
        temperature: T; the lower, the more the nearest count.
        detach_teacher: whether the teacher's embeddings are constant; else they receive a gradient.
        backend: "auto", "cuda", "torch" or "dense".

    Source: Roth et al., "Simultaneous Similarity-based Self-Distillation for Deep Metric Learning",
    ICML 2021, section 3.
    """

    hyperparameters: ClassVar[Checks] = {"temperature": temperature}
    promises = Promises({128: 2.0})

    def __init__(
        self,
        temperature: float | Tensor = 1.0,
        detach_teacher: bool = True,
        *,
        backend: Backend = "auto",
    ) -> None:
        super().__init__(backend=backend)
        self.temperature = temperature
        self.detach_teacher = check_flag("detach_teacher", detach_teacher)

    def forward(self, embeddings: Tensor, teacher_embeddings: Tensor) -> Tensor:
        """The loss, 0-d, in the dtype of the embeddings (under autocast float32).

        Args:
            embeddings: [n, d], floating point.
            teacher_embeddings: [n, e], floating point; row i is of the sample of embedding i.

        Raises:
            ValueError: for wrong shapes or devices.
            TypeError: for arguments that are no floating-point tensors.
        """
        check_embeddings(embeddings)
        if self.detach_teacher and isinstance(teacher_embeddings, Tensor):
            teacher_embeddings = teacher_embeddings.detach()
        rows = self.teacher_rows(teacher_embeddings, embeddings, "teacher_embeddings")
        value = self.value_of("temperature")
        loss = mean_divergence(self.divergences(embeddings, rows, value), value)
        return loss.to(result_dtype(embeddings))

    if TYPE_CHECKING:
        __call__ = forward

    def of_teacher(self, embeddings: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
        return self(embeddings, teacher)
