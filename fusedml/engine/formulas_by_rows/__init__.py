"""The operators of reductions L and S in differentiable PyTorch, block by block of rows.

By them a gradient is differentiated, see ``engine.recorded``: slower than the operators, in memory
that is bounded as theirs is.  A function takes what its operator does, the problem gathered, and
returns the operator's first output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from fusedml.curves import CURVES
from fusedml.engine.averaged import Interval, mean_between
from fusedml.engine.formulas_by_rows.given import entry_statistics, entry_sums
from fusedml.engine.formulas_by_rows.joint import joint_pair_losses, listed_joint_losses
from fusedml.engine.formulas_by_rows.listed import (
    few_triplets,
    listed_sums,
    listed_triplets,
    listed_values,
    losses_by_list,
    pair_values,
)
from fusedml.engine.formulas_by_rows.statistics import (
    group_statistics,
    marked_row_losses,
    marked_statistics,
    pair_statistics,
    paired_losses,
    positive_pair_losses,
    row_divergences,
    row_losses,
    target_losses,
    two_sided_losses,
    two_sided_statistics,
)
from fusedml.engine.formulas_by_rows.sums import centred_means, pair_means, pair_sums
from fusedml.engine.ops import with_problem
from fusedml.engine.pairs import PairProblem
from fusedml.engine.recorded import Tensors
from fusedml.terms import unpacked

_OF_PROBLEM: dict[str, Callable[..., Tensor]] = {
    function.__name__: function
    for function in (
        pair_statistics,
        row_losses,
        two_sided_statistics,
        two_sided_losses,
        paired_losses,
        target_losses,
        marked_row_losses,
        marked_statistics,
        listed_values,
        listed_sums,
        listed_triplets,
        few_triplets,
        listed_joint_losses,
        pair_means,
        centred_means,
        losses_by_list,
        positive_pair_losses,
        pair_sums,
    )
}
_OTHERS: dict[str, Callable[..., Tensor]] = {
    function.__name__: function
    for function in (
        joint_pair_losses,
        group_statistics,
        entry_statistics,
        entry_sums,
        pair_values,
        row_divergences,
    )
}


def has_formula(name: str, args: Sequence[Any]) -> bool:
    """Whether an operator, called with these, has one whose first derivative is its gradient's."""
    curves = [CURVES[arg] for arg in args if isinstance(arg, str) and arg in CURVES]
    is_known = name.removeprefix("kept_") in {**_OF_PROBLEM, **_OTHERS}
    return is_known and all(curve.has_derivative for curve in curves)


def of_operator(name: str, args: Sequence[Any]) -> Tensor:
    """The first output of the operator, called with these."""
    name = name.removeprefix("kept_")
    if name in _OTHERS:
        return _OTHERS[name](*args)
    problem, logit, *rest = with_problem(name, tuple(args))
    if name == "pair_sums":
        shifts, terms, both_sides = rest
        rest = [shifts, unpacked(terms), both_sides]
    return _OF_PROBLEM[name](problem, logit, *rest)


class Held(NamedTuple):
    """The formula of a problem, but for its tensors.

    name: of ``_OF_PROBLEM``.  view: the fields of the problem after its labels.  rest: what the
    function takes after the operand that it need not have, and before further tensors.
    interval: None, or for the mean of the losses in it.
    """

    name: str
    view: tuple[Any, ...]
    rest: tuple[Any, ...] = ()
    interval: Interval | None = None

    @property
    def has_derivative(self) -> bool:
        """Whether its first derivative is the operator's gradient."""
        return self.name in _OF_PROBLEM and CURVES[self.view[-1]].has_derivative

    def of(
        self, labels: Sequence[Tensor | None], tensors: Tensors
    ) -> Callable[[Tensor, Tensor | None, Tensor, Tensor | None], Tensor]:
        """The function of anchors, references, logit, and the operand."""

        def formula(
            anchors: Tensor, references: Tensor | None, logit: Tensor, operand: Tensor | None
        ) -> Tensor:
            problem = PairProblem._make((anchors, references, *labels, *self.view))
            function = _OF_PROBLEM[self.name]
            losses = function(problem, logit, operand, *self.rest, *tensors)
            return losses if self.interval is None else mean_between(losses, self.interval)

        return formula


def held(
    name: str,
    problem: PairProblem,
    rest: tuple[Any, ...] = (),
    tensors: Sequence[Tensor | None] = (),
    has_labels: bool = True,
) -> tuple[Held, tuple[Tensor | None, ...]]:
    """The formula, and its tensors: the labels first.

    has_labels: False where nothing reads them.
    """
    labels = problem[2:4] if has_labels else (None, None)
    return Held(name, problem[4:], rest), (*labels, *tensors)
