"""Proxy-Anchor: parameter, logits, divisors, weights of an index tuple."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import reducers as pml_reducers

from fusedml import distances, reducers
from fusedml.engine import kept
from fusedml.engine.routes import blocks, proxies
from fusedml.engine.routes.proxies import num_classes_present
from fusedml.functional import proxy_anchor_loss
from fusedml.losses import ProxyAnchorLoss
from tests.losses.made import make_batch
from tests.losses.points import LABELS, POINTS, on_circle


def make(num_classes: int = 6, **arguments) -> ProxyAnchorLoss:
    return ProxyAnchorLoss(num_classes, 8, **arguments)


def test_divisors() -> None:
    """Positive term over the classes present, negative term over all."""
    loss = ProxyAnchorLoss(5, 2).double()
    loss.proxies.data = on_circle(0, 45, 90, 135, 180)
    s = torch.nn.functional.normalize(POINTS) @ loss.proxies.detach().T
    positive = LABELS[:, None] == torch.arange(5)
    exp_positive = torch.where(positive, torch.exp(-32 * (s - 0.1)), 0).sum(0)
    exp_negative = torch.where(positive, 0, torch.exp(32 * (s + 0.1))).sum(0)
    expected = torch.log1p(exp_positive).sum() / 3 + torch.log1p(exp_negative).sum() / 5
    torch.testing.assert_close(loss(POINTS, LABELS).detach(), expected)


@pytest.mark.parametrize("package", [reducers, pml_reducers])
def test_the_fused_head_and_the_terms_agree(package) -> None:
    """DivisorReducer goes into the fused head; the terms one by one give the same."""
    embeddings, labels = make_batch()
    fused = make(7, reducer=package.DivisorReducer()).double()
    terms = make(7, reducer=reducers.DoNothingReducer()).double()
    terms.load_state_dict(fused.state_dict())
    infos = terms(embeddings, labels)
    assert infos["pos_loss"]["divisor"] == 6
    assert infos["neg_loss"]["divisor"] == 7
    total = sum(info["losses"].sum() / info["divisor"] for info in infos.values())
    actual = fused(embeddings, labels)
    torch.testing.assert_close(actual, total)
    torch.testing.assert_close(
        torch.autograd.grad(actual, [embeddings, fused.proxies]),
        torch.autograd.grad(total, [embeddings, terms.proxies]),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_parameter_keeps_its_dtype(dtype: torch.dtype) -> None:
    embeddings, labels = make_batch(dtype=dtype)
    loss = make()
    before = loss.proxies.detach().clone()
    value = loss(embeddings, labels)
    value.backward()
    assert value.dtype == dtype
    assert loss.proxies.dtype == loss.proxies.grad.dtype == torch.float32
    assert torch.equal(loss.proxies, before)


def test_initialisation() -> None:
    torch.manual_seed(3)
    ours = ProxyAnchorLoss(50, 16).proxies
    torch.manual_seed(3)
    assert torch.equal(ours, pml_losses.ProxyAnchorLoss(50, 16).proxies)
    assert not ProxyAnchorLoss(5, 3, weight_init_func=torch.nn.init.zeros_).proxies.any()


def test_get_logits() -> None:
    embeddings, _ = make_batch(dtype=torch.float32)
    loss = make()
    normalize = torch.nn.functional.normalize
    expected = normalize(embeddings) @ normalize(loss.proxies).T
    torch.testing.assert_close(loss.get_logits(embeddings), expected)
    assert loss.get_logits(embeddings.half()).dtype == torch.float16


def test_an_empty_tuple_is_no_tuple() -> None:
    embeddings, labels = make_batch()
    loss = make().double()
    empty = (torch.zeros(0, dtype=torch.int64),) * 4
    torch.testing.assert_close(loss(embeddings, labels, empty), loss(embeddings, labels))


def test_more_proxies_than_a_tile_has_rows() -> None:
    embeddings, labels = make_batch(40)
    ours, theirs = make(500).double(), pml_losses.ProxyAnchorLoss(500, 8).double()
    theirs.load_state_dict(ours.state_dict())
    labels = labels * 83
    results = []
    for loss in (ours, theirs):
        value = loss(embeddings, labels)
        results.append((value, *torch.autograd.grad(value, [embeddings, loss.proxies])))
    torch.testing.assert_close(*results)


@pytest.mark.filterwarnings("ignore:.*not a distance that fusedml")
def test_a_distance_is_measured_from_embeddings_to_proxies() -> None:
    class Lopsided(distances.BaseDistance):
        def compute_mat(self, query_emb, ref_emb):
            return torch.cdist(query_emb, 2 * ref_emb)

    embeddings, labels = make_batch()
    ours = make(distance=Lopsided()).double()
    theirs = pml_losses.ProxyAnchorLoss(6, 8, distance=Lopsided()).double()
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(embeddings, labels), theirs(embeddings, labels))


def test_single_terms_and_mean() -> None:
    """none: undivided terms of each class; mean: each term over its own classes."""
    embeddings, labels = make_batch()
    labels = labels % 4  # classes 4 and 5 have a proxy and no sample
    proxies = torch.randn(6, 8, dtype=torch.float64)
    s = torch.nn.functional.normalize(proxies) @ torch.nn.functional.normalize(embeddings).T
    positive = torch.arange(6)[:, None] == labels
    of_positives = torch.log1p(torch.where(positive, torch.exp(-32 * (s - 0.1)), 0).sum(1))
    of_negatives = torch.log1p(torch.where(positive, 0, torch.exp(32 * (s + 0.1))).sum(1))
    single = proxy_anchor_loss(embeddings, labels, proxies, reduction="none")
    torch.testing.assert_close(single, of_positives + of_negatives)
    mean = proxy_anchor_loss(embeddings, labels, proxies)
    torch.testing.assert_close(mean, of_positives.sum() / 4 + of_negatives.sum() / 6)


@pytest.mark.parametrize("labels_of", ["few", "many", "of no proxy"])
def test_the_number_of_classes_present(labels_of: str) -> None:
    generator = torch.Generator().manual_seed(0)
    n = 3000 if labels_of == "many" else 40
    labels = torch.randint(7, (n,), generator=generator)
    if labels_of == "of no proxy":  # as of a shard
        labels = labels - 3
    of_proxies = labels[(labels >= 0) & (labels < 5)]
    assert num_classes_present(labels, 5) == len(of_proxies.unique())
    assert num_classes_present(labels[:0], 5) == 1
    assert num_classes_present(labels[:0] - 9, 5) == 1


@pytest.mark.parametrize("num_blocks", [1, 2, 6])
def test_weights_of_a_tuple_by_blocks_of_proxies(num_blocks: int, monkeypatch) -> None:
    if num_blocks > 1:
        monkeypatch.setattr(kept, "MOST_BYTES", 0)
        rows = 6 // num_blocks * 40
        monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", rows // proxies._BLOCK_HEIGHT)
    seen, ordinary = [], blocks.BlockedPairs._by_blocks

    def by_blocks(pairs, *args):
        seen.append(len(list(pairs._blocks())))
        return ordinary(pairs, *args)

    monkeypatch.setattr(blocks.BlockedPairs, "_by_blocks", by_blocks)
    embeddings, labels = make_batch(40)
    indices = tuple(torch.randint(37, (60,)) for _ in range(4))
    ours, theirs = make().double(), pml_losses.ProxyAnchorLoss(6, 8).double()
    theirs.load_state_dict(ours.state_dict())
    results = []
    for loss in (ours, theirs):
        value = loss(embeddings, labels, indices)
        results.append((value, *torch.autograd.grad(value, [embeddings, loss.proxies])))
    torch.testing.assert_close(*results)
    assert seen == [num_blocks]
