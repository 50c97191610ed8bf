"""Hooks of pytorch-metric-learning that would be ignored are refused where a class defines them."""

from __future__ import annotations

import pytest

from fusedml import losses, reducers

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
