"""Parity with pytorch-metric-learning under its reducers and ours."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import reducers as pml_reducers
from pytorch_metric_learning import regularizers
from pytorch_metric_learning.utils import loss_and_miner_utils

from fusedml import reducers
from fusedml.engine.arguments import constructor_parameters
from tests.pml.parity import (
    ARGUMENTS,
    LABEL_PATTERNS,
    PAIR_LOSSES,
    Batch,
    assert_parity,
    make_embeddings,
    make_losses,
)

N = 30
BATCH = Batch(make_embeddings(N), LABEL_PATTERNS["rows without positives"](N))
TRIVIAL = {
    "no positive": Batch(make_embeddings(N), torch.arange(N)),
    "one class": Batch(make_embeddings(N), torch.zeros(N, dtype=torch.int64)),
}
# PerAnchorReducer and ClassWeightedReducer are wrong in theirs for losses of shape (n, 1); see
# tests/test_reducers.py
REDUCERS = {
    "MeanReducer": lambda package: package.MeanReducer(),
    "SumReducer": lambda package: package.SumReducer(),
    "AvgNonZeroReducer": lambda package: package.AvgNonZeroReducer(),
    "ThresholdReducer, low": lambda package: package.ThresholdReducer(low=0.8),
    "ThresholdReducer, high": lambda package: package.ThresholdReducer(high=1.5),
    "ThresholdReducer, both": lambda package: package.ThresholdReducer(low=0.5, high=1.5),
    "ThresholdReducer, nothing passes": lambda package: package.ThresholdReducer(low=1e4),
    "MultipleReducers": lambda package: package.MultipleReducers({"loss": package.SumReducer()}),
}
# losses of shape (n,) in theirs
FLAT = ("NPairsLoss", "SupConLoss", "NTXentLoss")


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("reducer", REDUCERS)
@pytest.mark.parametrize("package", [reducers, pml_reducers], ids=["ours", "theirs"])
def test_reducers(name: str, reducer: str, package) -> None:
    for batch in (BATCH, *TRIVIAL.values()):
        ours, _ = make_losses(name, reducer=REDUCERS[reducer](package))
        _, theirs = make_losses(name, reducer=REDUCERS[reducer](pml_reducers))
        theirs.load_state_dict(ours.state_dict())
        assert_parity(ours, theirs, batch)


@pytest.mark.parametrize("name", FLAT)
@pytest.mark.parametrize("package", [reducers, pml_reducers], ids=["ours", "theirs"])
def test_class_weights_and_anchors(name: str, package) -> None:
    weights = torch.rand(N, dtype=torch.float64)
    for make in (
        lambda package: package.ClassWeightedReducer(weights),
        lambda package: package.PerAnchorReducer(),
        lambda package: package.PerAnchorReducer(package.SumReducer()),
        lambda package: package.PerAnchorReducer(aggregation_func=lambda x, k: x.sum(1) + k),
    ):
        ours, _ = make_losses(name, reducer=make(package))
        _, theirs = make_losses(name, reducer=make(pml_reducers))
        assert_parity(ours, theirs, BATCH, (torch.float64,))


def with_repeats() -> tuple[torch.Tensor, ...]:
    """Pairs that are listed up to three times, in no order."""
    i, p, j, n = loss_and_miner_utils.get_all_pairs_indices(BATCH.labels)
    generator = torch.Generator().manual_seed(2)
    positive = torch.randint(len(i), (2 * len(i),), generator=generator)
    negative = torch.randint(len(j), (len(j),), generator=generator)
    return i[positive], p[positive], j[negative], n[negative]


@pytest.mark.parametrize("name", PAIR_LOSSES)
@pytest.mark.parametrize("reducer", REDUCERS)
@pytest.mark.parametrize("package", [reducers, pml_reducers], ids=["ours", "theirs"])
def test_tuples_that_repeat_pairs(name: str, reducer: str, package) -> None:
    ours, _ = make_losses(name, reducer=REDUCERS[reducer](package))
    _, theirs = make_losses(name, reducer=REDUCERS[reducer](pml_reducers))
    assert_parity(ours, theirs, BATCH._replace(indices_tuple=with_repeats()), (torch.float64,))


@pytest.mark.parametrize("name", ["SupConLoss", "NTXentLoss"])
@pytest.mark.parametrize("package", [reducers, pml_reducers], ids=["ours", "theirs"])
def test_anchors_and_class_weights_of_tuples_that_repeat_pairs(name: str, package) -> None:
    weights = torch.rand(N, dtype=torch.float64)
    embeddings, labels, *_ = BATCH
    for make in (
        lambda package: package.ClassWeightedReducer(weights),
        lambda package: package.PerAnchorReducer(),
        lambda package: package.PerAnchorReducer(package.SumReducer()),
        lambda package: package.PerAnchorReducer(aggregation_func=lambda x, k: x.sum(1) + k),
        lambda package: package.MultipleReducers({"loss": package.PerAnchorReducer()}),
    ):
        ours, _ = make_losses(name, reducer=make(package))
        _, theirs = make_losses(name, reducer=make(pml_reducers))
        value = ours(embeddings, labels, with_repeats())
        torch.testing.assert_close(value, theirs(embeddings, labels, with_repeats()))
        if package is reducers:
            # theirs assigns the losses to a matrix, whose gradient reaches every repetition
            leaf = embeddings.clone().requires_grad_()
            torch.autograd.gradcheck(lambda e, f=ours: f(e, labels, with_repeats()), leaf)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_regularizers(name: str) -> None:
    arguments = {"embedding_regularizer": regularizers.LpRegularizer(), "embedding_reg_weight": 0.3}
    if "weight_regularizer" in constructor_parameters(getattr(pml_losses, name)):
        arguments |= {
            "weight_regularizer": regularizers.RegularFaceRegularizer(),
            "weight_reg_weight": 0.2,
        }
    ours, theirs = make_losses(name, **arguments)
    assert sorted(ours.sub_loss_names()) == sorted(theirs.sub_loss_names())
    assert set(ours.reducer.reducers) == set(theirs.reducer.reducers)
    assert_parity(ours, theirs, BATCH)


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("package", [reducers, pml_reducers], ids=["ours", "theirs"])
def test_do_nothing(name: str, package) -> None:
    ours, _ = make_losses(name, reducer=package.DoNothingReducer())
    _, theirs = make_losses(name, reducer=pml_reducers.DoNothingReducer())
    theirs.load_state_dict(ours.state_dict())
    theirs = theirs.double()
    actual, expected = (loss.double()(*BATCH[:2]) for loss in (ours, theirs))
    assert set(actual) == set(expected)
    for key, info in expected.items():
        assert actual[key]["reduction_type"] == info["reduction_type"]
        losses = actual[key]["losses"]
        expected_losses = torch.as_tensor(info["losses"], dtype=losses.dtype)  # or the number 0
        torch.testing.assert_close(losses.flatten(), expected_losses.flatten())
        if info["reduction_type"] != "already_reduced":  # where they mean nothing
            torch.testing.assert_close(actual[key]["indices"], info["indices"])
        if "divisor" in info:
            assert actual[key]["divisor"] == info["divisor"]
