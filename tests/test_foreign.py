"""What is pytorch-metric-learning's and not ours: hooks are refused, and names are told apart."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import pytest
import torch

from fusedml import losses, reducers
from fusedml.distributed import DistributedLoss, DistributedLossWrapper
from fusedml.engine.foreign import ONLY_THEIRS, PML
from fusedml.memory import CrossBatchMemory

LOSS_HOOKS = ["compute_loss", "_compute_loss", "mat_based_loss", "pair_based_loss"]
REDUCER_HOOKS = [
    *(f"{kind}_reduction" for kind in ("element", "pos_pair", "neg_pair", "triplet")),
    *("already_reduced_reduction", "get_reduction_func", "reduce_the_loss", "unpack_loss_info"),
]
# of theirs, kept by a mixin of records, whatever the class is
_RECORDS = ("add_to_recordable_attributes", "reset_stats")
# computed from, and so a hook there; here of use beside the loss
_ALSO_OURS = {
    name: ["get_logits"] for name in ("NormalizedSoftmaxLoss", "ProxyAnchorLoss", "SoftTripleLoss")
}


def methods_of(cls: type) -> set[str]:
    known = {*dir(torch.nn.Module), *_RECORDS}
    return {
        name
        for name in dir(cls)
        if not name.startswith("__") and name not in known and callable(getattr(cls, name))
    }


def classes_of(module: str) -> list[tuple[type, type]]:
    """Those that both have, ours and theirs."""
    ours, theirs = import_module(f"fusedml.{module}"), import_module(f"{PML}.{module}")
    return [
        (getattr(ours, name), cls)
        for name, cls in vars(theirs).items()
        if isinstance(cls, type) and hasattr(ours, name)
    ]


@pytest.mark.parametrize("module", ["losses", "miners", "reducers"])
def test_every_method_of_theirs_works_or_is_refused(module: str) -> None:
    hooks = []
    for ours, theirs in classes_of(module):
        names = methods_of(theirs) - methods_of(ours)
        for hook in [*names, *_ALSO_OURS.get(ours.__name__, [])]:
            with pytest.raises(TypeError, match=rf"Mine\.{hook} is .* never called here"):
                type("Mine", (ours,), {hook: lambda self, *args: None})
            hooks.append(hook)
    assert len(set(hooks)) > 5


@pytest.mark.parametrize("base", [losses.SupConLoss, losses.TripletMarginLoss])
def test_a_hook_of_another_class_is_a_name_like_any_other(base: type) -> None:
    cls = type("Mine", (base,), {"sigmoid": lambda self: 1, "get_logits": lambda self: 2})
    assert (cls().sigmoid(), cls().get_logits()) == (1, 2)


def test_a_method_of_ours_is_overridden_where_it_is_no_hook() -> None:
    class Mine(losses.ArcFaceLoss):
        def get_logits(self, embeddings):
            return 2 * super().get_logits(embeddings)

    loss, x = Mine(3, 8), torch.ones(2, 8)
    right = 2 * losses.ArcFaceLoss.get_logits(loss, x)
    assert torch.equal(loss.get_logits(x), right)


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


WRAPPERS = {
    "CrossBatchMemory": lambda loss: CrossBatchMemory(loss, 8),
    "DistributedLoss": DistributedLoss,
    "DistributedLossWrapper": DistributedLossWrapper,
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_forward_of_its_own_that_would_not_be_called(wrapper: str) -> None:
    class Mine(losses.SupConLoss):
        def forward(self, *args, **kwargs):
            return 7 * super().forward(*args, **kwargs)

    expected = rf"override forward, which {wrapper} never calls, got Mine.*override sub_losses"
    with pytest.raises(TypeError, match=expected):
        WRAPPERS[wrapper](Mine())
    patched = losses.SupConLoss()
    patched.forward = lambda *args: torch.zeros(())
    with pytest.raises(TypeError, match=expected.replace("Mine", "SupConLoss")):
        WRAPPERS[wrapper](patched)

    class Plain(losses.SupConLoss):
        pass

    assert isinstance(WRAPPERS[wrapper](Plain()).loss, Plain)


def test_hooks_of_a_memory() -> None:
    for hook in ("add_to_memory", "create_indices_tuple", "supported_losses"):
        with pytest.raises(TypeError, match=rf"Mine\.{hook} is .* Override forward"):
            type("Mine", (CrossBatchMemory,), {hook: lambda *_: None})


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
