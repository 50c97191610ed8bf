"""The pairs of a small problem, by kind, and what each weighs in a loss that is made of them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from fusedml.engine.pairs import PairProblem
from fusedml.engine.routes.distinct_pairs import PairIndices
from fusedml.engine.whole import SLOPES, Gradients, Needs
from fusedml.engine.whole_gathered import GatheredMeasures

_CODES = {torch.float32: "f", torch.float64: "d"}


class Kind(NamedTuple):
    """The measures of pairs of one kind, how often each counts, and where it is among all.

    weights, places: None for once, and for all.  of_pairs: what they weigh, where that is one part
    of what all do.
    """

    x: Tensor
    weights: Tensor | None
    places: Tensor | None = None
    of_pairs: Tensor | None = None

    def number(self) -> float:
        """Of the pairs, or of the times that they count."""
        return float(self.x.shape[0]) if self.weights is None else self.weights.sum().item()

    def split(self, sizes: list[int]) -> list[Kind]:
        """Its pairs in parts of these sizes."""
        none: list[None] = [None] * len(sizes)
        parts = (none if of is None else torch.split_with_sizes(of, sizes) for of in self)
        return [Kind._make(of_part) for of_part in zip(*parts, strict=True)]

    def total(self, numbers: Tensor) -> Tensor:
        """The numbers of the pairs, added up, 0-d."""
        if self.weights is None:
            return numbers.sum()
        return torch.dot(numbers.view(-1), self.weights.view(-1))


class WholeKinds(GatheredMeasures):
    """The positives and the negatives of a small problem, for ``AveragedLosses``.

    indices: the pairs, each as often as it is listed; None for all by label.
    keeps: whether a gradient is asked for.
    of_pairs: what the loss weighs each pair, SLOPES dL/dx; None for nothing yet.
    all_listed: the pairs of an index tuple, positives first.
    """

    of_pairs: Tensor | None
    all_listed: Kind
    is_weighed = False  # whether any pair weighs more than 0
    logit_grad: Tensor | None = None
    places: Tensor | None

    def __init__(
        self, problem: PairProblem, logit: Tensor, indices: PairIndices | None, keeps: bool
    ) -> None:
        super().__init__(problem, logit, indices)
        self.keeps = keeps

    def both_kinds(self, by_triplets: bool = False) -> list[Kind]:
        """Positives and negatives of the measures.

        by_triplets: a pair counts as often as its row has pairs of the other kind.
        """
        if self.indices is not None:
            self.load_listed(self.indices)
            return self.listed_kinds(self.indices, by_triplets)
        self.of_pairs, masks = None, self._masks()
        if by_triplets:
            masks.mul_(masks.sum(2).flip(0).unsqueeze(2))
        return [Kind(self.x, mask) for mask in masks.unbind()]

    def load_listed(self, indices: PairIndices) -> None:
        """The listed pairs of the measures."""
        x, places = self.listed_measures(indices)
        self.of_pairs = self.x.new_zeros(self.x.numel())
        self.all_listed = Kind(x, None, places, self.of_pairs if places is None else None)

    def listed_measures(self, indices: PairIndices) -> tuple[Tensor, Tensor | None]:
        """Those of the listed pairs, and where they are among all; None for one after the other."""
        x = self.x.view(-1)
        if self.gathers:
            return x, None
        rows, columns = indices.ends().chunk(2)
        places = torch.add(columns, rows, alpha=self.problem.shape[1])
        return x.index_select(0, places), places

    def listed_numbers(self, indices: PairIndices) -> list[float]:
        """``listed_measures`` in Python, for few; see ``weigh_each``."""
        x, self.places = self.listed_measures(indices)
        return x.tolist()

    def weigh_each(self, weights: list[float]) -> None:
        """weights: SLOPES dL/dx of each of the listed pairs, whose numbers are in Python."""
        self.is_weighed = True
        of_list = torch.frombuffer(self.as_measures(weights), dtype=self.x.dtype)
        if self.places is None:
            self.of_pairs = of_list
        else:
            self.of_pairs = self.x.new_zeros(self.x.numel()).index_add_(0, self.places, of_list)

    def as_measures(self, numbers: Iterable[float]) -> array[float]:
        """Numbers, rounded to the dtype of the measures."""
        return array(_CODES[self.x.dtype], numbers)

    def listed_kinds(self, indices: PairIndices, by_triplets: bool = False) -> list[Kind]:
        """Positives and negatives of the listed pairs, see ``both_kinds``."""
        rows, negative_rows = indices.positive_rows, indices.negative_rows
        kinds = self.all_listed.split([rows.shape[0], negative_rows.shape[0]])
        if not by_triplets:
            return kinds
        n, weighed = self.problem.shape[0], []
        of_both = (rows, negative_rows), (negative_rows, rows)
        for kind, (own, others) in zip(kinds, of_both, strict=True):
            counts = torch.bincount(others, minlength=n).to(self.x.dtype)
            weighed.append(kind._replace(weights=counts.index_select(0, own)))
        return weighed

    def weigh(self, slope: Tensor, kind: Kind, factor: float) -> None:
        """Adds factor slope, dL/dx of a kind's pairs, which is overwritten."""
        self.is_weighed = True
        factor *= SLOPES[self.measure]
        if kind.of_pairs is not None:
            kind.of_pairs.add_(slope, alpha=factor)
        elif self.of_pairs is None:
            self.of_pairs = slope.mul_(factor)
        elif kind.places is None:
            self.of_pairs.add_(slope, alpha=factor)
        else:
            self.of_pairs.index_add_(0, kind.places, slope, alpha=factor)

    def gradient(self, grad: Tensor | float, needs: Needs) -> Gradients:
        """grad: 1."""
        if not self.is_weighed:
            sides = zip((self.anchors, self.references), needs[:2], strict=True)
            grads = [torch.zeros_like(side.rows) if need else None for side, need in sides]
            return grads[0], grads[1], self.logit_grad, None
        weights = torch.zeros_like(self.x) if self.of_pairs is None else self.of_pairs
        return *self.gradients(weights.view_as(self.x), needs), self.logit_grad, None
