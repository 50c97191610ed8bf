"""Reducers of one's own: what they make of the losses is the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_metric_learning import distances as pml_distances
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import reducers as pml_reducers
from torch import Tensor

from fusedml import distances, losses, reducers
from tests.losses.made import NAMES, NUM_CLASSES, make_batch, make_loss

pytestmark = pytest.mark.usefixtures("whole_or_tiles")
BASES: dict[type[reducers.BaseReducer], dict] = {
    reducers.MeanReducer: {},
    reducers.SumReducer: {},
    reducers.ThresholdReducer: {"low": 0.1},
    reducers.AvgNonZeroReducer: {},
    reducers.DivisorReducer: {},
    reducers.ClassWeightedReducer: {"weights": torch.ones(NUM_CLASSES)},
    reducers.PerAnchorReducer: {},
}


def value_of(name: str, reducer: reducers.BaseReducer) -> Any:
    torch.manual_seed(0)  # of class vectors
    return make_loss(name, reducer=reducer)(*make_batch(24))


def largest(losses: Tensor) -> Tensor:
    return losses.max() if losses.numel() else losses.sum()


def by_reduce(self, losses, info, embeddings, labels) -> Tensor:
    return largest(losses)


def by_forward(self, loss_dict, embeddings, labels) -> Tensor:
    (info,) = loss_dict.values()
    return largest(torch.as_tensor(info["losses"]))


def of_listed(name: str, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """What each sub-loss is reduced to, added up."""
    listed = value_of(name, reducers.DoNothingReducer())
    given = [torch.as_tensor(info["losses"]) for info in listed.values()]
    return sum(x if x.ndim == 0 else reduce(x) for x in given)


def derived(base: type, **methods: Callable) -> reducers.BaseReducer:
    return type("Mine", (base,), methods)(**BASES[base])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("base", BASES)
def test_a_method_of_a_subclass(name: str, base: type) -> None:
    right = of_listed(name, largest)
    for methods in ({"reduce": by_reduce}, {"forward": by_forward}):
        torch.testing.assert_close(value_of(name, derived(base, **methods)), right)


@pytest.mark.parametrize("name", ["ContrastiveLoss", "SupConLoss", "TripletMarginLoss"])
@pytest.mark.parametrize("base", BASES)
def test_a_method_of_a_mixin_and_of_an_object(name: str, base: type) -> None:
    right = of_listed(name, largest)
    mixin = type("Mixin", (), {"reduce": by_reduce})
    mine = type("Mine", (mixin, base), {})(**BASES[base])
    torch.testing.assert_close(value_of(name, mine), right)
    patched = base(**BASES[base])
    patched.reduce = lambda losses, *_: largest(losses)
    torch.testing.assert_close(value_of(name, patched), right)


@pytest.mark.parametrize("base", BASES)
def test_one_that_overrides_something_else_keeps_its_shortcuts(base: type) -> None:
    mine = derived(base, extra_repr=lambda self: "mine")
    assert mine.interval() == base(**BASES[base]).interval()
    assert mine.divides == base.divides
    for kind in ("element", "pos_pair", "triplet"):
        assert mine.sums_rows(kind) == base(**BASES[base]).sums_rows(kind)


def test_one_may_say_what_its_shortcut_is() -> None:
    mine = derived(reducers.MeanReducer, reduce=by_reduce, interval=lambda self: (None, None))
    assert mine.interval() == (None, None)
    assert not mine.sums_rows("element")


def test_sub_losses_that_are_added_up_in_another_way() -> None:
    class Larger(reducers.MultipleReducers):
        def forward(self, loss_dict, embeddings, labels):
            return max(
                self.reducer_of(name)({name: info}, embeddings, labels)
                for name, info in loss_dict.items()
            )

    of_terms = {name: reducers.DivisorReducer() for name in ("pos_loss", "neg_loss")}
    listed = value_of("ProxyAnchorLoss", reducers.DoNothingReducer())
    right = max((of["losses"].sum() / of["divisor"] for of in listed.values()), key=float)
    torch.testing.assert_close(value_of("ProxyAnchorLoss", Larger(of_terms)), right)


@pytest.mark.parametrize("name", ["MeanReducer", "SumReducer", "AvgNonZeroReducer"])
@pytest.mark.parametrize("loss", ["MultiSimilarityLoss", "ContrastiveLoss", "SupConLoss"])
def test_theirs_with_a_method_of_its_own(name: str, loss: str) -> None:
    given = getattr(pml_reducers, name)()
    for kind in ("element", "pos_pair", "neg_pair"):
        setattr(given, f"{kind}_reduction", lambda losses, *_: largest(losses))
    ours, theirs = (getattr(package, loss)(reducer=given) for package in (losses, pml_losses))
    torch.testing.assert_close(ours(*make_batch(24)), theirs(*make_batch(24)))


@pytest.mark.filterwarnings("ignore:.*not a distance that fusedml")
@pytest.mark.parametrize("package", [distances, pml_distances], ids=["ours", "theirs"])
@pytest.mark.parametrize("name", ["CosineSimilarity", "DotProductSimilarity", "LpDistance"])
def test_a_distance_with_a_method_of_its_own(package, name: str) -> None:
    given = getattr(package, name)()
    matrix = given.compute_mat
    given.compute_mat = lambda query, ref: matrix(query, ref) / 2
    loss = "SupConLoss" if given.is_inverted else "ContrastiveLoss"
    ours, theirs = (getattr(of, loss)(distance=given) for of in (losses, pml_losses))
    torch.testing.assert_close(ours(*make_batch(24)), theirs(*make_batch(24)))
