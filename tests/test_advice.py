"""What the losses say to calls that were meant otherwise; and that the advice is right."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

import fusedml
from fusedml.losses import LOSSES, NPairsLoss, SupConLoss
from tests.losses.made import DIMENSION, NAMES, PAIR_LOSSES, make_batch, make_loss

N = 12
X, Y = (x.detach() for x in make_batch(N))
OTHER = make_batch(N, seed=1)[0].detach()
EVERY = pytest.mark.parametrize("name", NAMES)


def message_of(error: type[Exception], name: str, *args: object, **kwargs: object) -> str:
    with pytest.raises(error) as raised:
        make_loss(name)(*args, **kwargs)
    return str(raised.value)


def as_told(message: str, pattern: str, **names: Tensor) -> list[Tensor]:
    """The tensors that the message says to write."""
    found = re.search(pattern, message)
    assert found, message
    return [eval(code, {"torch": torch}, names) for code in found.groups()]


@EVERY
@pytest.mark.parametrize("views", [1, 2, 3])
def test_views_as_a_third_dimension(name: str, views: int) -> None:
    features = torch.stack([X, OTHER, X + OTHER][:views], 1)
    message = message_of(ValueError, name, features, Y)
    assert "must be a 2D tensor of shape (batch_size, embedding_size), got shape" in message
    embeddings, labels = as_told(
        message,
        rf"for {views} views of each sample write (embeddings\S+ 1\)) and (labels\S+)",
        embeddings=features,
        labels=Y,
    )
    rows = [features[i, v] for i in range(N) for v in range(views)]
    assert torch.equal(embeddings, torch.stack(rows))
    assert labels.tolist() == [int(Y[i]) for i in range(N) for v in range(views)]


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_references_as_a_third_dimension(name: str) -> None:
    message = message_of(ValueError, name, X, Y, ref_emb=torch.stack([X, X], 1), ref_labels=Y)
    assert message.endswith("write ref_emb.flatten(0, 1) and ref_labels.repeat_interleave(2)")


def test_references_in_the_place_of_a_tuple() -> None:
    message = message_of(TypeError, "SupConLoss", X, Y, OTHER, Y)
    assert message.endswith("so write ref_emb=... and ref_labels=... by name")


@EVERY
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32])
def test_swapped(name: str, dtype: torch.dtype) -> None:
    message = message_of(TypeError, name, Y.to(dtype), X)
    assert message.startswith("embeddings and labels are swapped: embeddings is 1D of shape (12,)")
    if name in PAIR_LOSSES:
        message = message_of(TypeError, name, X, Y, ref_emb=Y.to(dtype), ref_labels=OTHER)
        assert message.startswith("ref_emb and ref_labels are swapped")


def test_swapped_statistics() -> None:
    with pytest.raises(TypeError, match="anchors and labels are swapped"):
        fusedml.pair_statistics(Y, X)


@EVERY
@pytest.mark.parametrize("way", ["as labels", "as references"])
def test_two_views_without_labels(name: str, way: str) -> None:
    arguments = {"labels": OTHER} if way == "as labels" else {"ref_emb": OTHER}
    embeddings, labels = as_told(
        message_of(ValueError, name, X, **arguments),
        r"write (torch.cat\(.*?\)) for the embeddings and (\S+) for their labels",
        view=X,
        other_view=OTHER,
    )
    assert torch.equal(embeddings, torch.cat([X, OTHER]))
    assert labels.tolist() == [*range(N), *range(N)]


def test_two_views_as_told_are_the_loss_of_two_views() -> None:
    """N-pair: each sample's first view is the anchor, its second the positive."""
    logit = torch.nn.functional.normalize(X) @ torch.nn.functional.normalize(OTHER).T
    expected = torch.nn.functional.cross_entropy(logit, torch.arange(N))
    actual = NPairsLoss()(torch.cat([X, OTHER]), torch.arange(N).repeat(2))
    torch.testing.assert_close(actual, expected)


@EVERY
def test_labels_of_two_dimensions(name: str) -> None:
    one_hot = torch.nn.functional.one_hot(Y, 6)
    one_of_them = [] if LOSSES[name].takes_label_sets else [one_hot, one_hot.double()]
    for wrong in (Y[:, None], *one_of_them):
        (labels,) = as_told(
            message_of(ValueError, name, X, wrong), r"write (labels\S+)", labels=wrong
        )
        assert torch.equal(labels, Y)


def test_no_advice_without_a_reason() -> None:
    for arguments in ((X[0], Y), (X, Y[:5]), (X, Y[:, None, None]), (X, None)):
        assert "write" not in message_of(ValueError, "SupConLoss", *arguments)
    with pytest.raises(ValueError, match=r"cannot both be None$"):
        SupConLoss()(X, ref_emb=torch.zeros(3, DIMENSION, dtype=X.dtype))


@EVERY
def test_lists(name: str) -> None:
    assert message_of(TypeError, name, X.tolist(), Y).endswith("write torch.as_tensor(embeddings)")
    assert message_of(TypeError, name, X, Y.tolist()).endswith("write torch.as_tensor(labels)")
    assert message_of(TypeError, name, X.numpy(), Y).endswith("write torch.as_tensor(embeddings)")
