"""The ``torch.autograd.Function``s: what is computed forward, what of it is kept, and by whom it is
differentiated.  ``engine.autograd`` chooses among them.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fusedml.engine.backends import has_kernels
from fusedml.engine.batches import one_by_one
from fusedml.engine.eager_rows import EagerRowLosses
from fusedml.engine.few_matrix import FewPositives
from fusedml.engine.formulas_by_rows import Held, has_formula, of_operator
from fusedml.engine.kept import KEPT_KERNELS
from fusedml.engine.marked import MarkedRowLosses
from fusedml.engine.ops import operator
from fusedml.engine.precision import is_autocast, is_recorded, without_autocast
from fusedml.engine.recorded import Gradient, UntransformedFunction
from fusedml.engine.whole import WholeMatrix


class _Rule(NamedTuple):
    """How an operator is differentiated: by which operator, from which saved tensors."""

    gradient: str  # name of the operator that computes the gradient
    num_differentiable_outputs: int
    saved_outputs: tuple[int, ...]
    inputs_with_gradient: tuple[int, ...]  # positions among the operator's arguments
    num_needs: int  # how many of them the gradient operator is told about


_RULES = {
    "pair_statistics": _Rule("pair_gradient", 1, (0,), (0, 1, 4), 3),
    "row_losses": _Rule("pair_gradient", 1, (1, 2), (0, 1, 4), 3),
    "positive_pair_losses": _Rule("positive_pair_gradient", 1, (1,), (0, 1, 4, 7), 3),
    "two_sided_statistics": _Rule("two_sided_gradient", 1, (0,), (0, 1, 4), 3),
    "group_statistics": _Rule("group_gradient", 1, (0,), (0, 1, 3), 3),
    "joint_pair_losses": _Rule("joint_pair_gradient", 1, (), (0, 1, 4, 5), 4),
    "pair_sums": _Rule("pair_sums_gradient", 1, (1, 2), (0, 1, 4, 7), 3),
    "entry_statistics": _Rule("entry_statistics_gradient", 1, (0,), (0, 6), 2),
    "entry_sums": _Rule("entry_sums_gradient", 1, (1, 2), (0, 6, 9), 2),
    "triplet_losses": _Rule("triplet_gradient", 1, (2, 3), (0, 1, 4), 3),
    "matrix_triplet_losses": _Rule("matrix_triplet_gradient", 1, (2,), (0, 3), 2),
    "pair_histograms": _Rule("pair_histograms_gradient", 1, (), (0,), 1),
    "rank_losses": _Rule("rank_gradient", 1, (1,), (0, 1, 4), 3),
    "matrix_rank_losses": _Rule("matrix_rank_gradient", 1, (), (0, 3), 2),
    "row_divergences": _Rule("row_divergences_gradient", 1, (0, 1), (0, 1, 3), 3),
    "pair_values": _Rule("pair_values_gradient", 1, (), (0, 1), 2),
    # the last output are the measures
    "kept_pair_statistics": _Rule("kept_pair_gradient", 1, (0, 2), (0, 1, 4), 3),
    "kept_row_losses": _Rule("kept_pair_gradient", 1, (1, 2, 3), (0, 1, 4), 3),
    "kept_two_sided_statistics": _Rule("kept_two_sided_gradient", 1, (0, 2), (0, 1, 4), 3),
}


for _engine in ("auto", "hopper"):
    for _name in ("pair_statistics", "row_losses"):
        _RULES[f"{_engine}_{_name}"] = _RULES[_name]._replace(gradient=f"{_engine}_pair_gradient")


def _function(name: str, backend: str) -> Callable[..., Any]:
    return KEPT_KERNELS[name] if name in KEPT_KERNELS else operator(name, backend)


def _vmap_rule(function: Callable[..., Any], info: Any, in_dims: Any, args: Any) -> Any:
    """Of all operators: a call for each element of the batch, the results stacked."""
    results = [
        function(
            *(
                x.select(dim, k) if isinstance(x, Tensor) and dim is not None else x
                for x, dim in zip(args, in_dims, strict=True)
            )
        )
        for k in range(info.batch_size)
    ]
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(results[0])


class Underived(torch.autograd.Function):
    """A function without derivative, as a node of its own: so asking for one raises.

    Its arguments are the function's name, the function, and the function's own arguments.
    """

    @staticmethod
    def forward(name: str, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.name = inputs[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise NotImplementedError(
            f"fusedml: {ctx.name} has no derivative: here a loss can be differentiated once. "
            "For second derivatives use backend='dense' (fusedml.dense)."
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return _vmap_rule(Underived.apply, info, in_dims, args)


class FusedOperator(torch.autograd.Function):
    """An operator whose backward is another operator on the same problem and a few saved rows.

    Its arguments are the operator's name, the backend, and the operator's own arguments.
    """

    @staticmethod
    def forward(name: str, backend: str, *args: Any) -> Any:
        return _function(name, backend)(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.name, ctx.backend, *args = inputs
        rule = _RULES[ctx.name]
        outputs = output if isinstance(output, tuple) else (output,)
        constant_outputs = outputs[rule.num_differentiable_outputs :]
        if constant_outputs:  # torch.compile takes no empty call
            ctx.mark_non_differentiable(*constant_outputs)
        ctx.set_materialize_grads(False)  # of the outputs that have no gradient
        ctx.tensor_at = [isinstance(arg, Tensor) for arg in args]
        ctx.constants = [None if isinstance(arg, Tensor) else arg for arg in args]
        ctx.num_tensors = sum(ctx.tensor_at)
        ctx.save_for_backward(
            *(arg for arg in args if isinstance(arg, Tensor)),
            *(outputs[i] for i in rule.saved_outputs),
        )

    @staticmethod
    @one_by_one
    def backward(ctx: Any, output_grad: Tensor | None, *_: Any) -> Any:
        if output_grad is None:
            return (None,) * (2 + len(ctx.tensor_at))
        rule = _RULES[ctx.name]
        needed = [ctx.needs_input_grad[2 + i] for i in rule.inputs_with_gradient]
        needs = needed[: rule.num_needs]
        saved = ctx.saved_tensors
        inputs, outputs = saved[: ctx.num_tensors], saved[ctx.num_tensors :]
        tensors = iter(inputs)
        args = [
            next(tensors) if is_tensor else constant
            for is_tensor, constant in zip(ctx.tensor_at, ctx.constants, strict=True)
        ]
        function = _function(rule.gradient, ctx.backend)

        def gradient(output_grad: Tensor) -> Any:
            return function(*_gradient_arguments(ctx.name, args, outputs, output_grad), needs)

        grads: Any
        if is_recorded() and _is_differentiable_twice(ctx, args):
            grads = _differentiable_gradient(ctx.name, args, needed, gradient, output_grad)
        elif torch.is_grad_enabled():  # only under create_graph=True, or torch.func
            args = [*_gradient_arguments(ctx.name, args, outputs, output_grad), needs]
            grads = Underived.apply(rule.gradient, function, *args)
        else:
            grads = gradient(output_grad)
        result: list[Tensor | None] = [None] * len(ctx.tensor_at)
        grads = (grads,) if isinstance(grads, Tensor) else grads
        for i, need, grad in zip(rule.inputs_with_gradient, needed, grads, strict=True):
            result[i] = grad if need else None
        return None, None, *result


# torch binds the arguments of every call to this signature: found here once, not in each call
FusedOperator.forward.__signature__ = inspect.signature(FusedOperator.forward)  # type: ignore[attr-defined]


def _is_differentiable_twice(ctx: Any, args: Sequence[Any]) -> bool:
    return has_formula(ctx.name, args) and not has_kernels(ctx.backend, args[0])


def _differentiable_gradient(
    name: str,
    args: list[Any],
    needs: Sequence[bool],
    gradient: Callable[[Tensor], Any],
    output_grad: Tensor,
) -> Any:
    """The gradients of the operator's inputs, recorded."""
    places = _RULES[name].inputs_with_gradient

    def needed_gradient(output_grad: Tensor) -> list[Tensor | None]:
        grads = gradient(output_grad)
        grads = (grads,) if isinstance(grads, Tensor) else grads
        return [grad if need else None for grad, need in zip(grads, needs, strict=True)]

    def formula(*operands: Tensor | None) -> Tensor:
        given = list(args)
        for place, operand in zip(places, operands, strict=True):
            given[place] = operand
        return of_operator(name, given)

    operands = (args[place] for place in places)
    return Gradient.apply(needed_gradient, formula, output_grad, *operands)


class _TransformedOperator(FusedOperator):
    """The operator under the transforms of torch.func: torch.compile takes no Function with jvp."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return _vmap_rule(differentiable, info, in_dims, args)

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        raise NotImplementedError(
            "fusedml: the fused losses have no forward-mode derivative (jvp, jacfwd, hessian): use "
            "grad, vjp or jacrev, and for second derivatives backend='dense' (fusedml.dense)."
        )


def _gradient_arguments(name: str, args: list[Any], saved: tuple[Tensor, ...], grad: Tensor) -> Any:
    """The gradient operator's arguments up to ``needs``."""
    if name.endswith("row_losses"):
        statistics, partials, *measured = saved
        return *args[:9], statistics, partials * grad, *measured
    if name in KEPT_KERNELS:
        statistics, measures = saved
        return *args, statistics, grad.contiguous(), measures
    return *args, *saved, grad.contiguous()


def differentiable(name: str, backend: str, *args: Any) -> Any:
    """An operator's outputs, recorded by autograd where it records anything."""
    if torch.compiler.is_compiling():
        has_gradient = any(isinstance(arg, Tensor) and arg.requires_grad for arg in args)
        if not (has_gradient and torch.is_grad_enabled()):
            # here torch.compile hands a context, too, to a forward that has *args
            return operator(name, backend)(*args)
    elif torch._C._are_functorch_transforms_active():
        return _TransformedOperator.apply(name, backend, *args)
    return FusedOperator.apply(name, backend, *args)


# which of the operands are the numbers of the logits: nobody else has this tensor
_LOGIT = 2


class SmallOperator(UntransformedFunction):
    """An operator on whole matrices, normalisation included, see ``engine.whole``.

    None where they do not serve, for what is not finite.
    """

    @staticmethod
    def forward(
        ctx: Any,
        whole: WholeMatrix | MarkedRowLosses | FewPositives | EagerRowLosses,
        formula: Held,
        tensors: tuple[Tensor | None, ...],
        *operands: Tensor | None,
    ) -> Any:
        """formula, tensors: see ``formulas_by_rows.held``."""
        first = operands[0]
        if first is not None and is_autocast(first):
            with without_autocast(first):
                outputs = whole.evaluate()
        else:
            outputs = whole.evaluate()
        if outputs is None:
            return None
        if len(outputs) > 1:
            ctx.mark_non_differentiable(*outputs[1:])
            ctx.set_materialize_grads(False)  # of the outputs that have no gradient
        needs = ctx.needs_input_grad[3:]
        if True not in needs:
            return outputs
        ctx.whole, parts = whole.parted(needs[2])
        ctx.formula, ctx.num_tensors = formula, len(tensors)
        # an operand is for the version check, and for the node of a gradient that is recorded; the
        # caller may overwrite what needs no gradient, and the labels: a second derivative alone
        # reads them again
        given, ctx.versions = [], []
        for k, (x, need) in enumerate(
            zip((*operands, *tensors[:2]), (*needs, False, False), strict=True)
        ):
            if need or x is None or k == _LOGIT:
                given.append(x)
            else:
                given.append(x.data)  # which may be overwritten while autograd keeps it
                ctx.versions.append(_version(x))
        ctx.save_for_backward(*given, *tensors[2:], *parts)
        return outputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> Any:
        needs, saved = ctx.needs_input_grad[3:], ctx.saved_tensors
        if grad is None:
            return (None,) * (3 + len(needs))
        held, number = len(needs), len(needs) + ctx.num_tensors
        whole = ctx.whole.joined(saved[number:])
        nothing = None, None, None
        records = torch.is_grad_enabled()  # only under create_graph=True
        if not records and not is_autocast(grad):
            return *nothing, *whole.gradient(grad, needs)

        def gradient(grad: Tensor, *_: Tensor | None) -> Any:
            with without_autocast(grad):
                return whole.gradient(grad, needs)

        if not records:
            return *nothing, *gradient(grad)
        operands, tensors = saved[:held], saved[held:number]
        if not ctx.formula.has_derivative:
            return *nothing, *Underived.apply("the gradient", gradient, grad, *operands)
        _check_versions(ctx.versions)
        # from now on the second derivative's own
        labels = [x if x is None else x.clone() for x in tensors[:2]]
        operands = [
            x if x is None or need or k == _LOGIT else x.clone()
            for k, (x, need) in enumerate(zip(operands, needs, strict=True))
        ]
        formula = ctx.formula.of(labels, tensors[2:])
        return *nothing, *Gradient.apply(gradient, formula, grad, *operands)


def _version(x: Tensor) -> tuple[weakref.ref[Tensor], int] | None:
    """By which it is known whether the tensor has been overwritten."""
    return None if x.is_inference() else (weakref.ref(x), x._version)


def _check_versions(versions: Sequence[tuple[weakref.ref[Tensor], int] | None]) -> None:
    for reference, version in filter(None, versions):
        x = reference()
        if x is not None and x._version != version:
            raise RuntimeError(
                "fusedml: labels, or embeddings without gradient, have been overwritten since the "
                "loss was computed, and its second derivative needs them"
            )
