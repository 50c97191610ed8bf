"""Losses of the similarities in a batch against those that a teacher finds in it."""

from __future__ import annotations

import abc
from typing import ClassVar

from torch import Tensor

from fusedml import dense
from fusedml.engine import autograd
from fusedml.engine.backends import DENSE, require_backend
from fusedml.engine.inputs import check_embeddings
from fusedml.engine.pairs import accumulation_dtype
from fusedml.engine.precision import prepare, tile_dtype
from fusedml.engine.unit_rows import row_normalizer
from fusedml.formulas import Hyperparameter, pack
from fusedml.losses.multi_input import MultiInputLoss


class DistillationLoss(MultiInputLoss):
    """A loss of embeddings [n, d] and of what a teacher makes of the same n samples.

    Args:
        backend: "auto", "cuda", "torch" or "dense", see :class:`fusedml.losses.BaseLoss`.
    """

    #: whether the teacher's rows receive a gradient: for the benchmarks
    trains_teacher: ClassVar[bool] = False

    @abc.abstractmethod
    def of_teacher(self, embeddings: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
        """The loss of one teacher's rows, [n, e]: for the benchmarks and the shared tests."""

    def divergences(
        self,
        embeddings: Tensor,
        unit_rows: Tensor,
        temperature: Hyperparameter,
        labels: Tensor | None = None,
        shift: Hyperparameter = 0.0,
    ) -> Tensor:
        """KL(teacher || batch) of each row's softmax of cosines over the temperature, [n].

        unit_rows: [n, e], the teacher's, checked and normalised.  labels: None, or int64 [n].
        shift: added to the teacher's cosines; pairs of equal labels are 1 + shift for both.
        In float32, or float64 for float64 embeddings.
        """
        require_backend(self.backend, embeddings, "row_divergences")
        a = self.unit_rows(embeddings)
        numbers = pack(1 / temperature, 0.0, shift, 1 + shift)
        if self.backend != DENSE:
            return autograd.row_divergences(a, unit_rows, labels, numbers, self.backend)
        wide = accumulation_dtype(a.dtype)
        x, y = ((rows @ rows.T).to(wide) for rows in (a, unit_rows))
        same = None if labels is None else labels[:, None] == labels
        return dense.row_divergences(x, y, same, numbers)

    def unit_rows(self, x: Tensor) -> Tensor:
        """The rows divided by their norms, in the dtype in which they are measured."""
        normalizer = None if self.backend == DENSE else row_normalizer(self.backend, x)
        return prepare(x, tile_dtype(x), normalize=True, normalizer=normalizer)

    def teacher_rows(self, teacher: Tensor, embeddings: Tensor, name: str) -> Tensor:
        """The unit rows of a teacher, [n, e].

        Raises TypeError unless a floating-point tensor, ValueError unless as many rows as
        embeddings, on their device.
        """
        check_embeddings(teacher, name)
        check_rows(teacher, embeddings, name)
        return self.unit_rows(teacher)


def check_rows(teacher: Tensor, embeddings: Tensor, name: str) -> None:
    """Raises ValueError unless there is a row for each of the embeddings, on their device."""
    if teacher.shape[0] != embeddings.shape[0]:
        raise ValueError(
            f"{name} must have as many rows as embeddings, {embeddings.shape[0]}, got shape "
            f"{tuple(teacher.shape)}"
        )
    if teacher.device != embeddings.device:
        raise ValueError(
            f"{name} must be on the device of embeddings, {embeddings.device}, got {teacher.device}"
        )


def mean_divergence(divergences: Tensor, temperature: Hyperparameter) -> Tensor:
    """T^2 times the mean over the rows; 0 of none."""
    return divergences.sum() * temperature**2 / max(1, divergences.shape[0])
