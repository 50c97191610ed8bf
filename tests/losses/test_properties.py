"""Symmetries that every loss has, on random batches of random shapes."""

from __future__ import annotations

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fusedml.distances import LpDistance, fused_measure
from fusedml.losses import LOSSES
from tests.losses.made import PAIR_LOSSES, gradient, ignores_length

CLASSES = 5
EXAMPLES = settings(max_examples=12, deadline=None)


@st.composite
def batches(draw: st.DrawFn) -> tuple[str, Tensor, Tensor]:
    """A loss, embeddings and labels in [0, CLASSES)."""
    name = draw(st.sampled_from(sorted(LOSSES)))
    labels = draw(st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=40))
    d = draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    embeddings = torch.randn(len(labels), d, generator=generator, dtype=torch.float64)
    return name, embeddings.requires_grad_(), torch.tensor(labels)


def make(name: str, d: int):
    torch.manual_seed(0)
    return LOSSES[name].of_sizes(CLASSES, d).double()


def change_weights(loss, change) -> None:
    """Applies ``change`` to the vectors of the classes, [classes, d], where the loss has some."""
    if loss.weights_name:
        weights = getattr(loss, loss.weights_name)
        rows = weights.data.T if loss.weights_are_columns else weights.data
        rows.copy_(change(rows.clone()))


@EXAMPLES
@given(batches(), st.randoms())
def test_order_of_the_batch(batch, random) -> None:
    """A loss that takes the first two of a class sees the same order within classes."""
    name, embeddings, labels = batch
    if not LOSSES[name].pairs_equal_labels:
        return
    order = list(range(len(labels)))
    if LOSSES[name].members_per_class:
        classes = list(range(CLASSES))
        random.shuffle(classes)
        order.sort(key=lambda i: classes[labels[i]])
    else:
        random.shuffle(order)
    order = torch.tensor(order)
    loss = make(name, embeddings.shape[1])
    value, grad = gradient(loss, embeddings, labels)
    shuffled = embeddings.detach()[order].requires_grad_()
    other_value, other_grad = gradient(loss, shuffled, labels[order])
    torch.testing.assert_close(other_value, value, rtol=1e-9, atol=1e-9)
    # the slope of a Euclidean distance is that of the square root: unbounded for near points
    torch.testing.assert_close(other_grad, grad[order], rtol=1e-5, atol=1e-6)


@EXAMPLES
@given(batches(), st.permutations(range(CLASSES)))
def test_names_of_the_classes(batch, names) -> None:
    name, embeddings, labels = batch
    if not LOSSES[name].pairs_equal_labels:
        return
    loss = make(name, embeddings.shape[1])
    value, grad = gradient(loss, embeddings, labels)
    renamed = torch.tensor(names)[labels]
    if loss.weights_name:
        order = torch.argsort(torch.tensor(names))
        change_weights(loss, lambda x: x.unflatten(0, (CLASSES, -1))[order].flatten(0, 1))
    else:
        renamed = 10**9 * renamed - 3
    other_value, other_grad = gradient(loss, embeddings, renamed)
    torch.testing.assert_close(other_value, value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(other_grad, grad, rtol=1e-5, atol=1e-6)


@EXAMPLES
@given(batches(), st.floats(1e-3, 1e3))
def test_length_of_the_embeddings(batch, factor) -> None:
    """Of a loss that normalises the value stays, and the gradient shrinks by the factor."""
    name, embeddings, labels = batch
    assume(ignores_length(name))
    loss = make(name, embeddings.shape[1])
    value, grad = gradient(loss, embeddings, labels)
    scaled = (embeddings.detach() * factor).requires_grad_()
    other_value, other_grad = gradient(loss, scaled, labels)
    torch.testing.assert_close(other_value, value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(other_grad * factor, grad, rtol=1e-5, atol=1e-6)


def random_rotation(d: int, keeps_means: bool) -> Tensor:
    """Orthogonal, [d, d]; ``keeps_means``: and keeps (1, ..., 1)."""
    rotation = torch.linalg.qr(torch.randn(d, d).double())[0]
    if not keeps_means:
        return rotation
    of_means = torch.cat([torch.ones(d, 1), torch.randn(d, d - 1)], 1).double()
    basis = torch.linalg.qr(of_means)[0]
    turned = torch.eye(d).double()
    turned[1:, 1:] = torch.linalg.qr(torch.randn(d - 1, d - 1).double())[0]
    return basis @ turned @ basis.T


@EXAMPLES
@given(batches())
def test_rotations(batch) -> None:
    name, embeddings, labels = batch
    loss = make(name, embeddings.shape[1])
    value, _ = gradient(loss, embeddings, labels)
    # products of the rows do not change; other measures look at the means of their entries
    rotation = random_rotation(embeddings.shape[1], fused_measure(loss.distance) is None)
    change_weights(loss, lambda rows: rows @ rotation)
    rotated = (embeddings.detach() @ rotation).requires_grad_()
    torch.testing.assert_close(gradient(loss, rotated, labels)[0], value, rtol=1e-8, atol=1e-8)


@EXAMPLES
@given(batches())
def test_labels_and_the_list_of_their_pairs(batch) -> None:
    name, embeddings, labels = batch
    if name not in PAIR_LOSSES:
        return
    is_of_any = LOSSES[name].required_distance is None
    distance = LpDistance(power=2, normalize_embeddings=False) if is_of_any else None
    loss = LOSSES[name](distance=distance)
    i, j = torch.where(~torch.eye(len(labels), dtype=torch.bool))
    same = labels[i] == labels[j]
    pairs = (i[same], j[same], i[~same], j[~same])
    for a, b in zip(
        gradient(loss, embeddings, labels),
        gradient(loss, embeddings, None, pairs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)
