"""The protocol that all losses follow: constructor, call, sub-losses, reduction."""

from __future__ import annotations

import abc
import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypedDict

import torch
from torch import Tensor, nn

from fusedml.distances import LpDistance, check_distance
from fusedml.engine.arguments import (
    check_choice,
    check_flag,
    check_number,
    check_object,
    is_number,
    refuse_keywords,
    shown_arguments,
    unexpected_keyword,
)
from fusedml.engine.backends import check_backend
from fusedml.engine.batches import batches_explained
from fusedml.engine.foreign import is_a, refuse_hooks
from fusedml.engine.inputs import Batch, make_batch, refuse_references, require_labels
from fusedml.engine.labels import LabelRule, check_label_rule
from fusedml.engine.no_positives import warn_without_positives
from fusedml.engine.pairs import PairProblem, accumulation_dtype
from fusedml.engine.precision import result_dtype
from fusedml.engine.routes.blocks import Matrix
from fusedml.engine.routes.choice import Pairs, labelled_pairs, listed_pairs
from fusedml.engine.routes.listed import ListedPairs, PairIndices
from fusedml.engine.routes.pair_losses import ListedLosses, PairLosses
from fusedml.errors import DistanceError
from fusedml.hyperparameters import HyperparameterModule
from fusedml.reducers import (
    BaseReducer,
    DoNothingReducer,
    LossInfo,
    MeanReducer,
    MultipleReducers,
    check_reducer,
    is_single,
    parts_of,
    twin_of,
    zero_loss,
)

if TYPE_CHECKING:
    from typing_extensions import Self

IndicesTuple = Sequence[Tensor]
Backend = Literal["auto", "cuda", "torch", "dense"]
Reduction = Literal["mean", "sum", "none"]
REDUCTIONS = ("mean", "sum", "none")


class LossOptions(TypedDict, total=False):
    """Keyword arguments that every loss takes, see :class:`BaseLoss`."""

    distance: nn.Module | None
    reducer: nn.Module | None
    embedding_regularizer: nn.Module | None
    embedding_reg_weight: float
    collect_stats: bool | None
    backend: Backend
    label_rule: LabelRule


@dataclass(frozen=True)
class Promises:
    """What the benchmarks hold a loss to, on a CPU with 2 threads, 4 samples a class, float32.

    speedup: {d: at least so many times faster than dense} at n = 4096.
    relative: {d: at most so many times the time of Multi-Similarity} at n = 4096.
    growth_at: the d at which its growth with n is measured; each d takes minutes.
    to_a_million_classes: whether its growth with the number of class vectors is measured, likewise.
    extra_mb: at most so many MB above the inputs at n = 4096, d = 128.
    not_slower_in_retrieval_from: the least n at which it is not slower than
        ``F.cross_entropy(scale q @ d.T)`` on n queries and their n documents, d = 256 and 768; None
        for a loss that is not measured on them.
    not_slower_from: the least n at which it is not slower than dense; None where the dense formula
        has no matrix, and both are the same few operations.
    """

    speedup: Mapping[int, float] = field(default_factory=dict)
    relative: Mapping[int, float] = field(default_factory=dict)
    growth_at: tuple[int, ...] = ()
    to_a_million_classes: bool = False
    extra_mb: float = 64.0
    not_slower_in_retrieval_from: int | None = None
    not_slower_from: int | None = 1


class BaseLoss(HyperparameterModule, abc.ABC):
    """A loss over pairs of a batch, with pytorch-metric-learning's constructor and call.

    A loss is one file of this package: a class with its formula, its defaults and what is special
    about it.  Functions, dense reference, benchmarks, shared tests and tables are derived from the
    class; what they need to know of it is said in the class attributes below.

    Args:
        distance: a ``fusedml.distances`` or pytorch-metric-learning object.  Cosine, dot product
            and Euclidean distance (p = 2, power 1 or 2) are fused; any other is computed in blocks
            of rows, in bounded memory, with one warning.
        reducer: a ``fusedml.reducers`` or pytorch-metric-learning object.
        embedding_regularizer: a function of the embeddings, added to the loss.
        embedding_reg_weight: its factor.
        collect_stats: keep what the loss says it records, at the price of host syncs.
        backend: "auto", "cuda" or "torch"; an explicit choice never falls back to another.
            "dense" computes the formula on the full matrix in ordinary PyTorch, to compare with
            and for derivatives of any order of any loss.
        label_rule: of labels [n, C], which of C classes each row has: "any", and a pair is positive
            if it has a class in common; or "all", if it has the same classes.  By either a row
            without any class is negative to all others.

    Raises:
        TypeError: for an unknown keyword, and for a distance or reducer that is no object or does
            not say whether it is a similarity.
        ValueError: for an unknown backend or label_rule, and for "all" where labels must be [n].
        DistanceError: (a ValueError and AssertionError) for a distance of another kind than the
            loss is defined for.
    """

    #: methods of pytorch-metric-learning's class that are never called here, beside those of the
    #: classes it is derived from
    pml_hooks: ClassVar[tuple[str, ...]] = (
        *("compute_loss", "_compute_loss", "mat_based_loss", "pair_based_loss"),
        *("zero_loss", "zero_losses", "embedding_regularization_loss"),
        *("add_embedding_regularization_to_loss_dict", "regularization_loss_names"),
        *("all_regularization_loss_names", "_assert_either_pos_or_neg"),
    )
    #: the class of the distance and of the reducer of a loss constructed without one
    default_distance: ClassVar[type[nn.Module]] = LpDistance
    default_reducer: ClassVar[type[nn.Module]] = MeanReducer
    #: the only kind of distance it takes, ours or pytorch-metric-learning's; None: any
    required_distance: ClassVar[type[nn.Module] | None] = None
    #: what its function takes beside ``hyperparameters``: arguments that are no numbers
    switches: ClassVar[tuple[str, ...]] = ()
    #: values of the constructor's arguments that have no defaults, as one may begin with: for the
    #: benchmarks and the shared tests
    example_arguments: ClassVar[Mapping[str, float]] = {}
    #: whether it compares with ``ref_emb``, too; without, it needs labels
    takes_references: ClassVar[bool] = True
    #: whether an index tuple does not stand in for labels
    needs_labels: ClassVar[bool] = False
    #: whether it takes an index tuple
    takes_tuples: ClassVar[bool] = True
    #: whether it takes labels [n, C], several a row: it only asks which pairs are positive
    takes_label_sets: ClassVar[bool] = True
    #: whether its gradient jumps where rounding decides which of several vectors counts, or which
    #: bin
    gradient_jumps: ClassVar[bool] = False
    #: whether its value jumps where rounding decides which losses are above 0 and count in a mean
    value_jumps: ClassVar[bool] = False
    #: whether its positive pairs are those of equal labels, whatever these and in any order
    pairs_equal_labels: ClassVar[bool] = True
    #: the name of its parameter with a row (or column) for each class
    weights_name: ClassVar[str | None] = None
    #: whether a step on a GPU waits for numbers from there, such as how many positives there are: a
    #: CUDA graph cannot hold it
    waits_for_host: ClassVar[bool] = False
    #: how many members of a class it looks at, in the order of the batch; None: all, in any order
    members_per_class: ClassVar[int | None] = None
    #: False where pytorch-metric-learning computes something else, or in float32 whatever the
    #: embeddings are; the docstring says what
    agrees_with_pml: ClassVar[bool] = True
    #: False where it is meant to be added to another loss, and by itself need not teach retrieval
    stands_alone: ClassVar[bool] = True
    #: False where pytorch-metric-learning is wrong; the docstring says in what
    agrees_with_pml_on_references: ClassVar[bool] = True
    #: whether the pairs i == j are left out because ref_labels are labels, or only because ref_emb
    #: are the embeddings
    leaves_out_own_labels: ClassVar[bool] = True
    #: False where pytorch-metric-learning does not ask the distance that it is given
    agrees_with_pml_on_other_distances: ClassVar[bool] = True
    #: False where its gradient is NaN at pairs of equal embeddings
    agrees_with_pml_on_equal_embeddings: ClassVar[bool] = True
    #: False where the backward takes a part of the formula for a constant
    gradient_is_derivative: ClassVar[bool] = True
    #: False where the gradient by PyTorch's tiles has no derivative, either
    has_second_derivative: ClassVar[bool] = True
    #: whether its sub-losses are of different pairs: as single losses they are not added up, but
    #: follow one another
    lists_sub_losses: ClassVar[bool] = False
    #: further arguments with which the benchmarks measure it, by a name
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    #: which of sentence-transformers' losses is the same of unit embeddings, with the same margin:
    #: {variant: name}, "" for the defaults
    in_sentence_transformers: ClassVar[Mapping[str, str]] = {}
    #: False where it is one number of the batch, which no reducer changes
    has_single_losses: ClassVar[bool] = True
    #: whether each row of a batch without pairs has a single loss, 0; otherwise there is none
    has_row_losses: ClassVar[bool] = True
    promises: ClassVar[Promises] = Promises()
    _record_these: ClassVar[list[str]] = []

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        refuse_hooks(cls, "sub_losses (or, of one loss per anchor, head)")
        # where pytorch-metric-learning's record keepers look
        cls._record_these = list(cls.hyperparameters)

    def __init__(
        self,
        *,
        distance: nn.Module | None = None,
        reducer: nn.Module | None = None,
        embedding_regularizer: nn.Module | None = None,
        embedding_reg_weight: float = 1,
        collect_stats: bool | None = None,
        backend: Backend = "auto",
        label_rule: LabelRule = "any",
        **unknown: Any,
    ) -> None:
        for name, value in unknown.items():
            hint = _instead_of_reduction(value) if name == "reduction" else None
            raise unexpected_keyword(type(self), name, hint=hint)
        super().__init__()
        if distance is not None:
            check_distance(distance)
            self._check_kind(distance)
        if embedding_regularizer is not None:
            check_object("embedding_regularizer", embedding_regularizer)
        check_number("embedding_reg_weight", embedding_reg_weight)
        self.collect_stats = check_flag("collect_stats", collect_stats)
        self.distance = self.get_default_distance() if distance is None else distance
        self.embedding_regularizer = embedding_regularizer
        self.embedding_reg_weight = embedding_reg_weight
        self.backend = check_backend(backend)
        self.label_rule = check_label_rule(label_rule)
        if label_rule != "any" and not self.takes_label_sets:
            raise ValueError(
                f"label_rule={label_rule!r} is for losses that take labels of shape (batch_size, "
                f"C), which {type(self).__name__} does not"
            )
        self.set_reducer(reducer)

    @classmethod
    def of_sizes(cls, num_classes: int, embedding_size: int, **arguments: Any) -> Self:
        """A loss for that many classes, whether or not it has a parameter for each.

        arguments: instead of the defaults, and of ``needed_arguments``.
        """
        return cls(**{**cls.needed_arguments(num_classes, embedding_size), **arguments})

    @classmethod
    def needed_arguments(cls, num_classes: int, embedding_size: int) -> dict[str, Any]:
        """Values of the constructor's arguments that have no defaults."""
        return dict(cls.example_arguments)

    @classmethod
    def of_weights(cls, weights: Tensor | None, **arguments: Any) -> Self:
        """A loss with the given tensor as its parameter of classes; None for one without.

        arguments: instead of the defaults, and of ``example_arguments``.
        """
        return cls(**{**cls.example_arguments, **arguments})

    @classmethod
    def matrix_shape(
        cls, class_sizes: Sequence[int], num_references: int, num_classes: int
    ) -> tuple[int, int]:
        """Rows and columns of the matrix of a batch, for the benchmarks.

        class_sizes: members of each class in the batch.  num_references: 0 for none.
        num_classes: those that have a weight.
        """
        n = sum(class_sizes)
        return n, num_references or n

    def _check_kind(self, distance: nn.Module) -> None:
        required = self.required_distance
        if required is not None and not is_a(distance, "distances", required.__name__):
            raise DistanceError(
                f"distance must be a {required.__name__} for {type(self).__name__}, got "
                f"{type(distance).__name__}"
            )

    def get_default_distance(self) -> nn.Module:
        """The distance of a loss constructed without one."""
        return self.default_distance()

    def get_default_reducer(self) -> nn.Module:
        """The reducer of a loss constructed without one."""
        return self.default_reducer()

    def sub_loss_names(self) -> list[str]:
        """Names of the losses that are reduced one by one and added up."""
        names = self._sub_loss_names()
        return names if self.embedding_regularizer is None else [*names, "embedding_reg_loss"]

    def _sub_loss_names(self) -> list[str]:
        return ["loss"]

    def set_reducer(self, reducer: nn.Module | None) -> None:
        """Sets ``reducer``: a copy of it for every sub-loss, if there are several."""
        if reducer is not None:
            check_reducer(reducer)
        names = self.sub_loss_names()
        if reducer is not None and (
            is_a(reducer, "reducers", "MultipleReducers")
            or is_a(reducer, "reducers", "DoNothingReducer")
        ):
            self.reducer = reducer
            return
        copies = {
            name: self.get_default_reducer() if reducer is None else copy.deepcopy(reducer)
            for name in names
        }
        self.reducer = copies[names[0]] if len(names) == 1 else MultipleReducers(copies)

    if TYPE_CHECKING:

        def __call__(
            self,
            embeddings: Tensor,
            labels: Tensor | None = None,
            indices_tuple: IndicesTuple | None = None,
            ref_emb: Tensor | None = None,
            ref_labels: Tensor | None = None,
            *,
            self_offset: int | None = None,
        ) -> Tensor:
            """See ``forward``."""

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: IndicesTuple | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
        *,
        self_offset: int | None = None,
        **_unknown: Any,
    ) -> Any:
        """The loss, 0-d, in the dtype of the embeddings (under autocast float32).

        Args:
            embeddings: [n, d], floating point.
            labels: [n], any dtype and values; or [n, C], which classes each row has, see
                ``label_rule``: bool, or numbers 0 and 1 at the price of a host sync on a GPU.
            indices_tuple: None for all pairs by label; or (anchors, positives, negatives), or
                (anchors, positives, anchors, negatives), int64.
            ref_emb: [m, d], what the embeddings are compared with instead of with themselves.
            ref_labels: [m] or [m, C].  The pairs i == j are left out unless it is another object
                than labels.
            self_offset: where in ``ref_emb`` the embeddings are: row i is reference
                (i + self_offset) mod m, with its label, and that pair is left out.  Of rows
                gathered from many processes it is the place of the first own one.

        Raises:
            ValueError: for wrong shapes or devices; if neither labels nor indices_tuple is given;
                for a self_offset with an index tuple, without references, of fewer references than
                embeddings, or not from 0 to m - 1.
            TypeError: for wrong dtypes.
            NotImplementedError: for index tuples that differ in a batch of ``torch.func.vmap``, and
                for labels that do where pairs of equal labels must be listed.
        """
        refuse_keywords(self, _unknown)
        if self.needs_labels or not self.takes_references:
            require_labels(embeddings, labels, ref_emb)
        if not self.takes_references:
            refuse_references(embeddings, labels, ref_emb, ref_labels)
        if indices_tuple is not None and not self.takes_tuples:
            raise ValueError("indices_tuple is not supported for this loss function")
        if indices_tuple is not None and self_offset is not None:
            raise ValueError("indices_tuple and self_offset are mutually exclusive")
        given = embeddings, labels, ref_emb, ref_labels
        if torch._C._are_functorch_transforms_active() and not torch.compiler.is_compiling():
            with batches_explained(type(self).__name__, labels, ref_labels, indices_tuple):
                return self._of_given(given, indices_tuple, self_offset)
        return self._of_given(given, indices_tuple, self_offset)

    def _of_given(
        self,
        given: tuple[Tensor, Tensor | None, Tensor | None, Tensor | None],
        indices_tuple: IndicesTuple | None,
        self_offset: int | None,
    ) -> Any:
        """given: embeddings, labels, ref_emb, ref_labels."""
        batch = make_batch(*given, indices_tuple is None, self.rule_of_sets(), self_offset)
        return self.of_batch(batch, indices_tuple)

    def extra_repr(self) -> str:
        """The hyper-parameters, and switches that are not at their defaults."""
        numbers = [name for name in self.switches if is_number(getattr(self, name, None))]
        switches = shown_arguments(self, numbers, (*self.switches, "backend", "label_rule"))
        shown = super().extra_repr(), switches
        return ", ".join(filter(None, shown))

    def rule_of_sets(self) -> LabelRule | None:
        """The rule for several labels a row; None if it takes none."""
        return self.label_rule if self.takes_label_sets else None

    def of_batch(self, batch: Batch, indices_tuple: IndicesTuple | None) -> Any:
        """The loss of a checked call, see ``forward``."""
        losses = self.sub_losses(batch, indices_tuple)
        if self.embedding_regularizer is not None:
            regularization = self.embedding_regularizer(batch.embeddings)
            losses["embedding_reg_loss"] = already_reduced(
                regularization * self.embedding_reg_weight
            )
        loss = self.reduced(losses, batch, result_dtype(batch.embeddings))
        if self.pairs_equal_labels:
            warn_without_positives(type(self).__name__, loss, batch, indices_tuple)
        return loss

    def evaluate(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
        reduction: str = "mean",
        *,
        self_offset: int | None = None,
    ) -> Tensor:
        """What the functions of ``fusedml.functional`` return, in float32 or float64.

        reduction: "mean" for the loss's own reducer, "sum", or "none" for the single losses; of a
            loss that has none the three are the same.
        """
        check_choice("reduction", reduction, REDUCTIONS)
        given = embeddings, labels, ref_emb, ref_labels
        batch = make_batch(*given, True, self.rule_of_sets(), self_offset)
        dtype = accumulation_dtype(batch.embeddings.dtype)
        if reduction == "mean":
            loss: Tensor = self.reduced(self.sub_losses(batch, None), batch, dtype)
            if self.pairs_equal_labels:
                warn_without_positives(type(self).__name__, loss, batch, None)
            return loss
        self.set_reducer(DoNothingReducer())
        losses = self.sub_losses(batch, None)
        single = [self._single(info, batch, reduction == "sum") for info in losses.values()]
        if reduction == "none" and self.lists_sub_losses:
            return torch.cat(single).to(dtype)
        return torch.stack(single).sum(0).to(dtype)

    def _single(self, info: LossInfo | PairLosses, batch: Batch, is_sum: bool) -> Tensor:
        """The losses of one kind, or their sum."""
        if isinstance(info, PairLosses):
            if is_sum and info.rows is not None:
                return info.rows().sums.sum()
            return info.listed().losses.sum() if is_sum else info.listed().losses
        losses: Tensor = info["losses"]
        if is_sum:
            return losses.sum()
        if info["reduction_type"] == "already_reduced" and self.has_single_losses:
            return self.no_losses(batch)
        return losses

    def no_losses(self, batch: Batch) -> Tensor:
        """The single losses of a batch without enough pairs, connected to the graph."""
        if self.has_row_losses:
            return (batch.embeddings * 0).sum(1)
        return zero_loss(batch.embeddings).expand(0)

    def losses_without_pairs(self, batch: Batch) -> dict[str, LossInfo | PairLosses]:
        """Zeros, connected to the graph."""
        references = batch.references
        learnt = references if references is not None and references.requires_grad else None
        zero = zero_loss(batch.embeddings, learnt)
        return dict.fromkeys(self._sub_loss_names(), already_reduced(zero))

    @abc.abstractmethod
    def sub_losses(
        self, batch: Batch, indices_tuple: IndicesTuple | None
    ) -> dict[str, LossInfo | PairLosses]:
        """The losses of a batch by name, before reduction."""

    def part(self, name: str) -> Any:
        """``getattr``, in a third of the time where it is a module: PyTorch looks those up last."""
        module = self.__dict__["_modules"].get(name)
        return getattr(self, name) if module is None else module

    def pairs_of(
        self, problem: PairProblem, matrix: Matrix | None = None, is_prepared: bool = False
    ) -> Pairs:
        """All pairs of a problem, see :func:`fusedml.engine.routes.choice.labelled_pairs`."""
        distance, owner = self.part("distance"), type(self).__name__
        return labelled_pairs(problem, distance, self.backend, owner, matrix, is_prepared)

    def listed_pairs(self, indices: PairIndices, batch: Batch) -> ListedPairs:
        """The listed pairs of the batch."""
        distance, owner = self.part("distance"), type(self).__name__
        return listed_pairs(
            indices, batch.embeddings, batch.references, distance, self.backend, owner
        )

    def reduced(
        self, losses: dict[str, LossInfo | PairLosses], batch: Batch, dtype: torch.dtype
    ) -> Any:
        """The sub-losses through their reducers, added up."""
        several: Any = self.part("reducer")
        if is_single(several):
            (item,) = losses.items()
            loss = self._reduce_one(several, *item, batch)
            return loss if loss.dtype == dtype else loss.to(dtype)
        reducers = parts_of(several, losses)
        if reducers is None:
            reduced = several(_listed(losses, dtype), batch.embeddings, batch.labels)
            does_nothing = is_a(several, "reducers", "DoNothingReducer")
            return reduced if does_nothing else reduced.to(dtype)
        total: Any = _mean_together(reducers, [*losses.values()])
        if total is None:
            for reducer, (name, info) in zip(reducers, losses.items(), strict=True):
                loss = self._reduce_one(reducer, name, info, batch)
                total = loss if total is None else total + loss
        return total if total.dtype == dtype else total.to(dtype)

    def _reduce_one(
        self, reducer: nn.Module, name: str, info: LossInfo | PairLosses, batch: Batch
    ) -> Tensor:
        twin = twin_of(reducer)
        if twin is not None:
            reducer = twin
            if isinstance(info, PairLosses):
                reduced = _reduced_unlisted(twin, info, batch)
            else:
                reduced = twin.passed_on(info)
            if reduced is not None:
                return reduced
        if isinstance(info, PairLosses):
            info = listed_info(info)
        return reducer({name: info}, batch.embeddings, batch.labels)


def _mean_together(
    reducers: Sequence[nn.Module], losses: Sequence[LossInfo | PairLosses]
) -> Tensor | None:
    """The sum of the means of all sub-losses, if it is known without these."""
    # a loss has one of them; comparing two would break the graph before PyTorch 2.12
    of_each = [info.together if isinstance(info, PairLosses) else None for info in losses]
    together = of_each[0]
    for each in of_each:
        if each is None:
            return None
    if together is None or together.number != len(losses):
        return None
    intervals = [None if twin is None else twin.interval() for twin in map(twin_of, reducers)]
    interval = intervals[0]
    if interval is None or any(other != interval for other in intervals):
        return None
    return together.mean(*interval)


def _reduced_at_once(reducer: BaseReducer, losses: PairLosses) -> Tensor | None:
    """What the reducer makes of losses that are not made one by one; None where they are to be."""
    interval = reducer.interval()
    if interval is not None:
        return losses.mean_between(*interval)
    if losses.quotient is not None and reducer.divides:
        return losses.quotient()
    return None


def _reduced_unlisted(reducer: BaseReducer, losses: PairLosses, batch: Batch) -> Tensor | None:
    """What the reducer makes of losses that are not listed; None where it takes the list."""
    reduced = _reduced_at_once(reducer, losses)
    if reduced is not None or losses.rows is None:
        return reduced
    if reducer.divides and losses.divisor is not None:
        divided = {"divisor": losses.divisor()}
        return reducer.reduce(losses.rows().sums, divided, batch.embeddings, batch.labels)
    if reducer.collect_stats or not reducer.sums_rows(losses.reduction_type):
        return None  # statistics are of the single losses
    if losses.may_repeat and reducer.counts_pairs_once:
        return None
    return reducer.reduce_rows(losses.rows(), batch.embeddings, batch.labels)


def _instead_of_reduction(value: Any) -> str:
    reducer = {"mean": "MeanReducer()", "sum": "SumReducer()"}.get(value)
    functions = f"take reduction={value!r}, as in fusedml.functional"
    if reducer is None:
        return f"only the functions {functions}"
    return f"write reducer=fusedml.reducers.{reducer}; only the functions {functions}"


def element_losses(losses: Tensor, **extra: Any) -> LossInfo:
    """Losses [k] of rows 0, 1, ..., as reducers take them."""
    indices = torch.arange(losses.shape[0], device=losses.device)
    return {"losses": losses, "indices": indices, "reduction_type": "element", **extra}


def already_reduced(loss: Tensor) -> LossInfo:
    """A 0-d loss, as reducers take it."""
    return {"losses": loss, "indices": None, "reduction_type": "already_reduced"}


def listed_info(losses: PairLosses) -> LossInfo:
    """The single losses, as reducers take them: memory proportional to their number."""
    listed = losses.listed()
    divided = {} if losses.divisor is None else {"divisor": losses.divisor()}
    if losses.reduction_type == "triplet":
        return {**triplet_info(listed), **divided}
    is_element = losses.reduction_type == "element"
    indices = listed.rows if is_element else (listed.rows, listed.columns)
    return {
        "losses": listed.losses,
        "indices": indices,
        "reduction_type": losses.reduction_type,
        **divided,
    }


def triplet_info(listed: ListedLosses) -> LossInfo:
    """Losses of single triplets, as reducers take them."""
    indices = listed.rows, listed.columns, listed.negatives
    return {"losses": listed.losses, "indices": indices, "reduction_type": "triplet"}


def _listed(losses: dict[str, LossInfo | PairLosses], dtype: torch.dtype) -> dict[str, LossInfo]:
    """Everything as reducers of other kinds expect it: listed, in the dtype of the result."""
    result = {}
    for name, info in losses.items():
        expected = listed_info(info) if isinstance(info, PairLosses) else info
        result[name] = {**expected, "losses": expected["losses"].to(dtype)}
    return result
