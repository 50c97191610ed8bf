"""Triplets by how far the negative is beyond the positive."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from fusedml.engine.arguments import check_choice, check_number
from fusedml.engine.autograd import pair_values
from fusedml.engine.pair_lists import Part
from fusedml.engine.pairs import widest_dtype
from fusedml.engine.routes.choice import AllRows, all_rows
from fusedml.engine.routes.row_strips import RowStrips, Strip
from fusedml.engine.routes.window_lists import negatives_within
from fusedml.engine.routes.windows import Window, above
from fusedml.miners.base import BaseMiner, Mined, MinerOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


class TripletMarginMiner(BaseMiner):
    """Triplets (a, p, n) by their margin, d_an - d_ap, or s_ap - s_an with a similarity.

    * "all": those with a margin of at most ``margin``.
    * "hard": of these, those with a margin of at most 0.
    * "semihard": of these, those with a margin above 0.
    * "easy": those with a margin above ``margin``.

    There may be n^3 of them: they are counted by the ranks of the negatives among the positives
    of a row, before any is listed.  ``TripletMarginLoss(margin, mining=type_of_triplets)`` has the
    loss with the same margin on them without a list.

    Args:
        margin: as above.
        type_of_triplets: as above.

    Records with ``collect_stats``, of all triplets: ``avg_triplet_margin``, ``pos_pair_dist`` and
    ``neg_pair_dist``, their means; NaN without triplets.

    Raises ValueError for an unknown ``type_of_triplets``.

    Source: Schroff, Kalenichenko and Philbin, "FaceNet: A Unified Embedding for Face Recognition
    and Clustering", CVPR 2015, section 3.2.
    """

    pml_hooks = ("set_stats",)
    types_of_triplets = ("all", "hard", "semihard", "easy")
    example_arguments: ClassVar[Mapping[str, Any]] = {"margin": 0.1}

    def __init__(
        self,
        margin: float = 0.2,
        type_of_triplets: Literal["all", "hard", "semihard", "easy"] = "all",
        **kwargs: Unpack[MinerOptions],
    ) -> None:
        super().__init__(**kwargs)
        check_choice("type_of_triplets", type_of_triplets, self.types_of_triplets)
        check_number("margin", margin)
        self.margin = margin
        self.type_of_triplets = type_of_triplets
        self.add_to_recordable_attributes(list_of_names=["margin"])
        self.add_to_recordable_attributes(
            list_of_names=["avg_triplet_margin", "pos_pair_dist", "neg_pair_dist"], is_stat=True
        )

    def mine(
        self, embeddings: Tensor, labels: Tensor | None, ref_emb: Tensor, ref_labels: Tensor | None
    ) -> Mined:
        pairs = self.pairs_of(embeddings, labels, ref_emb, ref_labels)
        if self.collect_stats:
            self._set_stats(pairs)
        number = int((pairs.num_positives() * pairs.num_negatives()).sum())
        if self.max_listed is not None and number > self.max_listed:
            self.check_size(self._count(pairs))

        kept, whole = self._kept_margins(pairs.like), all_rows(pairs)
        if whole is not None:
            return self._of_kernels(whole, kept if pairs.sign < 0 else kept.negated())

        def parts() -> Iterator[Part]:
            for strip in pairs.strips():
                yield from _parts_of(strip, pairs.height, kept)

        return self.listed(pairs, parts, (2,))

    def instead_of_list(self) -> str:
        if self.type_of_triplets == "easy":  # of which the loss with this margin is 0
            return ""
        return (
            f'TripletMarginLoss(margin={self.margin}, mining="{self.type_of_triplets}") has the '
            "loss of these triplets without a list"
        )

    def _kept_margins(self, like: Tensor) -> Window:
        """Of the margins t - y of triplets, t and y the hardness of its two pairs."""
        if self.type_of_triplets == "easy":
            return Window(low=above(self.margin, like))
        if self.type_of_triplets == "semihard":
            return Window(low=above(0.0, like), high=self.margin)
        if self.type_of_triplets == "hard":
            return Window(high=min(self.margin, 0.0))
        return Window(high=self.margin)

    def _of_kernels(self, whole: AllRows, of_differences: Window) -> Mined:
        """of_differences: the window of x_an - x_ap."""
        problem = whole.problem
        sides = problem.anchors, problem.references

        def lines(i: Tensor, p: Tensor) -> tuple[Tensor, Window]:
            x = pair_values(*sides, i, p, problem.measure, whole.backend)
            return problem.anchors[i], of_differences._replace(shift=-x)

        references = problem.anchors if problem.references is None else problem.references
        return negatives_within(whole, lines, references, problem.measure, self.check_size)

    def _count(self, pairs: RowStrips) -> int:
        """The number of triplets, but for those that rounding moves over the margin.

        A negative of hardness y makes triplets with a run of the row's positives, sorted by their
        hardness t: with those of t <= y + margin, and so on.
        """
        total = 0
        for strip in pairs.strips():
            y, negative = strip.y, strip.negative
            num_positives = strip.positive.sum(1)
            most = int(num_positives.max())
            if most == 0:
                continue
            t = torch.where(strip.positive, y, math.inf).sort(1).values[:, :most].contiguous()
            up_to_margin = torch.searchsorted(t, y + self.margin, right=True)
            if self.type_of_triplets == "easy":
                runs = num_positives[:, None] - up_to_margin
            elif self.type_of_triplets == "all":
                runs = up_to_margin
            else:
                harder = torch.searchsorted(t, y, right=True)
                is_hard = self.type_of_triplets == "hard"
                runs = torch.minimum(up_to_margin, harder) if is_hard else up_to_margin - harder
            total += int(runs.clamp_(min=0).mul_(negative).sum())
        return total

    def _set_stats(self, pairs: RowStrips) -> None:
        positives, negatives = pairs.num_positives(), pairs.num_negatives()
        number = int((positives * negatives).sum())
        dtype = widest_dtype(pairs.device)
        sums = torch.zeros(2, dtype=dtype, device=pairs.device)
        for strip in pairs.strips():
            # each positive pair is in as many triplets as the row has negatives, and vice versa
            of_positives = torch.where(strip.positive, strip.x, 0).sum(1, dtype=dtype)
            of_negatives = torch.where(strip.negative, strip.x, 0).sum(1, dtype=dtype)
            sums[0] += (of_positives * negatives[strip.lines]).sum()
            sums[1] += (of_negatives * positives[strip.lines]).sum()
        means = (x / number if number else math.nan for x in sums.tolist())
        self.pos_pair_dist, self.neg_pair_dist = means
        self.avg_triplet_margin = pairs.sign * (self.pos_pair_dist - self.neg_pair_dist)


def _parts_of(strip: Strip, height: int, kept: Window) -> Iterator[Part]:
    """The triplets of some anchors, of so many positive pairs at a time."""
    y, negative = strip.y, strip.negative
    lines, positives = torch.where(strip.positive)
    hardness = y[lines, positives]
    # positives whose largest or smallest margin rules all of their triplets out are skipped
    alive = torch.ones_like(lines, dtype=torch.bool)
    if kept.high is not None:
        alive &= hardness - torch.where(negative, y, -math.inf).amax(1)[lines] <= kept.high
    if kept.low is not None:
        alive &= hardness - torch.where(negative, y, math.inf).amin(1)[lines] >= kept.low
    for some in alive.nonzero()[:, 0].split(height):
        at = lines[some]
        inside = kept.holds(hardness[some, None] - y[at])
        yield Part((strip.lines[at], positives[some]), inside.logical_and_(negative[at]))
