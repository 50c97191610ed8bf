"""What is measured: one loss, one size, one direction, and the inputs that belong to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fusedml.losses import LOSSES

FORWARD = "forward"
FORWARD_BACKWARD = "forward+backward"
DIRECTIONS = (FORWARD, FORWARD_BACKWARD)


@dataclass(frozen=True)
class Case:
    """A loss on a batch of n embeddings of dimension d, with the loss's default arguments.

    loss: a name of ``fusedml.losses.LOSSES``.  num_classes: the number of proxies of the losses
    that have some; more than n / samples_per_class of them, as a class need not be in the batch.
    direction: "forward" is evaluated under no_grad, "forward+backward" includes the gradients of
    all leaves.  num_references: what the batch is compared with is a second set of that many
    embeddings of the same classes (``ref_emb``); 0 compares the batch with itself.

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

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        if self.direction not in DIRECTIONS:
            raise ValueError(f"direction must be one of {DIRECTIONS}, got {self.direction!r}")
        if not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise ValueError(f"dtype must be the name of a torch dtype, got {self.dtype!r}")
        for name in ("n", "d", "samples_per_class", "num_classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_references < 0:
            raise ValueError(f"num_references must be at least 0, got {self.num_references}")
        if self.num_references and self.loss in ("ProxyAnchorLoss", "NPairsLoss"):
            raise ValueError(
                f"num_references must be 0 for {self.loss}, which takes no references, got "
                f"{self.num_references}"
            )
        if self.has_proxies and self.num_classes < self.classes_in_batch:
            raise ValueError(
                f"num_classes must be at least the {self.classes_in_batch} classes of the batch, "
                f"got {self.num_classes}"
            )

    @property
    def has_proxies(self) -> bool:
        """Whether the loss compares with proxies, one a class."""
        return self.loss == "ProxyAnchorLoss"

    @property
    def classes_in_batch(self) -> int:
        """Number of different labels."""
        return -(-self.n // self.samples_per_class)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Rows and columns of the similarity matrix that the dense version holds."""
        if self.has_proxies:
            return self.num_classes, self.n
        if self.loss == "NPairsLoss":
            # classes of at least two samples; the last class may be cut short
            pairs = sum(size >= 2 for size in self._class_sizes())
            return pairs, pairs
        return self.n, self.num_references or self.n

    def _class_sizes(self) -> list[int]:
        whole, rest = divmod(self.n, self.samples_per_class)
        return [self.samples_per_class] * whole + ([rest] if rest else [])


class Problem(NamedTuple):
    """The inputs of a case: embeddings [n, d] (not normalised), labels [n], proxies or None.

    references: [m, d] with reference_labels [m], or None where the batch is compared with itself.
    """

    embeddings: Tensor
    labels: Tensor
    proxies: nn.Parameter | None
    references: Tensor | None = None
    reference_labels: Tensor | None = None

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """The tensors whose gradients are asked for."""
        others = (self.proxies, self.references)
        return self.embeddings, *(leaf for leaf in others if leaf is not None)


LossFunction = Callable[[], Tensor]
# computes the loss of a case on its problem, 0-d, differentiable in the problem's leaves
Provider = Callable[[Case, Problem], LossFunction]


class UnavailableError(Exception):
    """A provider cannot compute a case here; its text is the outcome of the row that says so."""


def make_problem(case: Case) -> Problem:
    """Random embeddings around random class centres, in random order, the same for equal cases."""
    generator = torch.Generator().manual_seed(case.seed)
    classes = torch.randperm(
        case.num_classes if case.has_proxies else case.classes_in_batch, generator=generator
    )
    order = torch.randperm(case.n, generator=generator)
    labels = classes[order // case.samples_per_class]
    centres = torch.randn(case.classes_in_batch, case.d, generator=generator)
    embeddings = _around(centres, order // case.samples_per_class, generator)
    kind = {"dtype": getattr(torch, case.dtype), "device": case.device}
    proxies = references = reference_labels = None
    if case.has_proxies:
        proxies = nn.Parameter(
            torch.randn(case.num_classes, case.d, generator=generator).to(**kind)
        )
    if case.num_references:
        members = torch.randint(case.classes_in_batch, (case.num_references,), generator=generator)
        references = _around(centres, members, generator).to(**kind).requires_grad_()
        reference_labels = classes[members].to(case.device)
    return Problem(
        embeddings.to(**kind).requires_grad_(),
        labels.to(case.device),
        proxies,
        references,
        reference_labels,
    )


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

    proxies, references = problem.proxies, problem.references
    return Problem(
        copy(problem.embeddings).requires_grad_(),
        problem.labels,
        None if proxies is None else nn.Parameter(copy(proxies)),
        None if references is None else copy(references).requires_grad_(),
        problem.reference_labels,
    )
