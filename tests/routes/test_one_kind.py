"""Index tuples that list pairs of one kind, or of anchors that have one: 0, and at no cost."""

from __future__ import annotations

import inspect

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses

from fusedml.engine import autograd
from fusedml.engine.routes.listed import ListedPairs
from fusedml.losses import LOSSES
from fusedml.losses.formula_loss import FormulaLoss
from tests.losses.made import make_batch, make_loss

pytestmark = pytest.mark.filterwarnings("ignore:.*lists no positive pair")
NEED_BOTH = [
    name
    for name, loss in LOSSES.items()
    if loss is LOSSES["HistogramLoss"] or (issubclass(loss, FormulaLoss) and loss.needs_both_kinds)
]
EVERY = pytest.mark.parametrize("name", NEED_BOTH)


def one_kind(n: int, kind: str) -> tuple[torch.Tensor, ...]:
    some, none = torch.arange(n // 2), torch.arange(0)
    pairs = some, some + n // 2
    return (*pairs, none, none) if kind == "positive" else (none, none, *pairs)


@EVERY
@pytest.mark.parametrize("n", [30, 900])
@pytest.mark.parametrize("kind", ["positive", "negative"])
@pytest.mark.parametrize("backend", ["auto", "dense"])
def test_nothing_is_measured(name: str, n: int, kind: str, backend: str, monkeypatch) -> None:
    def measured(*_: object) -> None:
        raise AssertionError

    for function in ("both_measures", "measures_of", "pair_losses", "row_losses"):
        monkeypatch.setattr(ListedPairs, function, measured, raising=False)
    monkeypatch.setattr(autograd, "entry_statistics", measured)
    embeddings, labels = make_batch(n)
    value = make_loss(name, backend=backend)(embeddings, labels, one_kind(n, kind))
    (grad,) = torch.autograd.grad(value, embeddings)
    assert value == 0
    assert not grad.any()


@EVERY
@pytest.mark.parametrize("kind", ["positive", "negative"])
def test_theirs_is_0_too(name: str, kind: str) -> None:
    embeddings, labels = make_batch(30)
    theirs = getattr(pml_losses, name)
    # what theirs has no default for
    arguments = {"n_bins": 20} if "n_bins" in inspect.signature(theirs).parameters else {}
    theirs = theirs(**arguments)
    given = embeddings, labels, one_kind(30, kind)
    assert make_loss(name)(*given) == theirs(*given) == 0


@EVERY
def test_nan_is_seen(name: str) -> None:
    embeddings, labels = make_batch(30)
    embeddings = embeddings.detach().clone()
    embeddings[3, 1] = torch.nan
    for kind in ("positive", "negative"):
        assert make_loss(name)(embeddings, labels, one_kind(30, kind)).isnan()
