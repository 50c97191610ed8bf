"""Rows whose squares overflow, and rows too short to have a direction, in every loss.

Right values: the loss in float64 of rows that are normalised there, by a distance that does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fusedml import distances, functional, losses
from fusedml.reducers import MeanReducer
from tests.losses.made import (
    DIMENSION,
    NAMES,
    NUM_CLASSES,
    PAIR_LOSSES,
    ignores_length,
    make_loss,
    without_jumps,
)

LARGE = {torch.float16: 4e3, torch.bfloat16: 1e20, torch.float32: 1e20, torch.float64: 1e200}
LEAST_NORM = 1e-12
KINDS = ("self", "references", "tuple", "other distance")
CASES = [
    (name, kind)
    for name in NAMES
    for kind in KINDS
    if name in PAIR_LOSSES or kind not in ("references", "tuple")
]
# (n, m) on both sides of the 800 x 800 pairs that are held whole
SIZES = ((24, 30), (810, 812))

pytestmark = pytest.mark.filterwarnings("ignore:.*is not a distance that fusedml")


def norms_of(x: Tensor) -> Tensor:
    largest = x.detach().double().abs().amax(1, keepdim=True).clamp(min=1e-300)
    return (x.double() / largest).norm(dim=1, keepdim=True) * largest


def directions(x: Tensor) -> Tensor:
    """Unit rows of float64; 0 below the least norm, without the gradient of a norm there."""
    has_direction = norms_of(x.detach()) >= LEAST_NORM
    x = torch.where(has_direction, x, torch.ones_like(x))
    scaled = x / x.detach().abs().amax(1, keepdim=True)
    return scaled / scaled.norm(dim=1, keepdim=True) * has_direction


def make_rows(n: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Rows of moderate norm, large ones and ones without a direction."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, DIMENSION, generator=generator, dtype=torch.float64)
    x[1::3] *= LARGE[dtype]
    x[3] = 0
    x[6::9] *= 1e-14
    return x.to(dtype)


def arguments_of(kind: str, labels: Tensor, r: Tensor, r_labels: Tensor) -> tuple[Any, ...]:
    if kind == "tuple":
        matches = labels[:, None] == r_labels
        # of a large batch some of the rows: all of its triplets are 70 million
        is_listed = torch.arange(len(labels)) % max(1, len(labels) // 80) == 0
        lists = [(kind & is_listed[:, None]).nonzero(as_tuple=True) for kind in (matches, ~matches)]
        return None, (*lists[0], *lists[1]), r
    return (labels, None, r, r_labels) if kind == "references" else (labels,)


def distance_of(name: str, kind: str, is_prepared: bool) -> nn.Module:
    """The loss's default distance, or another; for rows that are prepared one that leaves them."""
    if kind == "other distance":
        return distances.LpDistance(power=3, normalize_embeddings=not is_prepared)
    default = make_loss(name).distance
    if not is_prepared or losses.LOSSES[name].required_distance is not None:
        return default  # which normalises them once more
    leaving = distances.DotProductSimilarity if default.is_inverted else distances.LpDistance
    return leaving(power=default.power, normalize_embeddings=False)


def run(
    name: str, kind: str, x: Tensor, r: Tensor, prepare: Callable[[Tensor], Tensor] | None = None
) -> list[Tensor]:
    """Value and gradients of x, r and proxies.  prepare: in place of the loss's normalisation."""
    labels, r_labels = (torch.arange(len(y)) % NUM_CLASSES for y in (x, r))
    leaves = [y.clone().requires_grad_() for y in (x, r)]
    rows = leaves if prepare is None else [prepare(y) for y in leaves]
    distance = distance_of(name, kind, prepare is not None)
    backend = "dense" if kind == "full matrix" and prepare is None else "auto"
    loss = make_loss(name, distance=distance, backend=backend, **without_jumps(name))
    if loss.weights_name:
        of_each = {loss.vectors_per_class_name: 4} if loss.vectors_per_class_name else {}
        vectors = rows[1][: NUM_CLASSES * 4 if of_each else NUM_CLASSES]
        weights = vectors.T if loss.weights_are_columns else vectors
        function = functional.FUNCTIONS[name]
        options = {"distance": loss.distance, "backend": backend}
        value = function(rows[0], labels, weights, **options, **of_each)
    else:
        value = loss(rows[0], *arguments_of(kind, labels, rows[1], r_labels))
    grads = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    return [value.detach(), *grads]


def check(name: str, kind: str, dtype: torch.dtype, size: tuple[int, int]) -> None:
    if not ignores_length(name):
        pytest.skip("the norms matter to this loss")
    x, r = (make_rows(k, dtype, seed) for seed, k in enumerate(size))
    value, *grads = run(name, kind, x, r)
    exact, *exact_grads = run(name, kind, x.double(), r.double(), directions)
    # unit rows are rounded by eps / 2 a component; the logits' largest slope is 64 (scale), that
    # of 32 d^3 (alpha) 32 * 3 * 2^2
    rounding = (400 if kind == "other distance" else 64) * torch.finfo(dtype).eps
    assert (value - exact).abs() <= rounding * (1 + exact)
    for rows, grad, exact_grad in zip((x, r), grads, exact_grads, strict=True):
        assert torch.isfinite(grad).all()
        norms = norms_of(rows)
        is_short = norms[:, 0] < LEAST_NORM
        assert is_short.any()
        assert not grad[is_short].any()
        # as gradients of unit rows, and as precise as the dtype's least number allows
        error = (grad.double() - exact_grad).abs() * norms
        least = torch.finfo(dtype).smallest_normal * norms
        largest = (exact_grad * norms).abs().max()
        assert (error <= rounding * (1 + largest) + least).all()


@pytest.mark.also_emulated
@pytest.mark.usefixtures("whole_or_tiles")
@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_rows_of_any_norm(name: str, kind: str, dtype: torch.dtype) -> None:
    check(name, kind, dtype, SIZES[0])


DTYPES = (torch.float32, torch.bfloat16, torch.float64)


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(name: str, kind: str, dtype: torch.dtype) -> None:
    check(name, kind, dtype, SIZES[0])


@pytest.mark.parametrize(
    ("name", "kind", "dtype"),
    [
        (name, kind, DTYPES[i % len(DTYPES)])
        for i, (name, kind) in enumerate(CASES)
        if (NAMES.index(name) + KINDS.index(kind)) % 2 == 0
    ],
)
def test_a_large_batch(name: str, kind: str, dtype: torch.dtype) -> None:
    check(name, kind, dtype, SIZES[1])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", LARGE)
def test_the_dense_formula(name: str, dtype: torch.dtype) -> None:
    check(name, "full matrix", dtype, SIZES[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_any_direction(name: str) -> None:
    if not ignores_length(name):
        pytest.skip("the norms matter to this loss")
    for dtype in LARGE:
        x = torch.zeros(24, DIMENSION, dtype=dtype, requires_grad=True)
        loss = make_loss(name).to(dtype)
        value = loss(x, torch.arange(24) % NUM_CLASSES)
        assert value.isfinite()
        assert not torch.autograd.grad(value, x)[0].any()


def test_a_large_row_measured_as_it_is() -> None:
    """A norm whose square overflows is no reason to call finite products NaN."""
    x = torch.randn(810, DIMENSION)
    x[5] *= 1e20
    r = torch.randn(900, DIMENSION) * 1e-20
    labels, r_labels = torch.arange(810) % 6, torch.arange(900) % 6
    distance = distances.DotProductSimilarity(normalize_embeddings=False)
    loss = losses.MultiSimilarityLoss(distance=distance)
    actual = loss(x, labels, None, r, r_labels)
    exact = loss(x.double(), labels, None, r.double(), r_labels)
    torch.testing.assert_close(actual, exact.float())


@pytest.mark.parametrize("zero_side", [None, 0, 1])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_distances_where_one_side_has_a_zero_row(zero_side, power: int, dtype) -> None:
    """It is at 1 from the unit rows of the other side, which are at 2 - 2 s from unit rows."""
    sides = [
        torch.randn(n, DIMENSION, generator=torch.Generator().manual_seed(n)) for n in (24, 30)
    ]
    if zero_side is not None:
        sides[zero_side][3] = 0
    x, r = (side.to(dtype).requires_grad_() for side in sides)
    labels, r_labels = torch.arange(24) % NUM_CLASSES, torch.arange(30) % NUM_CLASSES
    distance = distances.LpDistance(power=power)
    loss = losses.ContrastiveLoss(0.2, 1.4, distance=distance, reducer=MeanReducer())
    actual = loss(x, labels, None, r, r_labels)
    a, b = (directions(side.double()) for side in (x, r))
    # the rows of a half precision are rounded when they are unit rows
    a, b = (side + (side.detach().to(dtype) - side.detach()) for side in (a, b))
    squares = (a[:, None] - b).square().sum(2)
    d = squares if power == 2 else squares.sqrt()
    alike = labels[:, None] == r_labels
    exact = torch.relu(d - 0.2)[alike].mean() + torch.relu(1.4 - d)[~alike].mean()
    eps = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(actual.double(), exact.detach(), rtol=eps, atol=0)
    expected = torch.autograd.grad(exact, [x, r])
    torch.testing.assert_close(torch.autograd.grad(actual, [x, r]), expected, rtol=eps, atol=eps)
