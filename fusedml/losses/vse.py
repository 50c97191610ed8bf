"""The hinge losses of visual-semantic embeddings: VSE, and VSE++ of the hardest negatives."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from fusedml.engine import autograd
from fusedml.engine.arguments import check_flag
from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.precision import result_dtype
from fusedml.formulas import Hyperparameter, pack
from fusedml.hyperparameters import Checks, any_number
from fusedml.losses.base import Backend, Promises
from fusedml.losses.two_towers import TwoTowerLoss
from fusedml.reducers import zero_loss
from fusedml.terms import hinge


class VSELoss(TwoTowerLoss):
    """L = sum_i sum_{j != i} [margin + s_ij - s_ii]+ + [margin + s_ji - s_ii]+, s_ij = <a_i, r_j>.

    a are the features of images, r those of their captions, used as given: the authors normalise
    them in the model.  With ``max_violation`` only the largest term of each of the two sums over j
    counts, which is VSE++.  The loss is a sum over the batch, as its authors', and 0 for n = 1.
    Both directions of the sums come from one sweep over the pairs.

    Args:
        margin: by which an own caption is to be more similar than any other.
        max_violation: whether only the hardest negatives count.
        backend: "auto", "cuda", "torch" or "dense".

    Source: Kiros et al., "Unifying Visual-Semantic Embeddings with Multimodal Neural Language
    Models", 2014; Faghri et al., "VSE++: Improving Visual-Semantic Embeddings with Hard
    Negatives", BMVC 2018, eq. (5) and (6).
    """

    input_names = ("images", "texts")
    normalizes = False
    hyperparameters: ClassVar[Checks] = {"margin": any_number}
    promises = Promises({128: 2.0}, not_slower_from=1024)

    def __init__(
        self,
        margin: float | Tensor = 0.2,
        max_violation: bool = False,
        *,
        backend: Backend = "auto",
    ) -> None:
        super().__init__(backend=backend)
        self.margin = margin
        self.max_violation = check_flag("max_violation", max_violation)

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        """The loss, 0-d, in the dtype of the features (under autocast float32).

        Args:
            images: [n, d], floating point.
            texts: [n, d]; text i belongs to image i.

        Raises:
            ValueError: for wrong shapes, dtypes or devices.
            TypeError: for arguments that are no floating-point tensors.
        """
        problem, margin = self.paired_problem(images, texts), self.value_of("margin")
        if len(images) < 2:
            loss = zero_loss(images, texts)
        elif self.takes_formula(problem):
            loss = _dense(problem, margin, self.max_violation)
        elif self.max_violation:
            loss = _of_the_hardest(problem, margin, self.backend)
        else:
            loss = _of_all(problem, margin, self.backend)
        return loss.to(result_dtype(images))

    if TYPE_CHECKING:
        __call__ = forward


def _sides(problem: PairProblem) -> tuple[Tensor, Tensor]:
    assert problem.references is not None  # of two sets
    return problem.anchors, problem.references


def _of_all(problem: PairProblem, margin: Hyperparameter, backend: str) -> Tensor:
    """The hinges of all rows and of all columns, whose shifts are margin - s_ii."""
    a, r = _sides(problem)
    wide = accumulation_dtype(a.dtype)
    gap = margin - (a.to(wide) * r.to(wide)).sum(1)
    shifts = torch.stack([torch.zeros_like(gap), gap]).repeat(1, 2)
    logit = pack(1.0, 0.0, 1.0, 0.0)
    sums = autograd.pair_sums(
        problem, logit, (hinge(False),), shifts, both_sides=True, backend=backend
    )
    return sums.sums.sum()


def _of_the_hardest(problem: PairProblem, margin: Hyperparameter, backend: str) -> Tensor:
    """The hinges of 2 n listed pairs: the hardest of each row and of each column."""
    a, r = _sides(problem)
    own = torch.arange(len(a), device=a.device)
    rows = torch.cat([own, own, _hardest(r, a, backend)])
    columns = torch.cat([own, _hardest(a, r, backend), own])
    x = autograd.pair_values(a, r, rows, columns, "dot", backend).view(3, -1)
    return torch.relu(margin + x[1:] - x[0]).sum()


def _hardest(a: Tensor, r: Tensor, backend: str) -> Tensor:
    """For each row of a the column of the largest s_ij, j != i; of equal ones the lowest."""
    rows = torch.arange(len(a), device=a.device)
    problem = PairProblem(a, r, rows, rows, exclude_diagonal=False)
    return autograd.extreme_pairs(problem, (True, True), backend=backend)[1][1]


def _dense(problem: PairProblem, margin: Hyperparameter, max_violation: bool) -> Tensor:
    a, r = _sides(problem)
    s = a @ r.T
    s = s.to(accumulation_dtype(s.dtype))
    gap = margin - s.diagonal()
    is_own = torch.eye(len(s), dtype=torch.bool, device=s.device)
    of_rows, of_columns = (
        torch.relu(s + of_lines).masked_fill(is_own, 0) for of_lines in (gap[:, None], gap)
    )
    if max_violation:
        return of_rows.max(1).values.sum() + of_columns.max(0).values.sum()
    return of_rows.sum() + of_columns.sum()
