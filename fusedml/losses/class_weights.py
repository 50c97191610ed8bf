"""Losses with a learnt vector for each class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from fusedml.engine.arguments import check_count, check_number, check_object
from fusedml.engine.inputs import Batch
from fusedml.engine.routes.pair_losses import PairLosses, losses_of_rows
from fusedml.engine.routes.proxies import (
    check_class_labels,
    check_proxies,
    poison_of_labels,
    tuple_weights,
)
from fusedml.heads import times
from fusedml.losses.base import (
    BaseLoss,
    IndicesTuple,
    LossOptions,
    already_reduced,
)
from fusedml.reducers import LossInfo
from fusedml.reducers import mean as mean_of

if TYPE_CHECKING:
    from typing_extensions import Self


class WeightOptions(LossOptions, total=False):
    """Keyword arguments of the losses that have a parameter of classes."""

    weight_regularizer: nn.Module | None
    weight_reg_weight: float
    weight_init_func: Callable[[Tensor], Any] | None


class ClassShard(Protocol):
    """The classes of one rank among those of all, of a loss whose ranks have some each.

    begin: the number of the first of them.  num_classes: those of all ranks.
    """

    begin: int
    num_classes: int

    def own(self, parameter: Tensor) -> Tensor:
        """A parameter of the own classes; its gradient is no part of a mean over the ranks."""

    def merged(self, lse: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Log-sum-exp over the ranks of one [n], and the sum over them of another [n]."""

    def lines(self, x: Tensor) -> Tensor:
        """Of all classes, [num_classes, k], from k numbers for each own class."""


# the keyword of the constructor by which ``of_weights`` passes them: no parameter is made
_GIVEN = "_weights"


class ClassWeightsLoss(BaseLoss):
    """A loss with a learnt vector for each class, its parameter ``weights_name``.

    Args:
        num_classes: labels are integers in [0, num_classes).
        embedding_size: columns of the embeddings.
        weight_regularizer: a function of the vectors, [num_classes, embedding_size], added to the
            loss as "weight_reg_loss".
        weight_reg_weight: its factor.
        weight_init_func: initialises the parameter in place.

    Raises:
        TypeError: for sizes that are no whole numbers.
        ValueError: for sizes below 1.
    """

    pml_hooks: ClassVar[tuple[str, ...]] = (
        "add_weight_regularization_to_loss_dict",
        "weight_regularization_loss",
        "cast_types",
    )
    takes_references = False
    takes_label_sets = False
    weights_name: ClassVar[str] = "W"
    #: whether the parameter is [embedding_size, num_classes]
    weights_are_columns: ClassVar[bool] = False
    #: whether an index tuple's positives and negatives do not count for a sample's weight
    weighs_anchors_only: ClassVar[bool] = False
    #: the constructor's argument for the columns of the embeddings
    embedding_size_name: ClassVar[str] = "embedding_size"
    #: the constructor's argument for several vectors of each class, and how many it has by default
    vectors_per_class_name: ClassVar[str | None] = None
    default_vectors_per_class: ClassVar[int] = 1
    #: whether the parameter may have the vectors of some classes only, each rank having others
    takes_shards: ClassVar[bool] = False
    #: which of all classes the parameter is of, set for a call; None: all
    shard: ClassShard | None = None

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        weight_regularizer: nn.Module | None = None,
        weight_reg_weight: float = 1,
        weight_init_func: Callable[[Tensor], Any] | None = None,
        vectors_per_class: int = 1,
        **options: Any,
    ) -> None:
        # those of a function, which learns nothing itself
        given: Tensor | None = options.pop(_GIVEN, None)
        self._learns = given is None
        # before the reducers are set, which depend on it
        self._has_weight_regularizer = weight_regularizer is not None
        super().__init__(**options)
        if weight_regularizer is not None:
            check_object("weight_regularizer", weight_regularizer)
        if weight_init_func is not None:
            check_object("weight_init_func", weight_init_func)
        check_number("weight_reg_weight", weight_reg_weight)
        self.weight_regularizer = weight_regularizer
        self.weight_reg_weight = weight_reg_weight
        self.weight_init_func = weight_init_func or self.get_default_weight_init_func()
        self.num_classes = check_count("num_classes", num_classes)
        name = self.vectors_per_class_name or "vectors_per_class"
        self.vectors_per_class = check_count(name, vectors_per_class)
        size = check_count(self.embedding_size_name, embedding_size)
        shape = self._shape_of(self.num_classes * self.vectors_per_class, size)
        if given is not None:
            setattr(self, self.weights_name, given)
            return
        weights = nn.Parameter(torch.empty(shape))
        self.weight_init_func(weights)
        self.register_parameter(self.weights_name, weights)

    @classmethod
    def weights_shape(cls, num_classes: int, embedding_size: int) -> tuple[int, int]:
        """Shape of the parameter by default."""
        return cls._shape_of(num_classes * cls.default_vectors_per_class, embedding_size)

    @classmethod
    def _shape_of(cls, num_vectors: int, embedding_size: int) -> tuple[int, int]:
        return (
            (embedding_size, num_vectors)
            if cls.weights_are_columns
            else (num_vectors, embedding_size)
        )

    @classmethod
    def needed_arguments(cls, num_classes: int, embedding_size: int) -> dict[str, Any]:
        return {"num_classes": num_classes, "embedding_size": embedding_size}

    @classmethod
    def of_weights(cls, weights: Tensor | None, **arguments: Any) -> Self:
        if not isinstance(weights, Tensor) or weights.ndim != 2:
            got = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
            raise ValueError(f"{cls.weights_name} must be a 2D tensor, got {got}")
        num_vectors, size = reversed(weights.shape) if cls.weights_are_columns else weights.shape
        of_each = cls._vectors_per_class(arguments)
        if num_vectors % of_each:
            raise ValueError(
                f"{cls.weights_name} must have {cls.vectors_per_class_name} = {of_each} vectors of "
                f"each class, got shape {tuple(weights.shape)}"
            )
        needed: dict[str, Any] = cls.needed_arguments(num_vectors // of_each, size)
        needed[_GIVEN] = weights
        return cls(**needed, **arguments)

    def zeros_to_learn(self, num_numbers: int) -> Tensor:
        """A parameter; or numbers beside the vectors that ``of_weights`` was given."""
        if self._learns:
            return nn.Parameter(torch.zeros(num_numbers))
        weights: Tensor = getattr(self, self.weights_name)
        return weights.new_zeros(num_numbers)

    @classmethod
    def _vectors_per_class(cls, arguments: Mapping[str, Any]) -> int:
        name, default = cls.vectors_per_class_name, cls.default_vectors_per_class
        return default if name is None else check_count(name, arguments.get(name, default))

    @classmethod
    def matrix_shape(
        cls, class_sizes: Sequence[int], num_references: int, num_classes: int
    ) -> tuple[int, int]:
        return sum(class_sizes), num_classes * cls.default_vectors_per_class

    def get_default_weight_init_func(self) -> Callable[[Tensor], Any]:
        """The initialiser of a loss constructed without one."""
        return nn.init.normal_

    def has_independent_rows(self) -> bool:
        """Whether a sample's loss depends on no other sample, and a call changes nothing."""
        return True

    def class_vectors(self, embeddings: Tensor) -> Tensor:
        """The parameter as [number of vectors, embedding_size], where and as it is kept.

        Raises ValueError unless it has the embedding size of the embeddings.
        """
        weights: Tensor = self.of_own_classes(getattr(self, self.weights_name))
        vectors = weights.T if self.weights_are_columns else weights
        check_proxies(vectors, embeddings, self.weights_name)
        return vectors

    def of_own_classes(self, parameter: Tensor) -> Tensor:
        """A parameter with an entry for each class, as a call takes it."""
        return parameter if self.shard is None else self.shard.own(parameter)

    def num_all_classes(self) -> int:
        """Labels are in [0, num_all_classes)."""
        return self.num_classes if self.shard is None else self.shard.num_classes

    def class_labels(self, batch: Batch) -> Tensor:
        """The labels, checked, [n], int64: a copy, which may be kept for the backward."""
        assert batch.labels is not None  # it takes no references
        check_class_labels(batch.labels, self.num_all_classes())
        return batch.labels.to(torch.int64, copy=True)

    def weights_of(self, indices_tuple: IndicesTuple | None, batch: Batch) -> Tensor | None:
        """How often a tuple lists each sample, relative to the most listed one, [n]; or None."""
        return tuple_weights(indices_tuple, batch, anchors_only=self.weighs_anchors_only)

    def reducible(self, losses: Tensor, batch: Batch) -> dict[str, LossInfo | PairLosses]:
        """The losses [n] of the samples as they are reduced, and the regulariser."""
        assert batch.labels is not None  # it takes no references
        losses = times(losses, poison_of_labels(batch.labels, self.num_all_classes()))

        def mean(low: float | None, high: float | None) -> Tensor | None:
            return mean_of(losses) if low is None and high is None else None

        of_rows = losses_of_rows(lambda: losses, mean)
        return {"loss": of_rows, **self.weight_regularization(batch.embeddings)}

    def normalized(self, rows: Tensor) -> Tensor:
        """The rows at length 1, as the distance finds it, whether or not it normalises itself."""
        distance: Any = self.distance
        unit: Tensor = distance.normalize(rows)
        return unit

    def get_logits(self, embeddings: Tensor) -> Tensor:
        """The distance matrix of embeddings [n, d] and class vectors, [n, num_classes]."""
        return self.distance(embeddings, self.class_vectors(embeddings).to(embeddings))

    def _sub_loss_names(self) -> list[str]:
        names = self.term_names()
        return [*names, "weight_reg_loss"] if self._has_weight_regularizer else names

    def term_names(self) -> list[str]:
        """Names of the sub-losses but for the regularisers."""
        return ["loss"]

    def weight_regularization(self, embeddings: Tensor) -> dict[str, LossInfo]:
        """The sub-loss of the regulariser, if there is one."""
        if self.weight_regularizer is None:
            return {}
        value = self.weight_regularizer(self.class_vectors(embeddings)) * self.weight_reg_weight
        return {"weight_reg_loss": already_reduced(value)}
