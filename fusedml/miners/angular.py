"""Triplets by the angle at the negative."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from fusedml.engine.arguments import check_number
from fusedml.engine.labels import alike
from fusedml.engine.pair_lists import Part
from fusedml.engine.pairs import accumulation_dtype, widest_dtype
from fusedml.engine.positives import positive_pairs
from fusedml.engine.precision import row_norms, without_autocast
from fusedml.engine.routes.choice import AllRows, all_rows
from fusedml.engine.routes.row_strips import RowStrips
from fusedml.engine.routes.window_lists import negatives_within
from fusedml.engine.routes.windows import Window, above
from fusedml.engine.tiled.plan import measured_block, operand
from fusedml.miners.base import BaseMiner, Mined, MinerOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


class _Angles(NamedTuple):
    """Of some positive pairs, [k] each: with every reference as the negative, [k, m]."""

    anchors: Tensor
    positives: Tensor
    angles: Tensor
    is_negative: Tensor


class AngularMiner(BaseMiner):
    """Triplets (a, p, n) with atan(|a - p| / (2 |n - c|)) > angle, c = (a + p) / 2.

    That is the angle at n in the triangle of n, c and a point at half the distance of a and p from
    c.  Embeddings are taken as given, not normalised, as in pytorch-metric-learning, which adds
    1e-6 to each difference.  ``AngularLoss`` has all triplets without a list.

    Args:
        angle: in degrees.
        distance: LpDistance(p=2, power=1, normalize_embeddings=True), which is the default.

    Records with ``collect_stats``, in degrees and of all triplets: ``average_angle``,
    ``min_angle``, ``max_angle``, ``std_of_angle``, ``average_angle_above_threshold`` and
    ``average_angle_below_threshold``; ``angle`` is in radians.

    Source: Wang et al., "Deep Metric Learning with Angular Loss", ICCV 2017.
    """

    pml_hooks = ("set_stats",)
    needs_euclidean_distance = True
    example_arguments: ClassVar[Mapping[str, Any]] = {"angle": 27}

    def __init__(self, angle: float = 20, **kwargs: Unpack[MinerOptions]) -> None:
        super().__init__(**kwargs)
        check_number("angle", angle)
        self.angle = math.radians(angle)
        self.add_to_recordable_attributes(list_of_names=["angle"])
        self.add_to_recordable_attributes(
            list_of_names=[
                "average_angle",
                "average_angle_above_threshold",
                "average_angle_below_threshold",
                "min_angle",
                "max_angle",
                "std_of_angle",
            ],
            is_stat=True,
        )

    def mine(
        self, embeddings: Tensor, labels: Tensor | None, ref_emb: Tensor, ref_labels: Tensor | None
    ) -> Mined:
        pairs = self.pairs_of(embeddings, labels, ref_emb, ref_labels)

        def parts() -> Iterator[Part]:
            for some in _angles(pairs, embeddings, ref_emb):
                kept = (some.angles > self.angle).logical_and_(some.is_negative)
                yield Part((some.anchors, some.positives), kept)

        if self.collect_stats:
            self._set_stats(_angles(pairs, embeddings, ref_emb), pairs.device)
        whole = all_rows(pairs)
        if whole is not None:
            return self._of_kernels(whole, embeddings, ref_emb)
        return self.listed(pairs, parts, (2,))

    def instead_of_list(self) -> str:
        return "AngularLoss() has all triplets, whatever their angle, without a list"

    def _of_kernels(self, whole: AllRows, embeddings: Tensor, ref_emb: Tensor) -> Mined:
        """The same angles: where the distance of n from the centre is short enough."""
        dtype = accumulation_dtype(embeddings.dtype)
        others = ref_emb.to(dtype)

        def lines(i: Tensor, p: Tensor) -> tuple[Tensor, Window]:
            a, b = embeddings[i].to(dtype), others[p]
            window = _distances(row_norms(a - b), self.angle)
            return (a + b).div_(2), window

        with without_autocast(embeddings):
            return negatives_within(whole, lines, others, "euclidean", self.check_size)

    def _set_stats(self, angles: Iterator[_Angles], device: torch.device) -> None:
        above, below = _Moments(device), _Moments(device)
        for some in angles:
            is_above = some.angles > self.angle
            above.add(some.angles, is_above & some.is_negative)
            below.add(some.angles, ~is_above & some.is_negative)
        if above.number:
            self.average_angle_above_threshold = math.degrees(above.mean)
        if below.number:
            self.average_angle_below_threshold = math.degrees(below.mean)
        number = above.number + below.number
        if not number:
            return
        mean = (above.mean * above.number + below.mean * below.number) / number
        deviations = sum(x.squares_about(mean) for x in (above, below))
        self.average_angle = math.degrees(mean)
        self.min_angle = math.degrees(min(above.low, below.low))
        self.max_angle = math.degrees(max(above.high, below.high))
        self.std_of_angle = (
            math.degrees(math.sqrt(max(0.0, deviations) / (number - 1))) if number > 1 else math.nan
        )


class _Moments:
    """Number, mean, smallest and largest, and squared deviations of a stream of numbers."""

    def __init__(self, device: torch.device) -> None:
        self.number, self.low, self.high = 0, math.inf, -math.inf
        self._sums = torch.zeros(2, dtype=widest_dtype(device), device=device)

    def add(self, x: Tensor, mask: Tensor) -> None:
        counted = x[mask]
        if not len(counted):
            return
        self.number += len(counted)
        self.low = min(self.low, counted.amin().item())
        self.high = max(self.high, counted.amax().item())
        counted = counted.to(self._sums.dtype)
        self._sums += torch.stack([counted.sum(), counted.square().sum()])

    @property
    def mean(self) -> float:
        """Of the numbers, 0 of none."""
        return self._sums[0].item() / max(1, self.number)

    def squares_about(self, mean: float) -> float:
        """The sum of (x - mean)^2."""
        total, squares = self._sums.tolist()
        return squares - 2 * mean * total + self.number * mean**2


def _distances(lengths: Tensor, angle: float) -> Window:
    """The distances d from the centre with atan(length / (2 d)) > angle."""
    if angle <= 0:  # all, but of equal rows, whose angle is 0, and none at their centre
        of_equal = above(0.0, lengths) if angle < 0 else lengths.new_tensor(math.inf)
        return Window(low=torch.where(lengths > 0, -math.inf, of_equal))

    def is_kept(d: Tensor) -> Tensor:
        return torch.div(lengths, 2 * d).atan() > angle

    # halved until the two are neighbours: the formula for d is some roundings off, and near a right
    # angle very many numbers have one angle
    kept = torch.zeros_like(lengths)
    beyond = lengths / math.tan(angle)
    for _ in range(3 - round(math.log2(torch.finfo(lengths.dtype).eps))):
        middle = (kept + beyond) / 2
        is_it = is_kept(middle)
        kept, beyond = torch.where(is_it, middle, kept), torch.where(is_it, beyond, middle)
    return Window(high=kept.masked_fill(~is_kept(kept), math.nan))


def _angles(pairs: RowStrips, embeddings: Tensor, ref_emb: Tensor) -> Iterator[_Angles]:
    """The angles of all triplets, some positive pairs at a time."""
    dtype, problem = accumulation_dtype(embeddings.dtype), pairs.problem
    anchors, positives = positive_pairs(problem)
    labels = problem.anchor_labels
    others = labels if problem.reference_labels is None else problem.reference_labels
    with without_autocast(embeddings):
        wide = ref_emb.to(dtype)
        r = operand(wide, row_norms(wide), "euclidean")
    for i, p in zip(anchors.split(pairs.height), positives.split(pairs.height), strict=True):
        if not len(i):
            continue
        with without_autocast(embeddings):
            a, b = embeddings[i].to(dtype), wide[p]
            centers = (a + b).div_(2)
            c = operand(centers, row_norms(centers), "euclidean")
            out = c.new_empty(len(i), len(wide))
            distances = measured_block(c, r, "euclidean", out).mul_(2)
            angles = torch.div(row_norms(a - b)[:, None], distances, out=distances).atan_()
        yield _Angles(i, p, angles, ~alike(labels[i], others))
