"""Blocks of rows give what the fused route gives, however the rows are cut."""

from __future__ import annotations

import pytest
import torch

from fusedml import distances, reducers
from fusedml.engine.routes import blocks, choice
from fusedml.losses import LOSSES, MultiSimilarityLoss
from tests.losses.made import NAMES, PAIR_LOSSES, make_batch, make_loss, require_tuples

pytestmark = pytest.mark.filterwarnings("ignore:.*not a distance that fusedml")


class Cosine(distances.CosineSimilarity):
    """A type that is not recognised."""


class Euclidean(distances.LpDistance):
    """A type that is not recognised."""


TWINS = ((distances.CosineSimilarity(), Cosine()), (distances.LpDistance(), Euclidean()))


@pytest.fixture(params=[1, 50, 1 << 17])
def _block_elements(request, monkeypatch):
    """One row at a time, two or three rows, one block."""
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", request.param)


def results(name: str, distance, batch, inputs, **arguments):
    torch.manual_seed(0)
    loss = make_loss(name, distance=distance, **arguments).double()
    value = loss(*batch)
    return [value, *torch.autograd.grad(value, [*inputs, *loss.parameters()])]


@pytest.mark.usefixtures("_block_elements")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("twins", TWINS, ids=["cosine", "euclidean"])
def test_labels(name: str, twins) -> None:
    embeddings, labels = make_batch(21)
    fused, blocked = (results(name, d, (embeddings, labels), [embeddings]) for d in twins)
    torch.testing.assert_close(blocked, fused, rtol=1e-6, atol=1e-7)


@pytest.mark.usefixtures("_block_elements")
@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_references(name: str) -> None:
    embeddings, labels = make_batch(21)
    references, ref_labels = make_batch(17, seed=1)
    batch = (embeddings, labels, None, references, ref_labels)
    fused, blocked = (results(name, d, batch, [embeddings, references]) for d in TWINS[0])
    torch.testing.assert_close(blocked, fused)
    batch = (embeddings, labels, None, embeddings + 1, labels)
    fused, blocked = (results(name, d, batch, [embeddings]) for d in TWINS[0])
    torch.testing.assert_close(blocked, fused)


@pytest.mark.usefixtures("_block_elements")
@pytest.mark.parametrize("name", NAMES)
def test_tuples(name: str) -> None:
    require_tuples(LOSSES[name])
    embeddings, labels = make_batch(21)
    i, j = torch.where(~torch.eye(21, dtype=torch.bool))
    same = labels[i] == labels[j]
    mixed = torch.randperm(same.sum())
    pairs = (i[same][mixed], j[same][mixed], i[~same][::3], j[~same][::3])
    batch = (embeddings, labels, pairs)
    fused, blocked = (results(name, d, batch, [embeddings]) for d in TWINS[0])
    torch.testing.assert_close(blocked, fused)


@pytest.mark.usefixtures("_block_elements")
@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_single_losses(name: str) -> None:
    embeddings, labels = make_batch(21)
    batch = (embeddings, labels)
    fused, blocked = (
        results(name, d, batch, [embeddings], reducer=reducers.AvgNonZeroReducer())
        for d in TWINS[0]
    )
    torch.testing.assert_close(blocked, fused)


@pytest.mark.usefixtures("_block_elements")
def test_mining() -> None:
    batch = make_batch(21)
    fused, blocked = (
        results("MultiSimilarityLoss", d, batch, batch[:1], mining_epsilon=0.2) for d in TWINS[0]
    )
    torch.testing.assert_close(blocked, fused)


def test_no_gradient_is_recorded_without_need() -> None:
    embeddings, labels = make_batch()
    with torch.no_grad():
        assert not MultiSimilarityLoss(distance=Cosine())(embeddings, labels).requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_float32_statistics(dtype: torch.dtype) -> None:
    embeddings, labels = make_batch(dtype=dtype)
    value = MultiSimilarityLoss(distance=Cosine())(embeddings, labels)
    assert value.dtype == dtype
    exact = MultiSimilarityLoss()(embeddings.double(), labels)
    assert value.item() == pytest.approx(exact.item(), rel=0.05)
    with torch.autocast("cpu", dtype=dtype):
        value = MultiSimilarityLoss(distance=Cosine())(embeddings.float(), labels)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=0.05)


@pytest.mark.filterwarnings("always")
def test_one_warning_for_a_loss_and_a_distance() -> None:
    choice._WARNED.clear()
    loss = MultiSimilarityLoss(distance=Cosine())
    with pytest.warns(UserWarning, match="MultiSimilarityLoss: Cosine .* blocks of rows") as record:
        loss(*make_batch())
        loss(*make_batch())
    assert len(record) == 1
