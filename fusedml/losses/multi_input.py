"""What losses share whose call is not that of embeddings and labels."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from fusedml.engine.arguments import NamedArguments
from fusedml.engine.backends import check_backend
from fusedml.hyperparameters import HyperparameterModule
from fusedml.losses.base import Promises

if TYPE_CHECKING:
    from typing_extensions import Self

    from fusedml.losses.base import Backend


class MultiInputLoss(NamedArguments, HyperparameterModule, abc.ABC):
    """A loss with a call of its own.

    Args:
        backend: "auto", "cuda", "torch" or "dense", see :class:`fusedml.losses.BaseLoss`.
    """

    #: what a call takes beside the sets of rows, as training begins with it: for the benchmarks
    example_arguments: ClassVar[Mapping[str, float]] = {}
    #: none of its parameters is of classes
    weights_name: ClassVar[str | None] = None
    promises: ClassVar[Promises] = Promises()

    def __init__(self, *, backend: Backend = "auto") -> None:
        super().__init__()
        self.backend = check_backend(backend)

    @classmethod
    def of_weights(cls, weights: Tensor | None, **arguments: Any) -> Self:
        """See :meth:`fusedml.losses.BaseLoss.of_weights`."""
        return cls(**arguments)

    @classmethod
    def matrix_shape(
        cls, class_sizes: Sequence[int], num_references: int, num_classes: int
    ) -> tuple[int, int]:
        """See :meth:`fusedml.losses.BaseLoss.matrix_shape`."""
        n = sum(class_sizes)
        return n, num_references or n

    @abc.abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The loss."""
