"""Similarities and distances, with pytorch-metric-learning's names and constructor arguments.

Calling one gives the whole matrix, [n, m].  The losses do not: they recognise the distances below,
and pytorch-metric-learning's own objects of the same types, and measure the pairs tile by tile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from fusedml.engine.arguments import (
    check_flag,
    check_number,
    check_object,
    shown_arguments,
    unexpected_keyword,
)
from fusedml.engine.foreign import (
    PML,
    has_own,
    index_of_definition,
    is_a,
    missing_name,
    qualified_name,
)
from fusedml.engine.pairs import accumulation_dtype
from fusedml.engine.precision import LEAST_NORM, normalized, row_norms

if TYPE_CHECKING:
    from typing_extensions import Unpack


class CosineOptions(TypedDict, total=False):
    """Keyword arguments of every distance, see :class:`BaseDistance`."""

    p: float
    power: float
    collect_stats: bool | None


class SimilarityOptions(CosineOptions, total=False):
    """Of one that need not be of rows of length 1."""

    normalize_embeddings: bool


class DistanceOptions(SimilarityOptions, total=False):
    """Of one that may be a similarity."""

    is_inverted: bool


class BaseDistance(nn.Module):
    """A matrix of similarities or distances between two sets of embeddings.

    Subclasses implement ``compute_mat``.  The losses compute a distance they do not know in blocks
    of rows, so row i of the matrix must depend on embedding i and on the references only.

    Args:
        normalize_embeddings: whether rows are divided by their p-norm first, see ``normalize``.
        p: of the norm.
        power: exponent applied to the matrix.
        is_inverted: True for similarities (larger means more alike), False for distances.
        collect_stats: keep the mean norms of the last call as ``initial_avg_query_norm``,
            ``initial_avg_ref_norm``, ``final_avg_query_norm`` and ``final_avg_ref_norm``.
    """

    def __init__(
        self,
        normalize_embeddings: bool = True,
        p: float = 2,
        power: float = 1,
        is_inverted: bool = False,
        collect_stats: bool | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            raise unexpected_keyword(type(self), next(iter(unknown)))
        check_number("p", p)
        check_number("power", power)
        self.normalize_embeddings = check_flag("normalize_embeddings", normalize_embeddings)
        self.p = p
        self.power = power
        self.is_inverted = check_flag("is_inverted", is_inverted)
        self.collect_stats = check_flag("collect_stats", collect_stats)

    def forward(self, query_emb: Tensor, ref_emb: Tensor | None = None) -> Tensor:
        """The matrix between queries [n, d] and references [m, d]; references default to queries.

        Raises ValueError if an argument is not 2-D.
        """
        for x in (query_emb, ref_emb):
            if x is not None and x.ndim != 2:
                raise ValueError(
                    "embeddings must be a 2D tensor of shape (batch_size, embedding_size), "
                    f"got shape {tuple(x.shape)}"
                )
        query = self.maybe_normalize(query_emb)
        ref = query if ref_emb is None else self.maybe_normalize(ref_emb)
        if self.collect_stats:
            self._collect(query_emb, query_emb if ref_emb is None else ref_emb, query, ref)
        mat = self.compute_mat(query, ref)
        return mat if self.power == 1 else mat**self.power

    def extra_repr(self) -> str:
        """What is not as in BaseDistance, as ``print(module)`` shows it."""
        return shown_arguments(self)

    def compute_mat(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        """The matrix before ``power``, from embeddings that are normalised already."""
        raise NotImplementedError

    def pairwise_distance(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        """The distances of row k to row k, [n], before ``power``; nothing is normalised."""
        raise NotImplementedError

    def smallest_dist(self, *args: Any, **kwargs: Any) -> Any:
        """torch.min, or torch.max for a similarity: what is most alike."""
        return torch.max(*args, **kwargs) if self.is_inverted else torch.min(*args, **kwargs)

    def largest_dist(self, *args: Any, **kwargs: Any) -> Any:
        """torch.max, or torch.min for a similarity: what is least alike."""
        return torch.min(*args, **kwargs) if self.is_inverted else torch.max(*args, **kwargs)

    def margin(self, x: Any, y: Any) -> Any:
        """x - y, or y - x for a similarity."""
        return y - x if self.is_inverted else x - y

    def normalize(self, embeddings: Tensor, dim: int = 1, eps: float = LEAST_NORM) -> Tensor:
        """Embeddings divided by their p-norm, whatever its size; half precision in float32.

        A row whose norm is below ``eps`` has no direction: it becomes 0 and has gradient 0.
        pytorch-metric-learning divides it by ``eps``, which multiplies its gradient by 1e12.
        """
        x = embeddings.to(accumulation_dtype(embeddings.dtype))
        return normalized(x, self.p, dim, eps)[0].to(embeddings.dtype)

    def maybe_normalize(self, embeddings: Tensor, dim: int = 1, **kwargs: Any) -> Tensor:
        """``normalize`` if ``normalize_embeddings``."""
        if self.normalize_embeddings:
            return self.normalize(embeddings, dim=dim, **kwargs)
        return embeddings

    def get_norm(self, embeddings: Tensor, dim: int = 1, keepdim: bool = False) -> Tensor:
        """The p-norms of the rows."""
        return row_norms(embeddings, self.p, dim, keepdim)

    @torch.no_grad()
    def _collect(self, query: Tensor, ref: Tensor, final_query: Tensor, final_ref: Tensor) -> None:
        self.initial_avg_query_norm = self.get_norm(query).mean().item()
        self.initial_avg_ref_norm = self.get_norm(ref).mean().item()
        self.final_avg_query_norm = self.get_norm(final_query).mean().item()
        self.final_avg_ref_norm = self.get_norm(final_ref).mean().item()


class LpDistance(BaseDistance):
    """|x_i - y_j|_p ** power, of L2-normalised (p = 2) rows by default.

    Fused for p = 2 and power 1 or 2.
    """

    def __init__(self, **kwargs: Unpack[DistanceOptions]) -> None:
        super().__init__(**kwargs)
        if self.is_inverted:
            raise ValueError("is_inverted must be False for LpDistance, got True")

    def compute_mat(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        # torch.cdist has no half-precision kernels
        dtype = accumulation_dtype(query_emb.dtype)
        return torch.cdist(query_emb.to(dtype), ref_emb.to(dtype), p=self.p).to(query_emb.dtype)

    def pairwise_distance(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        return torch.nn.functional.pairwise_distance(query_emb, ref_emb, p=self.p)


class DotProductSimilarity(BaseDistance):
    """<x_i, y_j>; rows are normalised unless ``normalize_embeddings=False``."""

    def __init__(self, **kwargs: Unpack[SimilarityOptions]) -> None:
        super().__init__(is_inverted=True, **kwargs)

    def compute_mat(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        return query_emb @ ref_emb.T

    def pairwise_distance(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        return (query_emb * ref_emb).sum(1)


class CosineSimilarity(DotProductSimilarity):
    """<x_i, y_j> / (|x_i| |y_j|)."""

    def __init__(self, **kwargs: Unpack[CosineOptions]) -> None:
        super().__init__(normalize_embeddings=True, **kwargs)


_LEAST_SIGNAL = LEAST_NORM**2


def _or_infinite(signal: Tensor) -> Tensor:
    """inf in the place of no signal."""
    return torch.where(signal > _LEAST_SIGNAL, signal, torch.inf)


class SNRDistance(BaseDistance):
    """var(x_i - y_j) / var(x_i), var the variance over the entries of a row; not symmetric.

    Rows are normalised first unless ``normalize_embeddings=False``.  A row x_i without variance has
    no signal: its distance from all is 1, and has no gradient (pytorch-metric-learning's is inf or
    NaN).
    """

    def __init__(self, **kwargs: Unpack[DistanceOptions]) -> None:
        super().__init__(**kwargs)
        if self.is_inverted:
            raise ValueError("is_inverted must be False for SNRDistance, got True")

    @classmethod
    def twin_of(cls, distance: nn.Module) -> SNRDistance | None:
        """The distance of this class that an object computes, ours or
        pytorch-metric-learning's; None if it is a subclass, or has another power.
        """
        if _exact_name(distance) not in _SNR_DISTANCES or distance.power != 1:
            return None
        given: Any = distance
        return cls(normalize_embeddings=bool(given.normalize_embeddings), p=given.p)

    def compute_mat(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        query, ref = (x - x.mean(1, keepdim=True) for x in (query_emb, ref_emb))
        signal = _or_infinite(query.square().sum(1, keepdim=True))
        return (1 + ref.square().sum(1) / signal - 2 * (query / signal) @ ref.T).clamp(min=0)

    def pairwise_distance(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        given = query_emb, query_emb - ref_emb
        signal, noise = ((x - x.mean(1, keepdim=True)).square().sum(1) for x in given)
        distance = noise / _or_infinite(signal)
        return torch.where(signal > _LEAST_SIGNAL, distance, 1)

    def of_pairs(self, query_emb: Tensor, ref_emb: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """The distances of the pairs (i[k], j[k]), in float32 or float64."""
        dtype = accumulation_dtype(query_emb.dtype)
        query, ref = query_emb.index_select(0, i), ref_emb.index_select(0, j)
        sides = (self.maybe_normalize(x.to(dtype)) for x in (query, ref))
        return self.pairwise_distance(*sides)

    def operands(
        self, query_emb: Tensor, ref_emb: Tensor | None = None, in_parts: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Rows [n, d + 2] and [m, d + 2], in float32 or float64, whose dot products are the
        distances: of x and y without their means (-2 x / |x|^2, 1 / |x|^2, 1) and (y, |y|^2, 1).

        in_parts: of float32, [n, d + 7] and [m, d + 7], for products of numbers rounded to 8 bits
        or more: the lengths, which nearly cancel with the rest, are sums of numbers that are exact
        then.
        """
        dtype = accumulation_dtype(query_emb.dtype)
        given = (query_emb,) if ref_emb is None else (query_emb, ref_emb)
        rows = [self.maybe_normalize(x.to(dtype)) for x in given]
        rows = [x - x.mean(1, keepdim=True) for x in rows]
        lengths = [x.square().sum(1, keepdim=True) for x in rows]
        ones = [torch.ones_like(x) for x in lengths]
        query, signal = rows[0], _or_infinite(lengths[0])
        products = [(1 / signal, lengths[-1])]
        if in_parts and dtype == torch.float32:
            a, b = (_parts(x) for x in products[0])
            # what is left out is 2^-24 of the product
            products = [(a[i], b[j]) for i in range(3) for j in range(3 - i)]
        of_query, of_ref = zip(*products, strict=True)
        return (
            torch.cat([-2 * query / signal, *of_query, ones[0]], 1),
            torch.cat([rows[-1], *of_ref, ones[-1]], 1),
        )


def _parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Three numbers of 8 bits whose sum is x in float32; the first has its gradient."""
    with torch.no_grad():
        first = x.bfloat16().to(x.dtype)
        second = (x - first).bfloat16().to(x.dtype)
        rest = x - first - second
    return x + (first - x).detach(), second, rest


def check_distance(distance: Any) -> None:
    """Raises TypeError unless it is a distance: an object that says what its numbers mean.

    Nor may it have a ``margin`` of its own: pytorch-metric-learning's losses ask it for the
    difference of two measures, which is theirs with the sign of ``is_inverted`` here.
    """
    check_object("distance", distance, (CosineSimilarity, DotProductSimilarity, LpDistance))
    sign_of(distance)
    if not is_a(distance, "distances", "BaseDistance"):
        return
    cls = type(distance)
    defined = cls.__mro__[index_of_definition(cls, "margin")].__module__
    if not defined.startswith(("fusedml.", f"{PML}.")) or has_own(distance, "margin"):
        raise TypeError(
            f"distance must not override margin, which is never called here, got {cls.__name__}: "
            "override compute_mat, or take pytorch-metric-learning's loss"
        )


class Measure(NamedTuple):
    """How the tiles measure a pair.

    name: "dot", "euclidean" or "squared_euclidean", see ``fusedml.engine.pairs``.
    normalize: whether embeddings are L2-normalised first.
    sign: +1 for a similarity, -1 for a distance.
    """

    name: str
    normalize: bool
    sign: float


_THEIRS = f"{PML}.distances"
_DOT_PRODUCTS = frozenset(
    {
        f"{__name__}.DotProductSimilarity",
        f"{__name__}.CosineSimilarity",
        f"{_THEIRS}.dot_product_similarity.DotProductSimilarity",
        f"{_THEIRS}.cosine_similarity.CosineSimilarity",
    }
)
_SNR_DISTANCES = frozenset({f"{__name__}.SNRDistance", f"{_THEIRS}.snr_distance.SNRDistance"})
_LP_DISTANCES = frozenset({f"{__name__}.LpDistance", f"{_THEIRS}.lp_distance.LpDistance"})


def _exact_name(distance: nn.Module) -> str | None:
    """``qualified_name``; None of an object with a method of its own."""
    return None if has_own(distance, "compute_mat", "forward") else qualified_name(distance)


def fused_measure(distance: nn.Module) -> Measure | None:
    """The measure of a distance the tiles can compute, else None.

    Only the exact types are recognised: a subclass, or a method of the object's own, may compute
    anything.
    """
    name = _exact_name(distance)
    if name in _DOT_PRODUCTS:
        if distance.power == 1 and (distance.p == 2 or not distance.normalize_embeddings):
            return Measure("dot", bool(distance.normalize_embeddings), 1.0)
    elif name in _LP_DISTANCES and distance.p == 2:
        if distance.power == 1:
            return Measure("euclidean", bool(distance.normalize_embeddings), -1.0)
        if distance.power == 2:
            return Measure("squared_euclidean", bool(distance.normalize_embeddings), -1.0)
    return None


def sign_of(distance: nn.Module) -> float:
    """+1 for a similarity, -1 for a distance.

    Raises TypeError if the object does not say which it is.
    """
    is_inverted = getattr(distance, "is_inverted", None)
    if is_inverted is None:
        raise TypeError(
            "distance must have an attribute is_inverted (True for similarities, False for "
            f"distances), as every BaseDistance has; got {type(distance).__name__} without it"
        )
    return 1.0 if is_inverted else -1.0


if not TYPE_CHECKING:  # which would take any name, else

    def __getattr__(name: str) -> Any:
        known = (
            *("BaseDistance", "LpDistance", "DotProductSimilarity", "CosineSimilarity"),
            "SNRDistance",
        )
        raise missing_name(__name__, name, known)
