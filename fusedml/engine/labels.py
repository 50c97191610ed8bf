"""Labels as all routes and kernels compare them: int64 codes of any dtype, or sets of classes.

Which pairs are positive is asked here, of either: see ``alike``.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from fusedml.engine.arguments import check_choice
from fusedml.engine.label_sets import are_sets, classes_of_sets, meet, meet_one_by_one, packed
from fusedml.engine.pairs import widest_dtype
from fusedml.engine.precision import is_free_to_read

LabelRule = Literal["any", "all"]
#: when two rows with several labels each are a positive pair
LABEL_RULES = ("any", "all")

_LOWEST, _HIGHEST = torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max
# the bits of a float64 NaN: above the codes of all numbers
_NAN = 0x7FF8 << 48


def check_label_rule(label_rule: LabelRule) -> LabelRule:
    """The rule.  Raises ValueError for another."""
    rule: LabelRule = check_choice("label_rule", label_rule, LABEL_RULES)
    return rule


def label_codes(labels: Tensor, rule: LabelRule | None = None) -> Tensor:
    """Codes [n], int64, that are equal, and ordered, as the labels [n] are.

    A NaN equals nothing, itself included: each has a code of its own, which comes last.
    Needs no sort and no host sync.

    Of bool labels [n, C], which classes each row has: sets [n, W]; by the rule "all" codes.
    """
    if labels.ndim == 2:
        sets = packed(labels)
        return classes_of_sets(sets) if rule == "all" else sets
    return _codes(labels, 0)


def common_label_codes(
    labels: Tensor, others: Tensor, rule: LabelRule | None = None
) -> tuple[Tensor, Tensor]:
    """The codes of two sets of labels, [n] and [m], that can be compared with each other.

    Both get the dtype that PyTorch promotes theirs to; integers of any two kinds, for some of which
    PyTorch has none, are compared by value, without loss.  Of bool labels [n, C] and [m, C] as
    ``label_codes``.
    """
    if labels.ndim == 2:
        codes = label_codes(torch.cat([labels, others]), rule)
        return codes[: labels.shape[0]], codes[labels.shape[0] :]
    if labels.dtype == others.dtype == torch.int64:
        return labels, others
    if labels.dtype != others.dtype:
        common = common_dtype(labels.dtype, others.dtype)
        if common.is_floating_point:
            labels, others = labels.to(common), others.to(common)
        elif common == torch.uint64:
            return _ranks(labels, others)
    return _codes(labels, 0), _codes(others, labels.shape[0])


def common_dtype(one: torch.dtype, other: torch.dtype) -> torch.dtype:
    """In which labels of two dtypes are kept together: what PyTorch promotes them to; of integers
    int64, or uint64 with which it promotes none.
    """
    if one == other:
        return one
    if one.is_floating_point or other.is_floating_point:
        return torch.promote_types(*map(_without_small_floats, (one, other)))
    return torch.uint64 if torch.uint64 in (one, other) else torch.int64


def on_device(labels: Tensor, device: torch.device) -> Tensor:
    """The labels there.  Where there is no float64, those in it are float32 or int64 if these hold
    the same numbers; others raise PyTorch's own error.
    """
    if labels.device == device:
        return labels
    if labels.dtype == torch.float64 and widest_dtype(device) != torch.float64:
        narrow, whole = labels.to(torch.float32), labels.to(torch.int64)
        if bool(((narrow == labels) | labels.isnan()).all()):
            labels = narrow
        elif bool((whole == labels).all()):
            labels = whole
    return labels.to(device)


def alike(labels: Tensor, others: Tensor) -> Tensor:
    """Which pairs are positive, by the labels of a problem's rows and columns: bool [n, m]."""
    if are_sets(labels):
        return meet(labels, others)
    return labels[:, None] == others


def alike_one_by_one(labels: Tensor, others: Tensor) -> Tensor:
    """Whether the k-th row and the k-th column are a positive pair: bool [k]."""
    if are_sets(labels):
        return meet_one_by_one(labels, others)
    return labels == others


def may_differ_from_itself(labels: Tensor) -> bool:
    """Whether a row may not be alike itself: of a NaN, or of no class.

    It is looked at where that costs no host sync.
    """
    if labels.ndim == 2:
        return not is_free_to_read(labels) or not bool(labels.any(1).all())
    if not labels.is_floating_point():
        return False
    return not is_free_to_read(labels) or bool(labels.isnan().any())


def label_ranks(codes: Tensor) -> Tensor:
    """The place of each code among the different ones, from 0, int64 [n]; needs no host sync."""
    if is_free_to_read(codes):
        return torch.unique(codes, return_inverse=True)[1]
    values, order = torch.sort(codes)
    is_new = torch.zeros_like(values)
    is_new[1:] = values[1:] != values[:-1]
    return torch.scatter(values, 0, order, is_new.cumsum(0))  # vmap knows no scatter_


def _without_small_floats(dtype: torch.dtype) -> torch.dtype:
    """float32 in place of the 8-bit floating-point dtypes, which PyTorch promotes to nothing."""
    return torch.float32 if dtype.is_floating_point and dtype.itemsize == 1 else dtype


def _codes(labels: Tensor, first: int) -> Tensor:
    """first: the number of the first label among those whose NaNs must differ."""
    if labels.dtype == torch.uint64:
        return _bits(labels, torch.int64) ^ _LOWEST
    if not labels.is_floating_point():
        return labels.to(torch.int64)
    is_wide = labels.dtype == torch.float64
    # no float64 for others: some devices have none; and -0.0 becomes 0.0
    numbers = (labels if is_wide else labels.to(torch.float32)) + 0.0
    bits = _bits(numbers, torch.int64 if is_wide else torch.int32).to(torch.int64)
    # the bits of negative numbers descend
    bits = bits ^ ((bits >> 63) & (_HIGHEST if is_wide else 0x7FFFFFFF))
    nans = torch.arange(first, first + labels.shape[0], device=labels.device) + _NAN
    return torch.where(numbers.isnan(), nans, bits)


def _bits(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The same bits as numbers of another dtype of that size."""
    return _Bits.apply(x, dtype) if torch._C._are_functorch_transforms_active() else x.view(dtype)


class _Bits(torch.autograd.Function):
    """``x.view(dtype)``, for which vmap has no rule in PyTorch 2.6."""

    @staticmethod
    def forward(x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.view(dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Integers have no gradient."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, dtype: torch.dtype) -> Any:
        return _Bits.apply(x, dtype), in_dims[0]


def _ranks(labels: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of uint64 beside another kind of integers: together they exceed int64."""
    sides = labels, others
    bits = torch.cat([x.to(torch.int64) for x in sides])
    is_unsigned = torch.cat(
        [torch.full_like(x, x.dtype == torch.uint64, dtype=torch.bool) for x in sides]
    )
    is_large = is_unsigned & (bits < 0)
    order = torch.argsort(bits, stable=True)
    order = order[torch.argsort(is_large[order].to(torch.uint8), stable=True)]
    bits, is_large = bits[order], is_large[order]
    is_new = torch.zeros_like(bits)
    is_new[1:] = (bits[1:] != bits[:-1]) | (is_large[1:] != is_large[:-1])
    codes = torch.empty_like(bits).scatter_(0, order, is_new.cumsum(0))
    return codes[: labels.shape[0]], codes[labels.shape[0] :]
