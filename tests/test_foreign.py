"""What is pytorch-metric-learning's and not ours: hooks are refused, and names are told apart."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import pytest

from fusedml import losses, reducers
from fusedml.engine.foreign import ONLY_THEIRS, PML

LOSS_HOOKS = ["compute_loss", "_compute_loss", "mat_based_loss", "pair_based_loss"]
REDUCER_HOOKS = [
    *(f"{kind}_reduction" for kind in ("element", "pos_pair", "neg_pair", "triplet")),
    *("already_reduced_reduction", "get_reduction_func", "reduce_the_loss", "unpack_loss_info"),
]


@pytest.mark.parametrize("hook", LOSS_HOOKS)
@pytest.mark.parametrize("base", losses.LOSSES.values())
def test_hooks_of_losses(hook: str, base: type) -> None:
    with pytest.raises(TypeError, match=rf"Mine\.{hook} is .* never called .* sub_losses"):
        type("Mine", (base,), {hook: lambda self, *args: None})


@pytest.mark.parametrize("hook", REDUCER_HOOKS)
@pytest.mark.parametrize("base", [reducers.BaseReducer, reducers.MeanReducer])
def test_hooks_of_reducers(hook: str, base: type) -> None:
    with pytest.raises(TypeError, match=rf"Mine\.{hook} is .* never called .* Override reduce,"):
        type("Mine", (base,), {hook: lambda self, *args: None})


def test_a_hook_that_comes_with_another_base_is_refused_too() -> None:
    class Mixin:
        def element_reduction(self, *args):
            return None

    with pytest.raises(TypeError, match="element_reduction"):
        type("Mine", (reducers.SumReducer, Mixin), {})


def test_our_own_hooks_are_called() -> None:
    class Double(reducers.MeanReducer):
        def reduce(self, *args):
            return 2 * super().reduce(*args)

    assert isinstance(losses.SupConLoss(reducer=Double()).reducer, Double)


@pytest.mark.parametrize("module", ONLY_THEIRS)
def test_names_that_are_only_theirs(module: str) -> None:
    names, theirs = ONLY_THEIRS[module].split(), module.replace("fusedml", PML)
    assert [name for name in names if hasattr(import_module(module), name)] == []
    for name in names:
        assert hasattr(import_module(theirs), name) or find_spec(f"{theirs}.{name}")
        with pytest.raises(
            AttributeError, match=rf"'{name}': {theirs}.{name} works beside {module}"
        ):
            getattr(import_module(module), name)


@pytest.mark.parametrize(
    ("module", "right"),
    [
        ("fusedml", "fusedml.losses.SupConLoss"),
        ("fusedml", "fusedml.functional.sup_con_loss"),
        ("fusedml.losses", "fusedml.miners.BatchHardMiner"),
        ("fusedml.miners", "fusedml.distances.LpDistance"),
    ],
)
def test_names_that_are_elsewhere(module: str, right: str) -> None:
    home, name = right.rsplit(".", 1)
    with pytest.raises(AttributeError, match=rf"'{name}': write {right}$"):
        getattr(import_module(module), name)
    assert hasattr(import_module(home), name)


def test_no_loss_of_theirs_is_missed() -> None:
    """Each is ours, too, or said to be only theirs."""
    theirs = import_module(f"{PML}.losses")
    names = {name for name, value in vars(theirs).items() if isinstance(value, type)}
    assert names <= set(ONLY_THEIRS["fusedml.losses"].split()) | set(losses.__all__)
