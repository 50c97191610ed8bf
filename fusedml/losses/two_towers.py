"""Losses of two sets of features, row i of one belonging to row i of the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fusedml.engine import autograd
from fusedml.engine.arguments import check_count, check_flag
from fusedml.engine.backends import DENSE, require_backend
from fusedml.engine.few_positives import may_list_positives
from fusedml.engine.inputs import check_embeddings, check_references
from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.precision import prepare, result_dtype, tile_dtype
from fusedml.engine.routes.fused import without_shared_tensors
from fusedml.engine.whole import is_small
from fusedml.formulas import Hyperparameter, pack
from fusedml.losses.multi_input import MultiInputLoss

# Pairs up to which the formula in ordinary PyTorch is the fastest where pairs are independent.
_FEW_PAIRS = 1 << 18


class TwoTowerLoss(MultiInputLoss):
    """A loss of features [n, d] and [m, d], m >= n, whose rows i belong together.

    Args:
        backend: "auto", "cuda", "torch" or "dense", see :class:`fusedml.losses.BaseLoss`.
    """

    #: what the two sets are called
    input_names: ClassVar[tuple[str, str]]
    #: whether the features are divided by their norms first
    normalizes: ClassVar[bool]
    #: whether it is made of ``losses`` alone
    is_cross_entropy: ClassVar[bool] = False

    @classmethod
    def matrix_shape(
        cls, class_sizes: Sequence[int], num_references: int, num_classes: int
    ) -> tuple[int, int]:
        """See :meth:`fusedml.losses.BaseLoss.matrix_shape`."""
        return sum(class_sizes), num_references

    def losses(self, features: Tensor, others: Tensor, scale: Hyperparameter, both: bool) -> Tensor:
        """The cross-entropy of each row's own partner among all, [n].

            -log(e^{scale <a_i, r_i>} / sum_j e^{scale <a_i, r_j>})

        both: [2, n], the second that of the partners.  In float32, or float64 for float64 features.
        """
        self.check(features, others)
        require_backend(self.backend, features)
        dtype = tile_dtype(features)
        n, device = features.shape[0], features.device
        if self.backend == DENSE:
            a, r = (prepare(x, dtype, self.normalizes) for x in (features, others))
            return _dense_losses(a, r, scale, both)
        logit, is_within = pack(scale, 0.0, scale, 0.0), features.dtype == others.dtype == dtype
        no_labels = features.new_empty(0)
        problem = PairProblem(
            features,
            others,
            no_labels,
            no_labels,
            exclude_diagonal=False,
            normalize=self.normalizes,
        )
        losses = autograd.paired_losses(problem, logit, both, self.backend) if is_within else None
        if losses is not None:
            return losses
        problem = problem._replace(
            anchor_labels=torch.arange(n, device=device),
            reference_labels=torch.arange(others.shape[0], device=device),
        )
        is_within = is_within and self.normalizes
        if not (is_within and may_list_positives(self.backend, problem, both_sides=both)):
            a, r = (prepare(x, dtype, self.normalizes) for x in (features, others))
            problem = problem._replace(anchors=a, references=r, normalize=False)
        given = problem, logit, "cross_entropy", pack()
        if not both:
            return autograd.row_losses(*given, None, self.backend)
        of_rows, of_columns = autograd.two_sided_losses(*given, self.backend)
        return torch.stack([of_rows, of_columns[:n]])

    def paired_problem(self, features: Tensor, others: Tensor) -> PairProblem:
        """All pairs, (i, i) being the positives, of features as they are measured.

        Raises ValueError unless there are as many others as features.
        """
        names = self.input_names
        self.check(features, others)
        if len(features) != len(others):
            raise ValueError(
                f"{names[1]} must have as many rows as {names[0]}, got shapes "
                f"{tuple(others.shape)} and {tuple(features.shape)}"
            )
        require_backend(self.backend, features)
        dtype = tile_dtype(features)
        a, r = (prepare(x, dtype, self.normalizes) for x in (features, others))
        rows, columns = (torch.arange(len(x), device=x.device) for x in (a, r))
        problem = PairProblem(a, r, rows, columns, exclude_diagonal=False, anchors_sorted=True)
        return without_shared_tensors(problem) if torch.compiler.is_compiling() else problem

    def takes_formula(self, problem: PairProblem) -> bool:
        """Whether the formula on the full matrix is computed in ordinary PyTorch: asked for, or of
        so few pairs that a call costs more than memory.
        """
        if self.backend == DENSE:
            return True
        a, r = problem.anchors, problem.references
        is_wide = a.dtype == accumulation_dtype(a.dtype)
        return is_wide and math.prod(problem.shape) <= _FEW_PAIRS and is_small(self.backend, a, r)

    @property
    def is_of_queries(self) -> bool:
        """Whether each row of the first set has a term and those of the second have none, so that
        there may be more of these: negatives of all.
        """
        return False

    def check(self, features: Tensor, others: Tensor) -> None:
        """Raises unless these are two sets of features, see :meth:`losses`."""
        names = self.input_names
        check_embeddings(features, names[0])
        check_references(features, others, names[1])
        if others.shape[0] < features.shape[0]:
            raise ValueError(
                f"{names[1]} must have at least the rows of {names[0]}, {features.shape[0]}, got "
                f"shape {tuple(others.shape)}"
            )


def require_one_rank(world_size: int, use_horovod: bool = False) -> None:
    """Raises NotImplementedError for more than one rank."""
    if check_count("world_size", world_size) != 1 or check_flag("use_horovod", use_horovod):
        raise NotImplementedError(
            f"world_size must be 1 and use_horovod False, got {world_size} and {use_horovod}: "
            "on several ranks take fusedml.distributed.DistributedLoss"
        )


def _dense_losses(a: Tensor, r: Tensor, scale: Hyperparameter, both: bool) -> Tensor:
    """PyTorch's cross-entropy on the matrix of products."""
    logits = (a * torch.as_tensor(scale, dtype=a.dtype, device=a.device)) @ r.T
    logits = logits.to(accumulation_dtype(logits.dtype))
    targets = torch.arange(a.shape[0], device=a.device)
    rows = cross_entropy(logits, targets, reduction="none")
    if not both:
        return rows
    # a slice costs a copy of the matrix in the backward
    columns = logits.T if len(a) == len(r) else logits.T[: len(a)]
    return torch.stack([rows, cross_entropy(columns, targets, reduction="none")])


def mean_of(losses: Tensor, like: Tensor) -> Tensor:
    """The mean over the rows, and over both directions; 0 of none."""
    dtype = result_dtype(like)
    if losses.numel() == 0:
        return ((like * 0).sum() + losses.sum()).to(dtype)
    mean = losses.mean()
    return mean if mean.dtype == dtype else mean.to(dtype)
