"""The protocol that all miners follow: constructor, call, statistics, size of the list."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

import torch
from torch import Tensor, nn

from fusedml.distances import LpDistance, check_distance
from fusedml.engine.arguments import (
    check_count,
    check_flag,
    refuse_keywords,
    shown_arguments,
    unexpected_keyword,
)
from fusedml.engine.foreign import is_a, refuse_hooks
from fusedml.engine.inputs import make_batch
from fusedml.engine.labels import LabelRule, check_label_rule, on_device
from fusedml.engine.pair_lists import Lists, Part
from fusedml.engine.routes.choice import row_strips
from fusedml.engine.routes.row_strips import RowStrips
from fusedml.errors import DistanceError, TupleError

MOST_LISTED = 100_000_000

Mined = tuple[Tensor, ...]


class MinerOptions(TypedDict, total=False):
    """Keyword arguments that every miner takes, see :class:`BaseMiner`."""

    distance: nn.Module | None
    collect_stats: bool | None
    max_listed: int | None
    label_rule: LabelRule


class BaseMiner(nn.Module, abc.ABC):
    """An index tuple for the losses, with pytorch-metric-learning's constructor and call.

    Mining measures strips of whole rows: no n x m matrix is ever held, memory is the list that is
    returned.  Nothing of it is differentiated.  Subclasses implement ``mine``.

    Args:
        distance: a ``fusedml.distances`` or pytorch-metric-learning object.  Cosine, dot product
            and Euclidean distance (p = 2, power 1 or 2) are measured in float32, or float64 for
            float64 embeddings; any other by its own code in blocks of rows, with one warning.
        collect_stats: keep what the miner says it records, at the price of more work.
        max_listed: the most pairs or triplets that a call may list (100 million by default: 1.6 GB
            of pairs, 2.4 GB of triplets); None for any number.
        label_rule: of labels [n, C], which of C classes each row has: "any", and a pair is positive
            if it has a class in common; or "all", if it has the same classes.

    Raises:
        TypeError: for an unknown keyword, for a distance that is no object or does not say whether
            it is a similarity, and for what is no number where one is expected.
        DistanceError: (a ValueError and AssertionError) for a distance of another kind than the
            miner is defined for.
    """

    #: methods of pytorch-metric-learning's class that are never called here
    pml_hooks: ClassVar[tuple[str, ...]] = ()
    #: the class of the distance of a miner constructed without one
    default_distance: ClassVar[type[nn.Module]] = LpDistance
    #: whether only LpDistance(p=2, power=1, normalize_embeddings=True) will do
    needs_euclidean_distance: ClassVar[bool] = False
    #: whether it looks at all pairs of a batch: for the benchmarks
    measures_pairs: ClassVar[bool] = True
    #: of the constructor, where with the defaults a list of random rows grows with the square of
    #: the batch, or is empty: for the benchmarks
    example_arguments: ClassVar[Mapping[str, Any]] = {}
    #: what the benchmarks hold it to with these arguments: at most so many MB above the inputs at
    #: n = 16384, d = 128, 4 samples a class, float32, on a CPU
    most_extra_mb: ClassVar[float] = 200.0
    #: whether it can do without labels
    needs_labels: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        refuse_hooks(cls, "mine")

    def __init__(
        self,
        *,
        distance: nn.Module | None = None,
        collect_stats: bool | None = None,
        max_listed: int | None = MOST_LISTED,
        label_rule: LabelRule = "any",
        **unknown: Any,
    ) -> None:
        for name in unknown:
            raise unexpected_keyword(type(self), name)
        super().__init__()
        if distance is not None:
            check_distance(distance)
        self.collect_stats = check_flag("collect_stats", collect_stats)
        self.max_listed = None if max_listed is None else check_count("max_listed", max_listed, 0)
        self.label_rule = check_label_rule(label_rule)
        self.distance = self.get_default_distance() if distance is None else distance
        if self.needs_euclidean_distance:
            _check_euclidean(type(self).__name__, self.distance)
        self.add_to_recordable_attributes(
            list_of_names=["num_pos_pairs", "num_neg_pairs", "num_triplets"], is_stat=True
        )

    def extra_repr(self) -> str:
        """The miner's own numbers, as ``print(module)`` shows them."""
        own = inspect.signature(type(self).__init__).parameters
        return shown_arguments(self, own)

    def get_default_distance(self) -> nn.Module:
        """The distance of a miner constructed without one."""
        return self.default_distance()

    if TYPE_CHECKING:

        def __call__(
            self,
            embeddings: Tensor,
            labels: Tensor | None = None,
            ref_emb: Tensor | None = None,
            ref_labels: Tensor | None = None,
        ) -> tuple[Tensor, ...]:
            """See ``forward``."""

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
        **_unknown: Any,
    ) -> Any:
        """(anchors, positives, negatives) or (anchors, positives, anchors, negatives), int64.

        embeddings: [n, d], floating point.  labels: [n], or [n, C], which classes each row has.
        Anchors number the embeddings, the others ``ref_emb`` [m, d] with ``ref_labels`` [m]; by
        default these are the embeddings, and no embedding is its own positive.

        Raises TypeError or ValueError for arguments that do not fit together, and ValueError for a
        list of more than ``max_listed``.
        """
        refuse_keywords(self, _unknown)
        self.reset_stats()
        if labels is None and self.needs_labels:
            raise ValueError(f"labels are required for {type(self).__name__}, got None")
        with torch.no_grad():
            given = embeddings, labels, ref_emb, ref_labels
            make_batch(*given, self.needs_labels, self.label_rule)
            if labels is not None:
                labels = on_device(labels, embeddings.device)
            if ref_emb is None:
                ref_emb, ref_labels = embeddings, labels
            elif ref_labels is not None:
                # what is one object stays one: it says that the diagonal is left out
                is_shared = ref_labels is labels
                ref_labels = labels if is_shared else on_device(ref_labels, embeddings.device)
            mined = self.mine(embeddings, labels, ref_emb, ref_labels)
        self.output_assertion(mined)
        return mined

    @abc.abstractmethod
    def mine(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> Any:
        """The index tuple; without references ``ref_emb`` and ``ref_labels`` are the embeddings
        and labels themselves.
        """

    def output_assertion(self, output: Sequence[Tensor]) -> None:
        """Counts what was mined: ``num_triplets``, or ``num_pos_pairs`` and ``num_neg_pairs``.

        Raises TypeError unless there are 3 or 4 tensors, and TupleError (a ValueError and
        AssertionError) unless those of a triplet, or of a pair, have one length.
        """
        if not isinstance(output, tuple | list) or len(output) not in (3, 4):
            got = len(output) if isinstance(output, tuple | list) else type(output).__name__
            raise TypeError(
                "a miner must return 3 tensors (anchors, positives, negatives) or 4 (anchors, "
                f"positives, anchors, negatives), got {got}"
            )
        lengths = [len(index) for index in output]
        if len(output) == 3:
            self.num_triplets = lengths[0]
        else:
            self.num_pos_pairs, self.num_neg_pairs = lengths[0], lengths[2]
        groups = (lengths,) if len(output) == 3 else (lengths[:2], lengths[2:])
        if any(len(set(group)) > 1 for group in groups):
            raise TupleError(
                "a miner must return as many anchors as positives, and as negatives, got lengths "
                f"{tuple(lengths)}"
            )

    def pairs_of(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
        exclude_diagonal: bool | None = None,
    ) -> RowStrips:
        """All pairs of a call of ``mine``, in strips of whole rows.

        exclude_diagonal: None to leave it out where the labels are shared, as the losses do.
        """
        batch = make_batch(embeddings, labels, ref_emb, ref_labels, True, self.label_rule)
        problem = batch.problem()
        if exclude_diagonal is not None:
            problem = problem._replace(exclude_diagonal=exclude_diagonal)
        return row_strips(problem, self.distance, type(self).__name__)

    def listed(
        self, pairs: RowStrips, parts: Callable[[], Iterable[Part]], num_heads: tuple[int, ...]
    ) -> Mined:
        """The lists that the parts make, see :class:`fusedml.engine.pair_lists.Lists`."""
        return Lists(parts, num_heads, self.check_size, pairs.device).written()

    def check_size(self, size: int) -> None:
        """Raises ValueError if a list of that many entries is longer than ``max_listed``."""
        if self.max_listed is not None and size > self.max_listed:
            instead = self.instead_of_list()
            raise ValueError(
                f"{type(self).__name__} would list {size:,} pairs or triplets, more than "
                f"max_listed={self.max_listed:,}: {instead}{', or ' if instead else ''}raise "
                "max_listed"
            )

    def instead_of_list(self) -> str:
        """What needs no list, for the error of one that is too long; empty if there is nothing."""
        return ""

    def add_to_recordable_attributes(
        self,
        name: str | None = None,
        list_of_names: Iterable[str] | None = None,
        is_stat: bool = False,
    ) -> None:
        """Names attributes for pytorch-metric-learning's record keepers.

        is_stat: whether they are of the last call: named, and set to 0 before each, with
        ``collect_stats`` only.
        """
        if is_stat and not self.collect_stats:
            return
        record = self.__dict__.setdefault("_record_these_stats" if is_stat else "_record_these", [])
        for added in [*([] if name is None else [name]), *(list_of_names or ())]:
            if added not in record:
                record.append(added)
            if not hasattr(self, added):
                setattr(self, added, 0)

    def reset_stats(self) -> None:
        """Sets the statistics of the last call to 0."""
        for name in self.__dict__.get("_record_these_stats", ()):
            setattr(self, name, 0)


def _check_euclidean(owner: str, distance: nn.Module) -> None:
    given: Any = distance
    if is_a(distance, "distances", "LpDistance"):
        if (given.p, given.power, bool(given.normalize_embeddings)) == (2, 1, True):
            return
        got = f"p={given.p}, power={given.power}, normalize_embeddings={given.normalize_embeddings}"
    else:
        got = type(distance).__name__
    raise DistanceError(
        f"distance must be LpDistance(p=2, power=1, normalize_embeddings=True) for {owner}, got "
        f"{got}"
    )
