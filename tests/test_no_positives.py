"""Batches without any positive in losses that then are 0: one warning per process."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from fusedml import CrossBatchMemory, functional
from fusedml.engine import no_positives
from tests.losses.made import PAIR_LOSSES, make_batch, make_loss

ZERO_WITHOUT_POSITIVES = ("SupConLoss", "NTXentLoss", "LiftedStructureLoss", "NPairsLoss")
EACH = pytest.mark.parametrize("name", ZERO_WITHOUT_POSITIVES)
TO_REFERENCES = [name for name in ZERO_WITHOUT_POSITIVES if name in PAIR_LOSSES]


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch):
    monkeypatch.setattr(no_positives, "_WARNED", set())


def messages(name: str, *args: Tensor | None, times: int = 1, **kwargs: object) -> list[str]:
    """What is said by a loss, and that it is said of this file."""
    loss = make_loss(name, **kwargs)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(times):
            loss(*args)
    assert all(warning.filename == __file__ for warning in caught)
    return [str(warning.message) for warning in caught]


@EACH
@pytest.mark.parametrize("n", [1, 2, 20, 804])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_said_once(name: str, n: int, dtype: torch.dtype) -> None:
    embeddings, _ = make_batch(n)
    (message,) = messages(name, embeddings, torch.arange(n).to(dtype), times=3)
    assert message.startswith(f"{name}: no two of the {n} labels are equal, so no pair is positive")
    for other in ZERO_WITHOUT_POSITIVES:
        assert not messages(other, embeddings, torch.arange(n))


@pytest.mark.parametrize("name", TO_REFERENCES)
def test_references_and_tuples(name: str, monkeypatch) -> None:
    embeddings, labels = make_batch()
    references = (embeddings, labels, None, embeddings.detach(), labels + 100)
    (message,) = messages(name, *references)
    assert message.startswith(f"{name}: no label is among ref_labels, so no pair is positive")
    monkeypatch.setattr(no_positives, "_WARNED", set())
    none, some = torch.zeros(0, dtype=torch.int64), torch.arange(5)
    (message,) = messages(name, embeddings, labels, (none, none, some, some + 1))
    assert message.startswith(f"{name}: indices_tuple lists no positive pair")


def test_not_said_without_a_reason() -> None:
    embeddings, labels = make_batch()
    for name in ZERO_WITHOUT_POSITIVES:
        assert not messages(name, embeddings, labels)
        assert not messages(name, embeddings[:0], labels[:0])
        assert not messages(name, embeddings, labels * 0)  # no negative
        assert not messages(name, embeddings * 0, labels * 0)
    # there negatives have a loss of their own
    assert not messages("MultiSimilarityLoss", embeddings, torch.arange(20))
    # a closed hinge is what training is for
    assert not messages("LiftedStructureLoss", embeddings, labels, neg_margin=-100)


def test_not_said_where_reading_costs() -> None:
    embeddings, labels = make_batch()[0].detach(), torch.arange(20)
    loss = make_loss("SupConLoss")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.compile(loss, fullgraph=True, backend="eager")(embeddings, labels) == 0
        torch.func.grad(loss)(embeddings, labels)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("rule", "what"), [("any", "a label in common"), ("all", "the same labels")]
)
def test_several_labels_a_row(rule: str, what: str) -> None:
    embeddings, _ = make_batch()
    (message,) = messages("SupConLoss", embeddings, torch.eye(20).bool(), label_rule=rule)
    assert message.startswith(f"SupConLoss: no two rows have {what}, so no pair is positive")


@EACH
def test_functions_say_so_too(name: str) -> None:
    embeddings, _ = make_batch()
    for times in (1, 0):  # once per process
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert functional.FUNCTIONS[name](embeddings, torch.arange(20)) == 0
        assert [warning.filename for warning in caught] == [__file__] * times


def test_a_memory_of_nobody_else() -> None:
    embeddings, _ = make_batch()
    bank = CrossBatchMemory(make_loss("SupConLoss").double(), 8, 60)
    with pytest.warns(UserWarning, match="no label is among those of other rows") as caught:
        bank(embeddings, torch.arange(20))
    assert [warning.filename for warning in caught] == [__file__]
