"""Hyper-parameters: numbers to read and write, tensors to compute with."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from pytorch_metric_learning.utils import common_functions
from torch import nn

from fusedml import dense, reducers
from fusedml.engine.pairs import PairProblem
from fusedml.hyperparameters import LEAST_STEP_TEMPERATURE, temperature, temperature_of_steps
from fusedml.losses import (
    DISTILLATION_LOSSES,
    LOSSES,
    TWO_TOWER_LOSSES,
    MultiSimilarityLoss,
    NTXentLoss,
    ProxyAnchorLoss,
    SupConLoss,
)
from tests.losses.made import NAMES, make_batch, make_loss


def test_assigned_between_steps() -> None:
    embeddings, labels = make_batch()
    loss = MultiSimilarityLoss()
    loss.alpha, loss.base = 3, 0.25
    assert (loss.alpha, loss.beta, loss.base) == (3, 50, 0.25)
    assert isinstance(loss.alpha, float)
    assert torch.equal(
        loss(embeddings, labels), MultiSimilarityLoss(alpha=3, base=0.25)(embeddings, labels)
    )


def test_assigned_between_forward_and_backward() -> None:
    embeddings, labels = make_batch()
    loss = MultiSimilarityLoss()
    (expected,) = torch.autograd.grad(loss(embeddings, labels), embeddings)
    value = loss(embeddings, labels)
    loss.alpha = 9
    assert torch.equal(torch.autograd.grad(value, embeddings)[0], expected)


def test_not_part_of_the_state_nor_moved() -> None:
    loss = MultiSimilarityLoss()
    assert not loss.state_dict()
    assert not list(loss.parameters())
    loss.alpha = torch.tensor(2.0, dtype=torch.float64)
    assert loss.half().value_of("alpha").dtype == torch.float64


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (0, ValueError, "temperature must be > 0, got 0.0"),
        (-1.5, ValueError, "temperature must be > 0, got -1.5"),
        (float("nan"), ValueError, "temperature must be > 0, got nan"),
        ("0.1", TypeError, "temperature must be a number or a tensor, got str"),
        (True, TypeError, "temperature must be a number or a tensor, got bool"),
        (None, TypeError, "temperature must be a number or a tensor, got NoneType"),
        (torch.ones(2), ValueError, r"temperature must be .* one element, got torch.float32 of"),
        (torch.tensor(1), ValueError, "temperature must be .* got torch.int64 of shape"),
    ],
)
def test_bad_values(value: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SupConLoss(temperature=value)
    loss = SupConLoss()
    with pytest.raises(error, match=message):
        loss.temperature = value


def test_nan_margin() -> None:
    with pytest.raises(ValueError, match="margin must be a number, got nan"):
        ProxyAnchorLoss(2, 2, margin=float("nan"))


def test_optional() -> None:
    loss = MultiSimilarityLoss(mining_epsilon=0.1)
    assert loss.mining_epsilon == 0.1
    loss.mining_epsilon = None
    assert loss.mining_epsilon is None


def test_a_parameter_is_registered_under_its_name() -> None:
    loss = SupConLoss(temperature=nn.Parameter(torch.tensor(0.2)))
    assert list(loss.state_dict()) == ["temperature"]
    assert [name for name, _ in loss.named_parameters()] == ["temperature"]
    loss.temperature = 0.3
    assert not list(loss.parameters())
    assert loss.temperature == pytest.approx(0.3)


LEARNABLE = {
    "MultiSimilarityLoss": ("alpha", "beta", "base"),
    "GeneralizedLiftedStructureLoss": ("neg_margin", "pos_margin"),
    "LiftedStructureLoss": ("neg_margin", "pos_margin"),
    "ProxyAnchorLoss": ("margin", "alpha"),
    "SupConLoss": ("temperature",),
    "NTXentLoss": ("temperature",),
}


@pytest.mark.filterwarnings("ignore:.*not a distance that fusedml")
@pytest.mark.parametrize(("name", "keys"), LEARNABLE.items())
@pytest.mark.parametrize("route", ["labels", "tuple", "blocks"])
def test_gradient_of_a_tensor(name: str, keys: tuple[str, ...], route: str) -> None:
    """Against finite differences of the loss with plain numbers, on each route."""
    embeddings, labels = make_batch(12)
    indices = None
    arguments = {}
    if route == "tuple":
        i, j = torch.where(~torch.eye(12, dtype=torch.bool))
        positive = labels[i] == labels[j]
        indices = (i[positive], j[positive], i[~positive], j[~positive])
    if route == "blocks":
        arguments["distance"] = make_loss(name).distance
        arguments["distance"].power = 1.5 if not arguments["distance"].is_inverted else 3
    loss = make_loss(name, **arguments).double()
    for key in keys:
        start = getattr(loss, key)
        setattr(loss, key, torch.tensor(start, dtype=torch.float64, requires_grad=True))
        value = loss(embeddings, labels, indices)
        (actual,) = torch.autograd.grad(value, getattr(loss, key))
        step = 1e-5 * max(1.0, abs(start))
        values = []
        for shifted in (start + step, start - step):
            setattr(loss, key, shifted)
            values.append(loss(embeddings, labels, indices).item())
        setattr(loss, key, start)
        numeric = (values[0] - values[1]) / (2 * step)
        assert actual.item() == pytest.approx(numeric, rel=1e-5, abs=1e-8)


def test_gradient_of_the_embeddings_stays_right() -> None:
    embeddings, labels = make_batch()
    fixed, learnt = NTXentLoss(0.2), NTXentLoss(nn.Parameter(torch.tensor(0.2).double()))
    for loss in (fixed, learnt):
        assert loss.temperature is not None
    a, b = (torch.autograd.grad(x(embeddings, labels), embeddings)[0] for x in (fixed, learnt))
    torch.testing.assert_close(a, b)


def test_all_hyperparameters_at_once_against_the_dense_formula() -> None:
    embeddings, labels = make_batch()
    values = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (3.0, 20.0, 0.4)]
    loss = MultiSimilarityLoss(*values)
    x = torch.nn.functional.normalize(embeddings)
    rows = dense.losses(
        PairProblem(x, None, labels, None), MultiSimilarityLoss(*values).make_formula()
    )
    inputs = [embeddings, *values]
    actual = torch.autograd.grad(loss(embeddings, labels), inputs)
    expected = torch.autograd.grad(rows.mean(), inputs)
    torch.testing.assert_close(actual, expected)


def test_the_printed_module_shows_them() -> None:
    loss = MultiSimilarityLoss(alpha=3, mining_epsilon=0.1, beta=nn.Parameter(torch.tensor(7.0)))
    assert "alpha=3.0, beta=7, base=0.5, mining_epsilon=0.1" in repr(loss)
    assert "temperature=0.1" in repr(SupConLoss())


def test_record_keepers_find_them() -> None:
    loss = MultiSimilarityLoss()
    names = getattr(loss, common_functions.list_of_recordable_attributes_list_names()[0])
    assert {name: getattr(loss, name) for name in names if name != "mining_epsilon"} == {
        "alpha": 2,
        "beta": 50,
        "base": 0.5,
    }


ALL_LOSSES = LOSSES | TWO_TOWER_LOSSES | DISTILLATION_LOSSES
LEAST = {temperature: "1e-38", temperature_of_steps: "1e-36"}
TEMPERATURES = [
    (name, key, LEAST[check])
    for name, of in ALL_LOSSES.items()
    for key, check in of.hyperparameters.items()
    if check in LEAST
]


@pytest.mark.parametrize("name, key, least", TEMPERATURES)
def test_a_temperature_that_is_too_small_to_divide_by_is_refused(
    name: str, key: str, least: str
) -> None:
    others = {"S2SDLoss": (SupConLoss(), [SupConLoss()]), "NormalizedSoftmaxLoss": (4, 8)}
    make = partial(ALL_LOSSES[name], *others.get(name, ()))
    loss = make(**{key: float(least)})
    with pytest.raises(ValueError, match=rf"{key} must be >= {least}, .* got 1e-39"):
        make(**{key: 1e-39})
    with pytest.raises(ValueError, match=f"{key} must be >= {least}"):
        setattr(loss, key, 1e-45)
    with pytest.raises(ValueError, match=f"{key} must be > 0, got 0"):
        setattr(loss, key, 0)


OF_RANKS = [
    (name, key)
    for name, of in ALL_LOSSES.items()
    for key, check in of.hyperparameters.items()
    if check is temperature_of_steps
]


@pytest.mark.usefixtures("whole_or_tiles")
@pytest.mark.parametrize("name, key", OF_RANKS)
@pytest.mark.parametrize("num_classes", [2, 6, 30])
def test_the_least_temperature_of_ranks_counts_them(name: str, key: str, num_classes: int) -> None:
    embeddings, _ = make_batch(60)
    labels = torch.arange(60) % num_classes
    value = ALL_LOSSES[name](**{key: LEAST_STEP_TEMPERATURE})(embeddings.float(), labels)
    # in float64, where it is a temperature among others
    expected = ALL_LOSSES[name](**{key: 1e-30}, backend="dense")(embeddings.double(), labels)
    assert expected > 0
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)


NUMBERS = [
    (name, key)
    for name in NAMES
    for key in LOSSES[name].hyperparameters
    if key not in LOSSES[name].optional_hyperparameters
]
ROWS = torch.arange(24)
OTHERS = [(ROWS + k) % 24 for k in (6, 12, 1, 2)]
TUPLE = (ROWS.repeat(2), torch.cat(OTHERS[:2]), ROWS.repeat(2), torch.cat(OTHERS[2:]))


@pytest.mark.also_emulated
@pytest.mark.usefixtures("whole_or_tiles")
@pytest.mark.parametrize("name, key", NUMBERS)
@pytest.mark.parametrize("backend", ["auto", "dense"])
@pytest.mark.parametrize("reducer", [None, reducers.AvgNonZeroReducer, reducers.SumReducer])
def test_nan_makes_the_loss_nan(name: str, key: str, backend: str, reducer) -> None:
    """Learnt, it is what a step too large leaves: no losses above 0 that are averaged to 0."""
    batches = [make_batch(24)]
    if LOSSES[name].takes_tuples:
        batches.append((*batches[0], TUPLE))
    for batch in batches:
        values = []
        for factor in (1.0, 1.5, math.nan):
            torch.manual_seed(0)  # of class vectors
            loss = make_loss(name, backend=backend, reducer=reducer and reducer())
            number = torch.as_tensor(getattr(loss, key)).detach().double() * factor
            if key in loss._parameters:
                loss._parameters[key].data.fill_(number.item())
            else:
                setattr(loss, key, number)
            values.append(loss(*batch))
        assert values[2].isnan() or torch.equal(*values[:2])  # it is not asked


@pytest.mark.parametrize("name, key", NUMBERS)
@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e300, 1e-300, 0.0, -1.0])
@pytest.mark.parametrize("backend", ["auto", "dense"])
def test_a_number_beyond_all_is_refused_by_name_or_computed_with(
    name: str, key: str, value: float, backend: str
) -> None:
    embeddings, labels = make_batch(24)
    try:
        loss = make_loss(name, backend=backend, **{key: value})
    except ValueError as error:
        assert str(error).startswith(f"{key} must be ")
        return
    assert loss(embeddings, labels).shape == ()
