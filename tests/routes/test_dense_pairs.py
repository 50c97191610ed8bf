"""backend="dense": the same losses on the full matrix, with derivatives of any order."""

from __future__ import annotations

import pytest
import torch

from fusedml import dense, distances
from tests.losses.made import NAMES, PAIR_LOSSES, gradient, make_batch, make_loss

# not fused
SQUARES = distances.DotProductSimilarity(power=2)


def both(name: str, **arguments):
    ours = make_loss(name, **arguments).double()
    dense = make_loss(name, backend="dense", **arguments).double()
    dense.load_state_dict(ours.state_dict())
    return ours, dense


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [0, 1, 23, 801])  # the last: more than are computed whole
def test_labels(name: str, n: int) -> None:
    ours, dense = both(name)
    embeddings, labels = make_batch(n)
    if n > 800 and ours.weights_name is None:  # eight rows to a class, as triplets are listed
        labels = torch.arange(n) % 100
    torch.testing.assert_close(
        gradient(dense, embeddings, labels), gradient(ours, embeddings, labels)
    )


@pytest.mark.parametrize("name", PAIR_LOSSES)
@pytest.mark.parametrize(
    "distance",
    [
        distances.DotProductSimilarity(normalize_embeddings=False),
        distances.LpDistance(power=2),
        distances.LpDistance(power=3),
    ],
)
@pytest.mark.filterwarnings("ignore:.*not a distance that fusedml")
def test_distances_references_and_tuples(name: str, distance) -> None:
    ours, dense = both(name, distance=distance)
    embeddings, labels = make_batch(23)
    embeddings = (embeddings * 0.3).detach().requires_grad_()
    others = (None, make_batch(31, seed=1)[0] * 0.3, torch.arange(31) % 5)
    i, j = torch.where(~torch.eye(23, dtype=torch.bool))
    same = labels[i] == labels[j]
    pairs = (i[same], j[same], i[~same], j[~same])
    for arguments in ((labels,), (labels, *others), (None, pairs)):
        torch.testing.assert_close(
            gradient(dense, embeddings, *arguments), gradient(ours, embeddings, *arguments)
        )


@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives(name: str) -> None:
    _, dense = both(name)
    if not dense.gradient_is_derivative:
        pytest.skip("the backward has constants, and so has its own")
    embeddings, labels = make_batch(9)
    torch.autograd.gradgradcheck(lambda x: dense(x, labels % 3), embeddings, fast_mode=True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype(name: str, dtype: torch.dtype) -> None:
    _, dense = both(name)
    embeddings, labels = make_batch(dtype=dtype)
    value, grad = gradient(dense, embeddings, labels)
    assert value.dtype == grad.dtype == dtype


@pytest.mark.filterwarnings("ignore:.*not a distance that fusedml")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["labels", "another distance", "second derivatives"])
def test_no_other_backend_computes_with_it(name: str, kind: str, monkeypatch) -> None:
    """The formula that all else is compared with is its own."""
    arguments = {"distance": SQUARES} if kind == "another distance" else {}
    loss, (x, labels) = make_loss(name, **arguments), make_batch()
    for function in vars(dense).copy():
        if callable(getattr(dense, function)) and function.islower():
            monkeypatch.setattr(dense, function, None)
    is_second = kind == "second derivatives" and loss.has_second_derivative
    (grad,) = torch.autograd.grad(loss(x, labels), x, create_graph=is_second)
    if is_second:
        (grad,) = torch.autograd.grad(grad.square().sum(), x)
    assert grad.isfinite().all()
