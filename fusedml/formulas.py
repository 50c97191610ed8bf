"""What a loss says of its pairs: logits, and a head that makes losses of the rows' statistics.

A formula says how the measure x of a pair (a similarity, or a distance) becomes its logit,

    z_ij = scale+ x_ij + shift+  on positives,     z_ij = scale- x_ij + shift-  on negatives,

or another curve of x_ij with these four numbers (``fusedml.curves``), and how losses come of the
logits' statistics: one for each row, or one for each positive pair.
``sign`` is +1 when a larger x means more alike (similarities) and -1 when it means less alike
(distances): a loss written for one serves both, as in pytorch-metric-learning's
``distance.margin``.

Hyper-parameters are Python numbers or 0-d tensors; a tensor that requires a gradient receives it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fusedml.curves import AFFINE
from fusedml.engine.pairs import widest_dtype
from fusedml.heads import PAIR_FORMS, ROW_FORMS, RowForm, Rows, RowStatistics
from fusedml.terms import Term

Hyperparameter = float | Tensor


def pack(*values: Hyperparameter) -> Tensor:
    """Hyper-parameters as one vector in float64, on the CPU unless one of them is elsewhere."""
    for value in values:
        if isinstance(value, Tensor):
            break
    else:
        return _packed_numbers(values)
    tensors = [value for value in values if isinstance(value, Tensor)]
    device = next((t.device for t in tensors if t.device.type != "cpu"), tensors[0].device)
    dtype = widest_dtype(device)
    # a number is filled in: a copy of it would wait for the GPU
    return torch.stack(
        [
            value.to(device, dtype)
            if isinstance(value, Tensor)
            else torch.full((), value, dtype=dtype, device=device)
            for value in values
        ]
    )


def nan_or_zero(numbers: Tensor) -> Tensor:
    """NaN where a number is, 0 elsewhere, without gradient: added to what must not be without."""
    return numbers.detach().clamp(0, 0)  # NaN stays


def _packed_numbers(values: Sequence[Hyperparameter]) -> Tensor:
    # a third of the time, where no mode, as FakeTensorMode, is to see the tensor made
    if values and not torch.compiler.is_compiling() and not torch._C._len_torch_dispatch_stack():
        return torch.frombuffer(array("d", values), dtype=torch.float64)
    return torch.tensor(values, dtype=torch.float64, device="cpu")


def beside(x: Tensor, value: Hyperparameter) -> Hyperparameter:
    """A hyper-parameter as a factor of x, in a dtype that the device of x has."""
    if isinstance(value, Tensor) and value.dtype == torch.float64:
        return value.to(widest_dtype(x.device))
    return value


class RowFormula(NamedTuple):
    """One loss per row, L_i = head(statistics of row i).

    logit: sign -> (scale+, shift+, scale-, shift-), [4], float64.
    head: the statistics -> L_i, [n], in differentiable PyTorch; None: the form says it.
    form: a name of ``fusedml.heads.ROW_FORMS``, whose kernels make losses of the statistics in the
        launch that finishes these; None: ``head`` is computed on the rows afterwards.
    parameters: of the form, 1-D float64.
    curve: what makes a logit of x and the numbers of ``logit``, a name of
        ``fusedml.curves.CURVES``.
    closed: beside a head without form, the head with its partial derivatives in closed terms: of
        small problems autograd's calls cost more than the numbers.
    """

    logit: Callable[[float], Tensor]
    head: Callable[[Rows], Tensor] | None
    form: str | None = None
    parameters: Tensor | None = None
    curve: str = AFFINE.name
    closed: RowForm | None = None

    def form_parameters(self) -> Tensor:
        """The form's parameters; empty when it has none."""
        return pack() if self.parameters is None else self.parameters

    def closed_form(self, logit: Tensor) -> tuple[str | RowForm, Tensor] | None:
        """The head with its partial derivatives, and its parameters; None where it has none, and of
        parameters that learn: it has no derivative with respect to these.

        logit: in the place of no parameters, as a tensor that is there.
        """
        form = self.form or self.closed
        if form is None or self.parameters is None:
            return None if form is None else (form, logit)
        return None if self.parameters.requires_grad else (form, self.parameters)

    def losses(self, row: RowStatistics) -> Tensor:
        """L_i, [n], differentiable in the statistics and in the hyper-parameters."""
        if self.form is not None:
            return ROW_FORMS[self.form](row, self.form_parameters()).value
        assert self.head is not None  # one of them is given
        return self.head(row)


class PairFormula(NamedTuple):
    """One loss per positive pair, v(z_ip, lse_i, lse_p), lse the negative log-sum-exps of its rows.

    logit, curve: as in RowFormula.  form: a name of ``fusedml.heads.PAIR_FORMS``.
    needs_reference_lse: whether the form looks at lse_p.
    """

    logit: Callable[[float], Tensor]
    form: str
    needs_reference_lse: bool = False
    curve: str = AFFINE.name

    def form_parameters(self) -> Tensor:
        """The form's parameters: none yet."""
        return pack()

    def losses(self, logit: Tensor, anchor_lse: Tensor, reference_lse: Tensor) -> Tensor:
        """v, broadcast over the pairs."""
        return PAIR_FORMS[self.form](logit, anchor_lse, reference_lse).value


class SumFormula(NamedTuple):
    """Sums of functions of the logits over the pairs of each row; what they make of it losses say.

    logit, curve: as in RowFormula.  terms: what is summed, over positives or over negatives.
    shifts: None, or what is added to the logits of the pairs of each row, [2, n]: of its positives
        and of its negatives; differentiable.
    """

    logit: Callable[[float], Tensor]
    terms: tuple[Term, ...]
    shifts: Tensor | None = None
    curve: str = AFFINE.name


Formula = RowFormula | PairFormula
