"""What is measured: one loss, one size, one direction, and the inputs that belong to it."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fusedml.losses import DISTILLATION_LOSSES, LOSSES, TWO_TOWER_LOSSES
from fusedml.losses.base import BaseLoss
from fusedml.losses.class_weights import ClassWeightsLoss
from fusedml.losses.distillation import DistillationLoss
from fusedml.losses.multi_input import MultiInputLoss
from fusedml.losses.two_towers import TwoTowerLoss

FORWARD = "forward"
FORWARD_BACKWARD = "forward+backward"
DIRECTIONS = (FORWARD, FORWARD_BACKWARD)
# a view, first the losses of embeddings and labels
MEASURED: Mapping[str, type[BaseLoss | MultiInputLoss]] = ChainMap(
    {},
    DISTILLATION_LOSSES,  # type: ignore[arg-type]
    TWO_TOWER_LOSSES,  # type: ignore[arg-type]
    LOSSES,  # type: ignore[arg-type]
)
# losses with other arguments than their defaults: "name variant"
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    f"{name} {variant}": arguments
    for name, loss in LOSSES.items()
    for variant, arguments in loss.variants.items()
}
# a teacher's embeddings are so many times as wide as the batch's
_TEACHER_WIDTH = 2


def has_partners(loss: str) -> bool:
    """Whether the loss of that name takes two sets whose rows belong together."""
    return loss in TWO_TOWER_LOSSES


def has_weights(loss: str) -> bool:
    """Whether the loss of that name learns a vector for each class; False for an unknown one."""
    return loss in MEASURED and MEASURED[loss].weights_name is not None


@dataclass(frozen=True)
class Case:
    """A loss on a batch of n embeddings of dimension d, with default arguments or a variant's.

    loss: a name of ``MEASURED`` or ``VARIANTS``.  num_classes: the number of vectors of the losses
    that learn one for each class; more than n / samples_per_class of them, as a class need not be
    in the batch.  direction: "forward" is evaluated under no_grad, "forward+backward" includes the
    gradients of all leaves.  num_references: the batch is compared with a second set of that many
    embeddings of the same classes (``ref_emb``); 0 compares the batch with itself.  Of n
    references and one sample a class, reference i is of the class of embedding i, as a document is
    of its query.  in_memory: those references are the rows of a memory bank, which need no
    gradient, and the first n of them the batch itself.

    Raises ValueError for an argument outside its range, naming it.
    """

    loss: str
    n: int
    d: int
    samples_per_class: int = 4
    num_classes: int = 10000
    dtype: str = "float32"
    direction: str = FORWARD_BACKWARD
    device: str = "cpu"
    seed: int = 0
    num_references: int = 0
    in_memory: bool = False

    def __post_init__(self) -> None:
        if self.loss not in MEASURED and self.loss not in VARIANTS:
            names = ", ".join([*MEASURED, *VARIANTS])
            raise ValueError(f"loss must be one of {names}, got {self.loss!r}")
        if self.direction not in DIRECTIONS:
            raise ValueError(f"direction must be one of {DIRECTIONS}, got {self.direction!r}")
        if not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise ValueError(f"dtype must be the name of a torch dtype, got {self.dtype!r}")
        for name in ("n", "d", "samples_per_class", "num_classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_references < 0:
            raise ValueError(f"num_references must be at least 0, got {self.num_references}")
        if self.has_partners and (self.samples_per_class, self.num_references) != (1, self.n):
            raise ValueError(
                f"samples_per_class and num_references must be 1 and n = {self.n} for {self.loss}, "
                f"got {self.samples_per_class} and {self.num_references}"
            )
        if self.num_references and not (self.has_partners or self._takes_references):
            raise ValueError(
                f"num_references must be 0 for {self.loss}, which takes no references, got "
                f"{self.num_references}"
            )
        if self.in_memory and (self.num_references < self.n or self.has_partners):
            raise ValueError(
                f"a memory bank must be of a loss of one batch and hold at least its n = {self.n} "
                f"rows, got {self.num_references} of {self.loss}"
            )
        if self.has_weights and self.num_classes < self.classes_in_batch:
            raise ValueError(
                f"num_classes must be at least the {self.classes_in_batch} classes of the batch, "
                f"got {self.num_classes}"
            )

    @property
    def kind(self) -> type[BaseLoss | MultiInputLoss]:
        """The loss's class."""
        return MEASURED[self.loss.partition(" ")[0]]

    @property
    def variant(self) -> str:
        """Of the loss's class; "" with the default arguments."""
        return self.loss.partition(" ")[2]

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Those of the variant."""
        return VARIANTS.get(self.loss, {})

    @property
    def _takes_references(self) -> bool:
        return bool(getattr(self.kind, "takes_references", False))

    @property
    def has_partners(self) -> bool:
        """Whether the loss takes two sets whose rows belong together."""
        return has_partners(self.loss)

    @property
    def has_one_positive(self) -> bool:
        """Whether each embedding has exactly one positive, the reference of its own number."""
        return self.samples_per_class == 1 and self.num_references == self.n

    @property
    def has_weights(self) -> bool:
        """Whether the loss learns a vector for each class."""
        return has_weights(self.loss)

    @property
    def classes_in_batch(self) -> int:
        """Number of different labels."""
        return -(-self.n // self.samples_per_class)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Rows and columns of the similarity matrix that the dense version holds."""
        return self.kind.matrix_shape(self._class_sizes(), self.num_references, self.num_classes)

    @property
    def takes_unit_rows(self) -> bool:
        """Whether the model normalizes, not the loss; logits of longer rows make a loss of 0."""
        return issubclass(self.kind, TwoTowerLoss) and not self.kind.normalizes

    @property
    def num_others(self) -> int:
        """What the batch meets: classes with a vector, or the columns of the matrix."""
        return self.num_classes if self.has_weights else self.matrix_shape[1]

    def _class_sizes(self) -> list[int]:
        whole, rest = divmod(self.n, self.samples_per_class)
        return [self.samples_per_class] * whole + ([rest] if rest else [])


class Problem(NamedTuple):
    """The inputs of a case: embeddings [n, d] (normalized only where the loss
    expects that of the model), labels [n], weights or None.

    weights: the vectors of the classes, in the shape of the loss's parameter.
    references: [m, d] with reference_labels [m], or None where the batch is compared with itself.
    teacher: [n, 2 d] of the losses that have one; a leaf if they train it.
    in_memory: whether they are the rows of a memory bank, the first n the batch's own.
    indices: an index tuple, or None for all pairs.
    """

    embeddings: Tensor
    labels: Tensor
    weights: nn.Parameter | None
    references: Tensor | None = None
    reference_labels: Tensor | None = None
    teacher: Tensor | None = None
    in_memory: bool = False
    indices: tuple[Tensor, ...] | None = None

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """The tensors whose gradients are asked for."""
        others = (self.weights, self.references, self.teacher)
        learnt = (leaf for leaf in others if leaf is not None and leaf.requires_grad)
        return self.embeddings, *learnt


LossFunction = Callable[[], Tensor]
# computes the loss of a case on its problem, 0-d, differentiable in the problem's leaves
Provider = Callable[[Case, Problem], LossFunction]


class UnavailableError(Exception):
    """A provider cannot compute a case here; its text is the outcome of the row that says so."""


def make_problem(case: Case) -> Problem:
    """Random embeddings around random class centres, in random order, the same for equal cases."""
    generator = torch.Generator().manual_seed(case.seed)
    classes = torch.randperm(
        case.num_classes if case.has_weights else case.classes_in_batch, generator=generator
    )
    order = torch.randperm(case.n, generator=generator)
    labels = classes[order // case.samples_per_class]
    centres = torch.randn(case.classes_in_batch, case.d, generator=generator)
    embeddings = _around(centres, order // case.samples_per_class, generator)
    if case.takes_unit_rows:
        embeddings = normalize(embeddings)
    kind = {"dtype": getattr(torch, case.dtype), "device": case.device}
    weights = references = reference_labels = teacher = None
    kind_of_loss = case.kind
    if issubclass(kind_of_loss, ClassWeightsLoss):
        shape = kind_of_loss.weights_shape(case.num_classes, case.d)
        weights = nn.Parameter(torch.randn(shape, generator=generator).to(**kind))
    if case.num_references:
        members = _reference_members(case, order, generator)
        references = _around(centres, members, generator)
        if case.takes_unit_rows:
            references = normalize(references)
        references = references.to(**kind).requires_grad_(not case.in_memory)
        reference_labels = classes[members].to(case.device)
        if case.in_memory:
            references[: case.n], reference_labels[: case.n] = embeddings, labels
    if issubclass(kind_of_loss, DistillationLoss):
        wide = torch.randn(case.classes_in_batch, _TEACHER_WIDTH * case.d, generator=generator)
        teacher = _around(wide, order // case.samples_per_class, generator).to(**kind)
        teacher.requires_grad_(kind_of_loss.trains_teacher)
    return Problem(
        embeddings.to(**kind).requires_grad_(),
        labels.to(case.device),
        weights,
        references,
        reference_labels,
        teacher,
        case.in_memory,
    )


def _reference_members(case: Case, order: Tensor, generator: torch.Generator) -> Tensor:
    if case.has_one_positive:
        return order
    return torch.randint(case.classes_in_batch, (case.num_references,), generator=generator)


def _around(centres: Tensor, members: Tensor, generator: torch.Generator) -> Tensor:
    """A random point near the centre of each member, in blocks: no second array of its size."""
    points = torch.randn(len(members), centres.shape[1], generator=generator)
    for start in range(0, len(members), 4096):
        rows = slice(start, start + 4096)
        points[rows] += centres[members[rows]]
    return points


def as_dtype(problem: Problem, dtype: torch.dtype) -> Problem:
    """The same numbers in another dtype, as leaves of their own."""

    def copy(tensor: Tensor) -> Tensor:
        return tensor.detach().to(dtype, copy=True)

    weights, references, teacher = problem.weights, problem.references, problem.teacher
    return Problem(
        copy(problem.embeddings).requires_grad_(),
        problem.labels,
        None if weights is None else nn.Parameter(copy(weights)),
        None if references is None else copy(references).requires_grad_(references.requires_grad),
        problem.reference_labels,
        None if teacher is None else copy(teacher).requires_grad_(teacher.requires_grad),
        problem.in_memory,
        problem.indices,
    )
