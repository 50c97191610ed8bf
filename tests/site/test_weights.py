"""The pair weights of the losses' pages are derivatives of the losses."""

from __future__ import annotations

import pytest
import torch

from benchmarks.cases import MEASURED
from fusedml import losses
from scripts.site.weights import all_pairs, batch_of, has_pair_weights, pair_weights, swept


def by_matrix(name: str, loss_of_matrix) -> None:
    """Compares with the derivative of a formula of the matrix of similarities."""
    batch = batch_of(name)
    n = batch.anchors
    rows, others = batch.rows[:n], batch.rows[n:] if len(batch.rows) > n else batch.rows
    matrix = (rows @ others.T).requires_grad_()
    (expected,) = torch.autograd.grad(loss_of_matrix(matrix, batch.labels), matrix)
    actual = pair_weights(name, batch)
    if len(batch.rows) > n:
        torch.testing.assert_close(actual[:n, n:], expected)
        return
    is_pair = ~torch.eye(n, dtype=torch.bool)
    torch.testing.assert_close(actual[is_pair], (expected + expected.T)[is_pair])


def test_of_two_sets() -> None:
    cross_entropy = torch.nn.functional.cross_entropy
    by_matrix("InfoNCELoss", lambda s, _: cross_entropy(s / 0.05, torch.arange(len(s))))


def test_of_a_batch_against_itself() -> None:
    def sup_con(s, labels):
        is_self = torch.eye(len(s), dtype=torch.bool)
        positive = (labels[:, None] == labels) & ~is_self
        z = (s / 0.1).masked_fill(is_self, -torch.inf)
        mean = torch.where(positive, s / 0.1, 0).sum(1) / positive.sum(1)
        losses = z.logsumexp(1) - mean
        return losses[losses > 0].mean()

    by_matrix("SupConLoss", sup_con)


def test_of_vectors_of_classes() -> None:
    def cos_face(s, labels):
        own = torch.nn.functional.one_hot(labels[: len(s)], s.shape[1]).double()
        return torch.nn.functional.cross_entropy(64 * (s - 0.35 * own), labels[: len(s)])

    by_matrix("CosFaceLoss", cos_face)


def test_a_loss_of_coordinates_has_none(monkeypatch) -> None:
    class SpreadLoss(losses.SupConLoss):
        def forward(self, embeddings, labels):
            return super().forward(embeddings, labels) + embeddings.var(0).sqrt().sum()

    assert has_pair_weights("SupConLoss")
    monkeypatch.setitem(MEASURED, "SpreadLoss", SpreadLoss)
    assert not has_pair_weights("SpreadLoss")
    with pytest.raises(ValueError, match="SpreadLoss must be a function of the rows' products"):
        all_pairs("SpreadLoss")


@pytest.mark.parametrize("name", MEASURED)
def test_every_loss_has_weights(name: str) -> None:
    if not has_pair_weights(name):
        pytest.skip(f"{name} sees more of the rows than their products")
    similarity, weight, is_positive = all_pairs(name)
    assert similarity.abs().max() < 1 and is_positive.any() and not is_positive.all()
    assert weight.isfinite().all() and weight.abs().max() > 1e-3
    angles = torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64)
    for kind in (True, False):
        at, moved = swept(name, kind, angles)
        torch.testing.assert_close(at, angles.cos())
        assert moved.isfinite().all()


def test_a_pair_moves_alone() -> None:
    batch = batch_of("SupConLoss")
    _, weights = swept(
        "SupConLoss", True, (batch.rows[0] @ batch.rows[batch.positive]).acos()[None]
    )
    expected = pair_weights("SupConLoss", batch)[0, batch.positive]
    torch.testing.assert_close(weights[0], expected)
