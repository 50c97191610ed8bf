"""What autograd records of a function: its operands alone, whatever it computes of them.

``by_blocks`` forgets what a function computes of one block when it comes to the next, and so do the
function's derivatives of any order: where ``torch.utils.checkpoint`` keeps what a recorded backward
computes, here that is computed again, too.  ``Gradient`` is a gradient that somebody else computes,
faster, and that a function of PyTorch differentiates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fusedml.engine.batches import one_by_one
from fusedml.engine.precision import without_autocast

Tensors = Sequence[Tensor]


class BlockFunction(NamedTuple):
    """A function of n rows, and of tensors that all rows share.

    of_block: (block, rows, shared) -> numbers of the block's rows, [rows, ...] each, and numbers
        that are added up over the blocks, both differentiable in all that requires a gradient.
    blocks: slices of the rows; what else tells them apart if no operand or output is of rows.
    size: n.
    """

    of_block: Callable[[Any, Tensors, Tensors], tuple[Tensors, Tensors]]
    blocks: Callable[[], Iterable[Any]]
    size: int = 0


def by_blocks(
    function: BlockFunction, rows: Tensors = (), shared: Tensors = ()
) -> tuple[Tensors, Tensors]:
    """What the function computes of all blocks.  rows: [n, ...] each."""
    if not torch.is_grad_enabled():
        return _evaluated(function, rows, shared)
    number: list[int] = []  # how many outputs are of rows
    outputs = _ByBlocks.apply(function, number, len(rows), *rows, *shared)
    return outputs[: number[0]], outputs[number[0] :]


def _evaluated(function: BlockFunction, rows: Tensors, shared: Tensors) -> tuple[Tensors, Tensors]:
    of_rows: list[Tensor] | None = None
    totals: list[Tensor] = []
    for block in function.blocks():
        parts, sums = function.of_block(block, [x[block] for x in rows], shared)
        if of_rows is None:
            # in one place from the beginning, so that what a block leaves behind is free
            of_rows = [x.new_empty(function.size, *x.shape[1:]) for x in parts]
            totals = [x.clone() for x in sums]
        else:
            for total, part in zip(totals, sums, strict=True):
                total.add_(part)
        for whole, part in zip(of_rows, parts, strict=True):
            whole[block] = part
    assert of_rows is not None  # there is a block, which may be empty
    return of_rows, totals


class _ByBlocks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, function: BlockFunction, number: list[int], num_rows: int, *operands: Tensor
    ) -> Any:
        of_rows, totals = _evaluated(function, operands[:num_rows], operands[num_rows:])
        number.append(len(of_rows))
        ctx.function, ctx.num_rows, ctx.num_of_rows = function, num_rows, len(of_rows)
        ctx.save_for_backward(*operands)
        return (*of_rows, *totals)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        needs, k, of_rows = ctx.needs_input_grad[3:], ctx.num_rows, ctx.num_of_rows
        operands = ctx.saved_tensors
        pulled_back = _pulled_back(ctx.function, needs[:k], needs[k:])
        rows, shared = [*operands[:k], *grads[:of_rows]], [*operands[k:], *grads[of_rows:]]
        found = iter([x for kind in by_blocks(pulled_back, rows, shared) for x in kind])
        return None, None, None, *(next(found) if need else None for need in needs)


def _pulled_back(
    function: BlockFunction, rows_needed: Sequence[bool], shared_needed: Sequence[bool]
) -> BlockFunction:
    """The gradients of the operands that are needed, from the operands and dL/d(outputs)."""
    of_block, k, needs = function.of_block, len(rows_needed), (*rows_needed, *shared_needed)

    def gradients(block: Any, rows: Tensors, shared: Tensors) -> tuple[Tensors, Tensors]:
        records = torch.is_grad_enabled()
        operands = [*rows[:k], *shared[: len(shared_needed)]]
        grads = [*rows[k:], *shared[len(shared_needed) :]]
        with torch.enable_grad():
            leaves = [_apart(*of, records) for of in zip(operands, needs, strict=True)]
            parts, sums = of_block(block, leaves[:k], leaves[k:])
        outputs = zip((*parts, *sums), grads, strict=True)
        wanted = [x for x, need in zip(leaves, needs, strict=True) if need]
        found = _gradients([*outputs], wanted, records)
        return found[: sum(rows_needed)], found[sum(rows_needed) :]

    return function._replace(of_block=gradients)


def _apart(x: Tensor, need: bool, records: bool) -> Tensor:
    """What is differentiated by: a leaf, or a view of the operand when that is recorded.

    One tensor may be two operands, and is a tensor for each.
    """
    if not need:
        return x
    return x.view_as(x) if records else x.detach().requires_grad_()


def _gradients(outputs: Sequence[tuple[Tensor, Tensor]], inputs: Tensors, records: bool) -> Tensors:
    """Of the inputs, from the outputs and their gradients; 0 of inputs that they do not need."""
    outputs = [(x, grad) for x, grad in outputs if x.requires_grad]
    if not outputs:
        return [torch.zeros_like(x) for x in inputs]
    values, grads = zip(*outputs, strict=True)
    return torch.autograd.grad(values, inputs, grads, create_graph=records, materialize_grads=True)


class UntransformedFunction(torch.autograd.Function):
    """A function that is called neither in transforms nor under torch.compile.

    Its ``forward`` takes ``ctx``: a call costs half of one with ``setup_context``, but
    ``torch.func`` does not take it.  Its ``backward`` gets one gradient at a time.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.backward = staticmethod(one_by_one(cls.backward))  # type: ignore[method-assign]

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Without what PyTorch's own looks for first."""
        return super(torch.autograd.Function, cls).apply(*args)  # type: ignore[misc]


class Gradient(torch.autograd.Function):
    """dL/doperands, by ``gradient`` from dL/doutput; ``function`` says what is differentiated.

    gradient: (dL/doutput) -> a gradient, or None, for each operand.  function: of the operands, the
    output in differentiable PyTorch, in memory that does not grow with the number of pairs.
    """

    @staticmethod
    def forward(
        ctx: Any,
        gradient: Callable[[Tensor], Sequence[Tensor | None]],
        function: Callable[..., Tensor],
        grad: Tensor,
        *operands: Tensor | None,
    ) -> Any:
        ctx.function = function
        ctx.save_for_backward(grad, *operands)
        ctx.set_materialize_grads(False)
        return tuple(gradient(grad))

    @staticmethod
    def backward(ctx: Any, *of_grads: Tensor | None) -> Any:
        records, needs = torch.is_grad_enabled(), ctx.needs_input_grad[2:]
        if all(of_grad is None for of_grad in of_grads):
            return (None,) * (2 + len(needs))
        with torch.enable_grad(), without_autocast(ctx.saved_tensors[0]):
            grad, *leaves = (
                _apart(x, need, records) for x, need in zip(ctx.saved_tensors, needs, strict=True)
            )
            pairs = zip(leaves, of_grads, needs[1:], strict=True)
            followed = [(x, of) for x, of, need in pairs if need and of is not None]
            given = [(ctx.function(*leaves), grad)]
            first = _gradients(given, [x for x, _ in followed], True)
        outputs = zip(first, (of for _, of in followed), strict=True)
        wanted = [x for x, need in zip((grad, *leaves), needs, strict=True) if need]
        found = iter(_gradients([*outputs], wanted, records))
        return None, None, *(next(found) if need else None for need in needs)
