"""Which dtype the tiles and the results have, with and without autocast."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.row_order import RowOrder

_AUTOCAST_DEVICES = frozenset(
    device for device in ("cpu", "cuda", "xpu", "mps") if torch.amp.is_autocast_available(device)
)


TENSOR_TYPES = (Tensor, torch.nn.Parameter)
# numbers as tensors, which PyTorch would make of them in every call
ZEROS = {x: torch.zeros((), dtype=x, device="cpu") for x in (torch.float32, torch.float64)}
ONES = {x: torch.ones((), dtype=x, device="cpu") for x in (torch.float32, torch.float64)}
# of a row that has a direction
LEAST_NORM = 1e-12
# up to so many are looked at in Python in less time than PyTorch's calls take
_FEW_NORMS = 256
# below, passes over memory cost less than the calls of a function in Python
_FEW_ELEMENTS = 1 << 16


def is_free_to_read(x: Tensor) -> bool:
    """Whether reading a value of the tensor costs no host sync and breaks no graph."""
    return (
        x.is_cpu
        and type(x) in TENSOR_TYPES
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def owned(x: Tensor) -> Tensor:
    """The tensor as it may be kept for the backward, whatever becomes of the caller's.

    What requires a gradient stays as it is: PyTorch raises if it is overwritten before the
    backward.  Of all else (a memory bank) there is a copy if anything is recorded.
    """
    return x if x.requires_grad or not torch.is_grad_enabled() else x.clone()


def is_recorded() -> bool:
    """Whether the backward that is running is itself recorded: under create_graph=True.

    Not under torch.compile and the transforms of torch.func, which record every backward.
    """
    return (
        torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def is_autocast(tensor: Tensor) -> bool:
    """Whether autocast is on for the tensor's device."""
    if tensor.is_cpu:  # in less than half of the time: small batches ask several times
        return torch.is_autocast_enabled("cpu")
    device = tensor.device.type
    return device in _AUTOCAST_DEVICES and torch.is_autocast_enabled(device)


def without_autocast(tensor: Tensor | None) -> AbstractContextManager[Any]:
    """In which autocast is off for the tensor's device."""
    if tensor is None or not is_autocast(tensor):
        return nullcontext()
    return torch.autocast(tensor.device.type, enabled=False)


def tile_dtype(embeddings: Tensor) -> torch.dtype:
    """Dtype in which pairs are measured: the embeddings', or autocast's, which spares float64."""
    if is_autocast(embeddings) and embeddings.dtype != torch.float64:
        return torch.get_autocast_dtype(embeddings.device.type)
    return embeddings.dtype


def result_dtype(embeddings: Tensor) -> torch.dtype:
    """Dtype of a module's scalar: the embeddings'; under autocast float32, or float64."""
    if is_autocast(embeddings):
        return accumulation_dtype(embeddings.dtype)
    return embeddings.dtype


Normalizer = Callable[[Tensor, torch.dtype, RowOrder | None], Tensor | None]
"""(x, dtype, order) -> the rows of x divided by their norms, or None where it cannot."""


def prepare(
    x: Tensor,
    dtype: torch.dtype,
    normalize: bool,
    order: RowOrder | None = None,
    normalizer: Normalizer | None = None,
) -> Tensor:
    """Embeddings as the tiles see them: L2-normalised if asked, in ``dtype``, in another order.

    Half-precision rows are normalised in float32 and rounded once.
    """
    if normalize and normalizer is not None:
        unit_rows = normalizer(x, dtype, order)
        if unit_rows is not None:
            return unit_rows
    if order is not None:
        in_order = NormalizeInOrder.apply(x, *order, dtype)[0] if normalize else None
        return order.apply(x.to(dtype)) if in_order is None else in_order
    if not normalize:
        return owned(x) if x.dtype == dtype else x.to(dtype)
    wide = norms_dtype(x.dtype, dtype)
    if torch.compiler.is_compiling():
        return normalized(x.to(wide))[0].to(dtype)
    if x.dtype == wide and x.numel() < _FEW_ELEMENTS:
        return normalized(x)[0].to(dtype)
    return Normalize.apply(x, wide)[0].to(dtype)


def norms_dtype(given: torch.dtype, dtype: torch.dtype) -> torch.dtype:
    """In which rows that are to be in ``dtype`` are normalised: it has all of their numbers."""
    return torch.promote_types(given, accumulation_dtype(dtype))


def prepared(
    problem: PairProblem,
    dtype: torch.dtype,
    rows: RowOrder | None = None,
    columns: RowOrder | None = None,
    normalizer: Normalizer | None = None,
) -> PairProblem:
    """The problem as the tiles see it, see :func:`prepare`; rows and columns in these orders.

    ``columns`` has the rows' own first, in the order of these: the excluded diagonal has no offset.
    """
    references, reference_labels = problem.references, problem.reference_labels
    if references is not None:
        references = prepare(references, dtype, problem.normalize, columns, normalizer)
    if reference_labels is not None:
        reference_labels = _owned_labels(reference_labels, columns)
    return problem._replace(
        anchors=prepare(problem.anchors, dtype, problem.normalize, rows, normalizer),
        references=references,
        anchor_labels=_owned_labels(problem.anchor_labels, rows),
        reference_labels=reference_labels,
        normalize=False,
        self_offset=problem.self_offset if columns is None else 0,
    )


def _owned_labels(labels: Tensor, order: RowOrder | None) -> Tensor:
    return owned(labels) if order is None else order.apply(labels)


def row_norms(x: Tensor, p: float = 2.0, dim: int = 1, keepdim: bool = False) -> Tensor:
    """The p-norms of the rows, also where their p-th powers exceed the dtype."""
    is_plain = x.dtype == accumulation_dtype(x.dtype) and not x.requires_grad
    if p == 2 and is_plain and is_free_to_read(x) and x.stride(dim) != 1:
        # of columns in memory PyTorch's norm takes nine times as long
        norms = x.square().sum(dim, keepdim=True).sqrt_()
    else:
        norms = torch.linalg.vector_norm(x, p, dim, keepdim=True)
    if not _is_safe(x, norms, p):
        scale = _largest_entries(x, dim)
        norms = torch.linalg.vector_norm(x / scale, p, dim, keepdim=True) * scale
    return norms if keepdim else norms.squeeze(dim)


def normalized(
    x: Tensor, p: float = 2.0, dim: int = 1, least: float = LEAST_NORM
) -> tuple[Tensor, Tensor]:
    """x / |x| of each row, and the norms, [n, 1].

    A row whose norm is below ``least`` has no direction: it becomes 0, and so does its gradient,
    because its norm is given as inf.  Rows whose squares exceed the dtype have theirs.
    """
    safely = safely_normalized(x, p, dim, least)
    if safely is not None:
        return safely
    scale = _largest_entries(x, dim)
    scaled = x / scale
    norms = torch.linalg.vector_norm(scaled, p, dim, keepdim=True)
    unit, norms = _divided(scaled, norms, _is_short(norms * scale, least), p, dim)
    return unit, norms * scale


def safely_normalized(
    x: Tensor, p: float = 2.0, dim: int = 1, least: float = LEAST_NORM
) -> tuple[Tensor, Tensor] | None:
    """:func:`normalized`, all finite; None where norms may have to be taken of scaled rows."""
    norms = torch.linalg.vector_norm(x, p, dim, True)
    if _keeps_small_numbers(p) and norms.numel() and is_free_to_read(x):
        known = norms.detach() if norms.requires_grad else norms
        if _are_plain(known, least):  # the common case
            return x / norms, norms
        if not math.isfinite(known.max().item()):
            return None
    elif not _is_safe(x, norms, p):
        return None
    return _divided(x, norms, _is_short(norms, least), p, dim)


def are_finite(*sides: Tensor) -> bool:
    """Whether all numbers, of a CPU, are known to be finite: large ones may add up to inf."""
    return all(map(math.isfinite, [side.sum().item() for side in sides]))


def plain_norms(x: Tensor) -> Tensor | None:
    """Norms of the rows, [n, 1], of a CPU; None unless all are finite, and divide as they are."""
    norms = torch.linalg.vector_norm(x, 2.0, 1, True)
    return norms if norms.numel() and _are_plain(norms, LEAST_NORM) else None


def _are_plain(norms: Tensor, least: float) -> bool:
    """Whether all of at least one are finite, and above ``least``."""
    if norms.numel() <= _FEW_NORMS:
        numbers = norms.view(-1).tolist()
        return math.isfinite(sum(numbers)) and min(numbers) > least
    lowest, highest = torch.aminmax(norms)
    return lowest.item() > least and highest.item() < math.inf


def _is_short(norms: Tensor, least: float) -> Tensor:
    """Below ``least``; a dtype in which that is 0 has only zero rows below."""
    return norms.detach() <= math.nextafter(least, 0)


def _divided(
    x: Tensor, norms: Tensor, is_short: Tensor, p: float, dim: int
) -> tuple[Tensor, Tensor]:
    """x / norms, 0 of rows that are too short, and the norms, inf of these."""
    if norms.requires_grad:  # from the second on the derivatives of a zero row's norm are 0 / 0
        norms = torch.linalg.vector_norm(x.masked_fill(is_short, 1), p, dim, keepdim=True)
    norms = norms.masked_fill(is_short, math.inf)
    return x / norms, norms


def normalize_(x: Tensor) -> Tensor:
    """:func:`normalized` in place; the norms."""
    norms = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    if _is_safe(x, norms, 2.0):
        norms.masked_fill_(_is_short(norms, LEAST_NORM), math.inf)
        x.div_(norms)
        return norms
    scale = _largest_entries(x, 1)
    x.div_(scale)
    norms = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    norms.masked_fill_(_is_short(norms * scale, LEAST_NORM), math.inf)
    x.div_(norms)
    return norms * scale


def _is_safe(x: Tensor, norms: Tensor, p: float) -> bool:
    """Whether the norms of x are known to be right without scaling the rows first.

    The norm of p = 0 is a number.
    """
    if p == 0 or x.numel() == 0:
        return True
    return _keeps_small_numbers(p) and is_free_to_read(norms) and math.isfinite(norms.sum().item())


def _keeps_small_numbers(p: float) -> bool:
    """Whether p-th powers that underflow belong to norms below the least one."""
    return 0 <= p <= 2 or p == math.inf


def _largest_entries(x: Tensor, dim: int) -> Tensor:
    """The largest absolute value of each row, 1 of a zero row; a constant to autograd."""
    largest = torch.linalg.vector_norm(x.detach(), math.inf, dim, keepdim=True)
    return largest.masked_fill(largest == 0, 1)


def gradient_of_normalized(grad: Tensor, y: Tensor, norms: Tensor) -> Tensor:
    """dL/dx = (g - y <g, y>) / |x| from g = dL/dy.

    A function of x where y and norms are :func:`normalized` of x, and not only their numbers.
    """
    along = torch.linalg.vecdot(grad, y).unsqueeze(1)
    return torch.addcmul(grad, y, along, value=-1).div_(norms)


class Normalize(torch.autograd.Function):
    """:func:`normalized` in ``dtype``, with fewer passes over memory in the backward than by its
    operations.  Keeps x, too, so that PyTorch raises if it is overwritten, as on every other path.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return normalized(x.to(dtype))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output, inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None]:
        y, norms, x = ctx.saved_tensors
        if is_recorded():
            y, norms = normalized(x.to(norms.dtype))
        return gradient_of_normalized(grad, y, norms).to(x.dtype), None


# found here once, not in each call, see ``engine.functions``
Normalize.forward.__signature__ = inspect.signature(Normalize.forward)  # type: ignore[attr-defined]


class NormalizeInOrder(torch.autograd.Function):
    """:func:`normalized` rows in another order and in ``dtype``, and the denominators.

    Keeps x, not a copy of it, and needs no more memory than :class:`Normalize`: one array of the
    size of x forward, one beside the gradient backward.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, rows: Tensor, places: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        return normalize_rows(x, rows, dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        x, _, places, _ = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(x, places, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None, None, None]:
        x, places, norms = ctx.saved_tensors
        if is_recorded():
            y, norms = normalized(x.to(norms.dtype))
            x_grad = gradient_of_normalized(grad.to(y.dtype).index_select(0, places), y, norms)
            return x_grad.to(x.dtype), None, None, None
        return normalize_rows_gradient(x, places, norms, grad), None, None, None


def normalize_rows(x: Tensor, order: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows of x [n, d] in another order, divided by their norms, in ``dtype``; norms [n, 1]."""
    wide = norms_dtype(x.dtype, dtype)
    y = x.to(wide, copy=True) if order is None else x.index_select(0, order).to(wide)
    norms = normalize_(y)
    return y.to(dtype), norms


def normalize_rows_gradient(
    given: Tensor, places: Tensor | None, norms: Tensor, grad: Tensor
) -> Tensor:
    """dL/dx from dL/dy, [n, d], of the rows y of :func:`normalize_rows`, to which places leads."""

    def in_order_of_x(y: Tensor) -> Tensor:
        return y.clone() if places is None else y.index_select(0, places)

    norms = in_order_of_x(norms)
    x = given.to(norms.dtype)
    with torch.no_grad():  # the operators refuse a second derivative
        # divided first: x may be as large as its dtype allows
        along = in_order_of_x(grad).to(x.dtype).div_(norms).mul_(x)
        along = along.sum(1, keepdim=True)
    # gathered once more: the product has overwritten the first
    x_grad = in_order_of_x(grad).to(x.dtype)
    x_grad = x_grad.addcmul_(x, along / norms, value=-1).div_(norms)
    return x_grad.to(given.dtype)
