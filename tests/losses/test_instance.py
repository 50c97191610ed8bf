"""What is the instance loss's own: each row's target is the row numbered by its label's rank."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from fusedml.distances import LpDistance
from fusedml.engine.labels import label_codes, label_ranks
from fusedml.errors import DistanceError
from fusedml.losses import InstanceLoss
from tests.losses.made import gradient, make_batch


@pytest.mark.usefixtures("whole_or_tiles")
def test_the_target_is_the_rank_of_the_label() -> None:
    embeddings, labels = make_batch()
    labels = 7 * (labels * 5 % 6) - 9
    unit = normalize(embeddings)
    targets = torch.tensor([sorted(set(labels.tolist())).index(label) for label in labels])
    expected = cross_entropy(8 * unit @ unit.T, targets)
    value, grad = gradient(InstanceLoss(gamma=8), embeddings, labels)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(grad, torch.autograd.grad(expected, embeddings)[0])


def test_ranks() -> None:
    labels = torch.tensor([0.5, -1, float("nan"), 0.5, -0.0, 0.0, float("nan")])
    ranks = label_ranks(label_codes(labels)).tolist()
    assert ranks[:2] + ranks[3:6] == [2, 0, 2, 1, 1]
    assert {ranks[2], ranks[6]} == {3, 4}  # a NaN equals nothing
    assert label_ranks(torch.zeros(0, dtype=torch.int64)).tolist() == []


def test_a_small_loss_is_exact() -> None:
    """A loss far below the rounding of logits about gamma."""
    embeddings = torch.eye(4)
    value = InstanceLoss(gamma=14)(embeddings, torch.arange(4))
    assert value.item() == pytest.approx(3 * torch.tensor(-14.0).double().exp().item(), rel=1e-5)


def test_what_it_does_not_take() -> None:
    embeddings, labels = make_batch()
    one = torch.tensor([0])
    with pytest.raises(ValueError, match="indices_tuple is not supported"):
        InstanceLoss()(embeddings, labels, (one, one + 6, one + 1))
    with pytest.raises(ValueError, match="ref_emb is not supported"):
        InstanceLoss()(embeddings, labels, None, embeddings + 1, labels)
    with pytest.raises(DistanceError, match="must be a CosineSimilarity for InstanceLoss, got Lp"):
        InstanceLoss(distance=LpDistance())


@pytest.mark.filterwarnings("error")
def test_one_row_is_no_batch_without_positives() -> None:
    embeddings, labels = make_batch(1)
    assert InstanceLoss()(embeddings, labels) == 0
