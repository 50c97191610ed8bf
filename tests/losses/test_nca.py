"""What is the neighbourhood components loss's own: its diagonal, its weights, its empty rows."""

from __future__ import annotations

import pytest
import torch

from fusedml import functional
from fusedml.losses import NCALoss
from fusedml.reducers import DoNothingReducer, SumReducer
from tests.losses.made import gradient, make_batch


def by_hand(embeddings, labels, references, ref_labels, without_diagonal, weights=None):
    x, y = (torch.nn.functional.normalize(side) for side in (embeddings, references))
    exp = torch.exp(-torch.cdist(x, y).square())
    if without_diagonal:
        exp = exp * (1 - torch.eye(*exp.shape, dtype=exp.dtype))
    share = (exp * (labels[:, None] == ref_labels)).sum(1) / exp.sum(1)
    kept = share > 0
    losses = -share[kept].log()
    return (losses if weights is None else losses * weights[kept]).mean()


@pytest.mark.usefixtures("whole_or_tiles")
@pytest.mark.parametrize("share", ["embeddings", "a view", "labels", "others"])
def test_the_diagonal_is_left_out_of_the_embeddings_alone(share: str) -> None:
    embeddings, labels = make_batch()
    others = make_batch(seed=1)[0].detach()
    ref_labels = torch.arange(20) % 7
    references = {"embeddings": embeddings, "a view": embeddings[:], "labels": others}
    given = references.get(share, others), labels if share == "labels" else ref_labels
    expected = by_hand(embeddings, labels, *given, share == "embeddings")
    value, grad = gradient(NCALoss(), embeddings, labels, None, *given)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(grad, torch.autograd.grad(expected, embeddings)[0])


def test_rows_without_positives_have_no_loss() -> None:
    embeddings, labels = make_batch()
    labels = torch.where(labels < 3, labels, torch.arange(20) + 10)
    losses = NCALoss(reducer=DoNothingReducer())(embeddings, labels)["loss"]
    assert torch.equal(losses["indices"], (labels < 3).nonzero().squeeze(1))
    torch.testing.assert_close(NCALoss()(embeddings, labels), losses["losses"].mean())
    total = NCALoss(reducer=SumReducer())(embeddings, labels)
    torch.testing.assert_close(total, losses["losses"].sum())
    single = functional.nca_loss(embeddings, labels, reduction="none")
    torch.testing.assert_close(single, losses["losses"])


def test_without_any_positive_it_is_zero() -> None:
    embeddings, _ = make_batch()
    value, grad = gradient(NCALoss(), embeddings, torch.arange(20))
    assert value == 0
    assert not grad.any()


@pytest.mark.parametrize("is_float64", [False, True])
@pytest.mark.parametrize("has_weights", [False, True])
def test_the_mean_and_its_gradient_are_those_of_the_single_losses(is_float64, has_weights) -> None:
    embeddings, labels = make_batch()
    x = embeddings.detach().to(torch.float64 if is_float64 else torch.float32).requires_grad_()
    labels = torch.where(labels < 3, labels, torch.arange(20) + 10)
    pairs = (torch.tensor([0, 1, 1, 4]), torch.tensor([1, 0, 2, 5]), torch.tensor([3, 8, 8, 9]))
    indices = pairs if has_weights else None
    losses = NCALoss(reducer=DoNothingReducer())(x, labels, indices)["loss"]["losses"]
    expected = torch.autograd.grad(losses.mean(), x)[0]
    value, grad = gradient(NCALoss(), x, labels, indices)
    torch.testing.assert_close(value, losses.mean().detach())
    torch.testing.assert_close(grad, expected)
    again = torch.autograd.grad(NCALoss()(x, labels, indices), x, create_graph=True)[0]
    slope = torch.autograd.grad(again.square().sum(), x)[0]
    single = NCALoss(reducer=DoNothingReducer())(x, labels, indices)["loss"]["losses"].mean()
    first = torch.autograd.grad(single, x, create_graph=True)[0]
    torch.testing.assert_close(slope, torch.autograd.grad(first.square().sum(), x)[0])


def test_labels_are_needed_beside_an_index_tuple() -> None:
    embeddings, _ = make_batch()
    one = torch.tensor([0])
    with pytest.raises(ValueError, match="labels are required"):
        NCALoss()(embeddings, None, (one, one + 6, one + 1))


def test_a_small_share_is_not_left_out() -> None:
    """-log of a probability that float32 rounds to 0."""
    x = torch.tensor([[1.0, 0], [0, 1], [1, 1e-3]])
    loss = NCALoss(softmax_scale=500)(x, torch.tensor([0, 0, 1]))
    assert loss > 400
