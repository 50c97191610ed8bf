"""From many losses to one number, with pytorch-metric-learning's names and constructor arguments.

A reducer is called as ``reducer({name: info}, embeddings, labels)``.  ``info`` holds

    losses          [k], or a 0-d tensor that is reduced already, or the number 0
    indices         [k] rows for "element"; a pair of [k] (anchors, references) for pairs
    reduction_type  "element", "pos_pair", "neg_pair", "triplet" or "already_reduced"
    divisor         a number or 0-d tensor, where the loss has one
    labels          labels of the rows where the rows are not the batch's (proxies)

All reducers select with masks, not with indexing: no host sync, and torch.compile sees one graph.
A NaN loss makes the result NaN.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from fusedml.engine.arguments import (
    NamedArguments,
    check_flag,
    check_number,
    check_object,
    shown_arguments,
)
from fusedml.engine.foreign import (
    PML,
    check_local,
    has_own,
    index_of_definition,
    is_a,
    qualified_name,
    refuse_hooks,
)
from fusedml.engine.pairs import accumulation_dtype
from fusedml.engine.precision import ZEROS, are_finite, is_free_to_read, is_recorded
from fusedml.engine.recorded import UntransformedFunction
from fusedml.engine.reductions.entries import add_at

LossInfo = dict[str, Any]


class RowSums(NamedTuple):
    """Losses of pairs, summed over each row without being listed: sums [n] and their counts [n].

    counts: None if each row has one.
    """

    sums: Tensor
    counts: Tensor | None

    def mean(self) -> Tensor:
        """The mean of all losses; 0 of none."""
        if self.counts is None:
            return mean(self.sums)
        count = self.counts.sum()
        if is_free_to_read(count):
            return self.sums.sum() / max(count.item(), 1)
        return self.sums.sum() / count.clamp(min=1)


# what stands in for ``reduce`` and ``forward`` of losses that are not listed, and is true of these
_SHORTCUTS = ("divides", "interval", "sums_rows")


class BaseReducer(NamedArguments, nn.Module):
    """Base of all reducers: subclasses implement ``reduce``.

    Args:
        collect_stats: keep ``losses_size``, the number of losses of the last call.
    """

    #: methods of pytorch-metric-learning's class that are never called here
    pml_hooks: ClassVar[tuple[str, ...]] = (
        *("element_reduction", "pos_pair_reduction", "neg_pair_reduction", "triplet_reduction"),
        *("already_reduced_reduction", "get_reduction_func", "reduce_the_loss"),
        *("unpack_loss_info", "input_is_zero_loss", "zero_loss", "set_losses_size_stat"),
        *("assert_sizes", "assert_sizes_already_reduced", "assert_sizes_element"),
        *("assert_sizes_neg_pair", "assert_sizes_pair", "assert_sizes_pos_pair"),
        "assert_sizes_triplet",
    )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        refuse_hooks(cls, "reduce")
        defined = min(index_of_definition(cls, name) for name in ("reduce", "forward"))
        for shortcut in _SHORTCUTS:
            if index_of_definition(cls, shortcut) > defined:
                setattr(cls, shortcut, vars(BaseReducer)[shortcut])

    def __init__(self, collect_stats: bool | None = None) -> None:
        super().__init__()
        self.collect_stats = check_flag("collect_stats", collect_stats)

    def forward(
        self, loss_dict: Mapping[str, LossInfo], embeddings: Tensor, labels: Tensor | None
    ) -> Any:
        """A 0-d tensor in the dtype of the losses.  Raises ValueError on more than one loss."""
        if len(loss_dict) != 1:
            raise ValueError(f"loss_dict must hold one loss, got {list(loss_dict)}")
        (info,) = loss_dict.values()
        losses = info["losses"]
        if self.collect_stats:
            is_list = isinstance(losses, Tensor) and losses.ndim > 0
            self.losses_size = len(losses) if is_list else 1
        if not isinstance(losses, Tensor):
            return zero_loss(embeddings)
        if info["reduction_type"] == "already_reduced":
            return losses.squeeze()
        return self.reduce(losses, info, embeddings, labels)

    def extra_repr(self) -> str:
        """The arguments that are not at their defaults, as ``print(module)`` shows them."""
        return shown_arguments(self)

    def passed_on(self, info: LossInfo) -> Tensor | None:
        """A loss that is the result as it is, by fewer calls; None of any other."""
        losses = info["losses"]
        is_number = isinstance(losses, Tensor) and losses.ndim == 0
        if not is_number or info["reduction_type"] != "already_reduced" or self.collect_stats:
            return None
        return losses if type(self).forward is BaseReducer.forward else None

    def reduce(
        self, losses: Tensor, info: LossInfo, embeddings: Tensor, labels: Tensor | None
    ) -> Tensor:
        """The 0-d result for losses [k]."""
        raise NotImplementedError

    #: whether a pair that is listed twice counts once
    counts_pairs_once: ClassVar[bool] = False

    def sums_rows(self, reduction_type: str) -> bool:
        """Whether ``reduce_rows`` can stand in for ``reduce``.

        reduction_type: "pos_pair", "neg_pair", or "element" when a row has at most one loss.
        """
        return False

    def reduce_rows(self, rows: RowSums, embeddings: Tensor, labels: Tensor | None) -> Tensor:
        """The same result from row sums of pair losses."""
        raise NotImplementedError

    def interval(self) -> tuple[float | None, float | None] | None:
        """(low, high), None for no bound, if the result is the mean of the losses between them;
        None otherwise.
        """
        return None

    #: whether the result is the sum of the losses over their divisor
    divides: ClassVar[bool] = False


def zero_loss(embeddings: Tensor, references: Tensor | None = None) -> Tensor:
    """A zero that backpropagates zeros to both; NaN if either holds inf or NaN."""
    if references is None or not (embeddings.requires_grad and references.requires_grad):
        return _zero_of(embeddings, references)
    of_two = _ZeroOfTwo.apply if is_free_to_read(embeddings) else _zero_of
    return of_two(embeddings, references)


def _zero_of(embeddings: Tensor, references: Tensor | None) -> Tensor:
    # by a tensor: PyTorch wraps a number in one, and again in the backward
    is_known = is_free_to_read(embeddings) and embeddings.dtype in ZEROS
    zero = ZEROS[embeddings.dtype] if is_known else embeddings.new_zeros(())
    loss = (embeddings * zero).sum()
    return loss if references is None else loss + (references * zero).sum()


class _ZeroOfTwo(UntransformedFunction):
    """``zero_loss`` of two sides that learn, as one node of the graph: 0.8 of the time of six."""

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, references: Tensor) -> Tensor:
        ctx.shapes = embeddings.shape, references.shape
        if are_finite(embeddings, references):
            return embeddings.new_zeros(())
        return _zero_of(embeddings, references)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        zeros = tuple(gradient.new_zeros(shape) for shape in ctx.shapes)
        return tuple(zero * gradient for zero in zeros) if is_recorded() else zeros


def masked_mean(losses: Tensor, keep: Tensor) -> Tensor:
    """Mean of the kept losses; 0 if none is kept."""
    count = keep.count_nonzero()
    if not is_free_to_read(keep):
        return torch.where(keep, losses, 0).sum() / count.clamp(min=1)
    if count.item() == keep.numel() > 0:
        return losses.mean()
    return torch.where(keep, losses, 0).sum() / max(count.item(), 1)


def _both(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Where both masks hold; None stands for everywhere."""
    if one is None or other is None:
        return other if one is None else one
    return one & other


def mean(losses: Tensor) -> Tensor:
    """The mean; 0 of none."""
    if torch.compiler.is_compiling():  # of a list whose length depends on the data
        return losses.sum() / torch.sym_max(losses.numel(), 1)
    return losses.mean() if losses.numel() else losses.sum()


class MeanReducer(BaseReducer):
    """The mean of all losses; 0 of none."""

    def reduce(
        self, losses: Tensor, info: LossInfo, embeddings: Tensor, labels: Tensor | None
    ) -> Tensor:
        return mean(losses)

    def sums_rows(self, reduction_type: str) -> bool:
        return True

    def reduce_rows(self, rows: RowSums, embeddings: Tensor, labels: Tensor | None) -> Tensor:
        return rows.mean()

    def interval(self) -> tuple[float | None, float | None] | None:
        return None if self.collect_stats else (None, None)


class SumReducer(BaseReducer):
    """The sum of all losses."""

    def reduce(
        self, losses: Tensor, info: LossInfo, embeddings: Tensor, labels: Tensor | None
    ) -> Tensor:
        return losses.sum()

    def sums_rows(self, reduction_type: str) -> bool:
        return True

    def reduce_rows(self, rows: RowSums, embeddings: Tensor, labels: Tensor | None) -> Tensor:
        return rows.sums.sum()


class ThresholdReducer(BaseReducer):
    """The mean of the losses in (low, high); 0 if there is none.

    With ``collect_stats`` the numbers of losses past the filter, above ``low`` and below ``high``
    are kept; reading them costs a host sync.

    Args:
        low: the losses at and below it are left out; None for no bound.
        high: the losses at and above it are left out; None for no bound.
        collect_stats: see BaseReducer.

    Raises:
        ValueError: if neither bound is given.
    """

    pml_hooks = ("element_reduction_helper", "set_stats")

    def __init__(
        self, low: float | None = None, high: float | None = None, collect_stats: bool | None = None
    ) -> None:
        super().__init__(collect_stats)
        if low is None and high is None:
            raise ValueError("At least one of low or high must be specified")
        for name, bound in (("low", low), ("high", high)):
            if bound is not None:
                check_number(name, bound)
        self.low = low
        self.high = high

    def reduce(
        self, losses: Tensor, info: LossInfo, embeddings: Tensor, labels: Tensor | None
    ) -> Tensor:
        low, is_plain = self.low, self.high is None and not self.collect_stats
        if low is not None and low >= 0 and is_plain and is_free_to_read(losses):
            kept = torch.nn.functional.threshold(losses, low, 0.0)  # NaN stays in
            return kept.sum() / max(kept.count_nonzero().item(), 1)
        return self._mean(losses, None)

    def sums_rows(self, reduction_type: str) -> bool:
        return reduction_type == "element"

    def reduce_rows(self, rows: RowSums, embeddings: Tensor, labels: Tensor | None) -> Tensor:
        if rows.counts is None:
            return self.reduce(rows.sums, {}, embeddings, labels)
        return self._mean(rows.sums, rows.counts > 0)

    def interval(self) -> tuple[float | None, float | None] | None:
        # the statistics are of single losses
        return None if self.collect_stats else (self.low, self.high)

    def _mean(self, losses: Tensor, counted: Tensor | None) -> Tensor:
        """counted: which of the losses exist; None for all."""
        if counted is None and not self.collect_stats and self._holds_all(losses):
            return losses.mean()
        # negated, so that NaN stays in and makes the mean NaN
        above = None if self.low is None else ~(losses <= self.low)
        below = None if self.high is None else ~(losses >= self.high)
        keep = _both(counted, _both(above, below))
        assert keep is not None  # one of the bounds is given
        if self.collect_stats:
            everything = torch.ones_like(keep) if counted is None else counted
            self.num_past_filter = int(keep.sum())
            self.num_above_low = int((everything if above is None else everything & above).sum())
            self.num_below_high = int((everything if below is None else everything & below).sum())
        return masked_mean(losses, keep)

    def _holds_all(self, losses: Tensor) -> bool:
        """Whether all losses are known to lie between the bounds: the common case, in few calls."""
        if not is_free_to_read(losses) or losses.numel() == 0:
            return False
        losses = losses.detach()
        return (self.low is None or losses.min().item() > self.low) and (
            self.high is None or losses.max().item() < self.high
        )


class AvgNonZeroReducer(ThresholdReducer):
    """The mean of the losses above 0; 0 if there is none.

    A loss log(1 + e^z) with z < -37 (-17 in float32), which pytorch-metric-learning rounds to 0 and
    leaves out, is above 0 here and counts.
    """

    def __init__(self, collect_stats: bool | None = None) -> None:
        super().__init__(low=0, collect_stats=collect_stats)


class DivisorReducer(BaseReducer):
    """The sum of the losses, divided by the loss's own divisor; 0 if that is 0.

    Raises KeyError for a loss that has no divisor.
    """

    pml_hooks = ("sum_and_divide",)
    divides = True

    def reduce(
        self, losses: Tensor, info: LossInfo, embeddings: Tensor, labels: Tensor | None
    ) -> Tensor:
        if "divisor" not in info:
            raise KeyError("divisor: DivisorReducer needs a loss that has one")
        total = losses.sum(dtype=accumulation_dtype(losses.dtype))
        divisor = info["divisor"]
        if isinstance(divisor, Tensor) and is_free_to_read(divisor) and not divisor.requires_grad:
            divisor = divisor.item()
        if not isinstance(divisor, Tensor):
            return (total / divisor if divisor else 0 * total).to(losses.dtype)
        divisor = divisor.to(total)
        is_zero = divisor == 0
        mean = total / torch.where(is_zero, 1, divisor)
        return torch.where(is_zero, 0 * total, mean).to(losses.dtype)


class ClassWeightedReducer(BaseReducer):
    """The mean of loss x weights[label of the anchor].

    Args:
        weights: [number of classes]; labels are indices into it.
        collect_stats: see BaseReducer.

    Raises:
        ValueError: without labels, and for several labels a row.
    """

    pml_hooks = ("element_reduction_helper",)

    def __init__(self, weights: Tensor, collect_stats: bool | None = None) -> None:
        super().__init__(collect_stats)
        if not isinstance(weights, Tensor):
            raise TypeError(f"weights must be a tensor, got {type(weights).__name__}")
        if weights.ndim != 1:
            raise ValueError(f"weights must have shape [num_classes], got {tuple(weights.shape)}")
        self.weights = weights

    def reduce(
        self, losses: Tensor, info: LossInfo, embeddings: Tensor, labels: Tensor | None
    ) -> Tensor:
        labels = info.get("labels", labels)
        if labels is None:
            raise ValueError("labels are required by ClassWeightedReducer, got None")
        if labels.ndim != 1:
            raise ValueError(
                "labels must be one number of a class for each row for ClassWeightedReducer, got "
                f"shape {tuple(labels.shape)}"
            )
        anchors = info["indices"] if info["reduction_type"] == "element" else info["indices"][0]
        check_local(self.weights, "weights")
        weights = self.weights.to(losses)[labels[anchors].long()]
        return (losses * weights).sum() / max(losses.numel(), 1)


def aggregation_func(x: Tensor, num_per_row: Tensor) -> Tensor:
    """Mean of each row of ``x`` over its ``num_per_row`` pairs; 0 for a row without."""
    return x.sum(1) / num_per_row.clamp(min=1)


class PerAnchorReducer(BaseReducer):
    """Pair losses are averaged over each anchor's pairs, then reduced as one loss per anchor.

    A pair that is listed twice counts once.

    Args:
        reducer: for the losses of the anchors, [n]; default MeanReducer.
        aggregation_func: (x [n, m] with 0 where no pair is, number of pairs [n]) -> [n].  The
            default mean needs no n x m matrix; any other function gets one.
        collect_stats: see BaseReducer.

    Raises:
        NotImplementedError: for triplets.
    """

    pml_hooks = ("tuple_reduction_helper",)
    counts_pairs_once = True

    def __init__(
        self,
        reducer: nn.Module | None = None,
        aggregation_func: Callable[[Tensor, Tensor], Tensor] = aggregation_func,
        collect_stats: bool | None = None,
    ) -> None:
        super().__init__(collect_stats)
        if reducer is not None:
            check_reducer(reducer)
        check_object("aggregation_func", aggregation_func)
        self.reducer = MeanReducer() if reducer is None else reducer
        self.aggregation_func = aggregation_func

    def reduce(
        self, losses: Tensor, info: LossInfo, embeddings: Tensor, labels: Tensor | None
    ) -> Tensor:
        kind = info["reduction_type"]
        if kind == "triplet":
            raise NotImplementedError("Triplet reduction not supported")
        if kind == "element":
            return self.reducer({"loss": info}, embeddings, labels)
        anchors, references = info["indices"]
        first = _first_occurrences(anchors, references)
        losses, anchors, references = losses[first], anchors[first], references[first]
        n = embeddings.shape[0]
        counts = torch.bincount(anchors, minlength=n)
        if self.aggregation_func is aggregation_func:
            sums = add_at(losses.new_zeros(n), anchors, losses)
            return self._reduce_anchors(sums / counts.clamp(min=1), embeddings, labels)
        num_columns = int(references.max()) + 1 if references.numel() else 1
        matrix = losses.new_zeros(n, max(n, num_columns)).index_put((anchors, references), losses)
        return self._reduce_anchors(self.aggregation_func(matrix, counts), embeddings, labels)

    def sums_rows(self, reduction_type: str) -> bool:
        is_pair = reduction_type in ("pos_pair", "neg_pair")
        return is_pair and self.aggregation_func is aggregation_func

    def reduce_rows(self, rows: RowSums, embeddings: Tensor, labels: Tensor | None) -> Tensor:
        means = rows.sums if rows.counts is None else rows.sums / rows.counts.clamp(min=1)
        return self._reduce_anchors(means, embeddings, labels)

    def _reduce_anchors(self, losses: Tensor, embeddings: Tensor, labels: Tensor | None) -> Tensor:
        indices = torch.arange(losses.shape[0], device=losses.device)
        info = {"losses": losses, "indices": indices, "reduction_type": "element"}
        return self.reducer({"loss": info}, embeddings, labels)


def _first_occurrences(anchors: Tensor, references: Tensor) -> Tensor:
    """Positions of the first occurrence of each listed pair, in the order of the pairs."""
    if anchors.numel() == 0:
        return anchors
    keys = anchors * (references.max() + 1) + references
    unique, inverse = torch.unique(keys, return_inverse=True)
    positions = torch.arange(keys.shape[0], device=keys.device)
    first = torch.full_like(unique, keys.shape[0])
    return first.scatter_reduce(0, inverse, positions, "amin")


class DoNothingReducer(BaseReducer):
    """Returns the dictionary of losses as it is."""

    def forward(
        self, loss_dict: Mapping[str, LossInfo], embeddings: Tensor, labels: Tensor | None
    ) -> Any:
        return loss_dict


class MultipleReducers(BaseReducer):
    """Each named loss through its own reducer; the sum of the results.

    Args:
        reducers: {name of the loss: reducer}.
        default_reducer: for all other names; default MeanReducer.
        collect_stats: see BaseReducer.
    """

    pml_hooks = ("sub_loss_reduction",)

    def __init__(
        self,
        reducers: Mapping[str, nn.Module],
        default_reducer: nn.Module | None = None,
        collect_stats: bool | None = None,
    ) -> None:
        super().__init__(collect_stats)
        if not isinstance(reducers, Mapping | nn.ModuleDict):
            raise TypeError(
                "reducers must be a dictionary of names of losses and reducers, got "
                f"{type(reducers).__name__}"
            )
        for name, reducer in reducers.items():
            check_reducer(reducer, f"reducers[{name!r}]")
        if default_reducer is not None:
            check_reducer(default_reducer, "default_reducer")
        self.reducers = nn.ModuleDict(reducers)
        self.default_reducer = MeanReducer() if default_reducer is None else default_reducer

    def reducer_of(self, name: str) -> nn.Module:
        """The reducer of the loss ``name``."""
        return self.reducers[name] if name in self.reducers else self.default_reducer  # noqa: SIM401

    def forward(
        self, loss_dict: Mapping[str, LossInfo], embeddings: Tensor, labels: Tensor | None
    ) -> Any:
        reduced = [
            self.reducer_of(name)({name: info}, embeddings, labels)
            for name, info in loss_dict.items()
        ]
        return torch.stack(reduced).sum()


def check_reducer(reducer: Any, argument: str = "reducer") -> None:
    """Raises TypeError unless it is an object that can be called, with what it is called with."""
    if isinstance(reducer, BaseReducer):
        return
    simple = MeanReducer, SumReducer, AvgNonZeroReducer, PerAnchorReducer, DoNothingReducer
    check_object(argument, reducer, simple)
    try:
        called = reducer.forward if isinstance(reducer, nn.Module) else reducer
        inspect.signature(called).bind(None, None, None)
        is_other = any(is_a(reducer, *kind) for kind in _OTHER_KINDS)
    except (TypeError, ValueError):  # the latter of a function that tells no signature
        is_other = True
    if is_other:
        raise TypeError(
            f"{argument} must be an object that takes losses, embeddings and labels, got "
            f"{reducer!r}: such as {argument}=MeanReducer()"
        )


# which take as many arguments
_OTHER_KINDS = (
    ("losses", "BaseLoss"),
    ("losses", "BaseMetricLossFunction"),
    ("miners", "BaseMiner"),
)
_THEIRS = f"{PML}.reducers"
_PML_TWINS: dict[str, BaseReducer] = {
    f"{_THEIRS}.mean_reducer.MeanReducer": MeanReducer(),
    f"{_THEIRS}.sum_reducer.SumReducer": SumReducer(),
    f"{_THEIRS}.avg_non_zero_reducer.AvgNonZeroReducer": AvgNonZeroReducer(),
    f"{_THEIRS}.divisor_reducer.DivisorReducer": DivisorReducer(),
}
_MULTIPLE_REDUCERS = (
    f"{__name__}.MultipleReducers",
    f"{_THEIRS}.multiple_reducers.MultipleReducers",
)
_HOOKS = ("forward", *BaseReducer.pml_hooks, *DivisorReducer.pml_hooks)


def is_single(reducer: nn.Module) -> bool:
    """Whether it reduces one loss to a number: ours or theirs, but for those of several or none."""
    if isinstance(reducer, BaseReducer):
        return not isinstance(reducer, MultipleReducers | DoNothingReducer)
    return not any(
        is_a(reducer, "reducers", name) for name in ("MultipleReducers", "DoNothingReducer")
    )


def twin_of(reducer: nn.Module) -> BaseReducer | None:
    """The reducer, or ours in place of pytorch-metric-learning's of the same exact type.

    None of a foreign one that collects statistics or is of another type, and of any with a method
    of its own: it must be called itself, with all that it is called with.
    """
    if isinstance(reducer, BaseReducer):
        return None if has_own(reducer, "reduce", "forward") else reducer
    twin = _PML_TWINS.get(qualified_name(reducer))
    if twin is None or getattr(reducer, "collect_stats", False) or has_own(reducer, *_HOOKS):
        return None
    return twin


def parts_of(reducer: nn.Module, names: Iterable[str]) -> list[nn.Module] | None:
    """The reducers of the named losses, if what these make of them is added up; None of others.

    That is MultipleReducers, ours or theirs: a subclass may add them up in its own way.
    """
    if qualified_name(reducer) not in _MULTIPLE_REDUCERS:
        return None
    if has_own(reducer, "forward", *MultipleReducers.pml_hooks):
        return None
    several: Any = reducer
    own, default = several.reducers._modules, several.default_reducer
    return [own.get(name, default) for name in names]
