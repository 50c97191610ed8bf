"""Tensors are made on the device of the embeddings, and in dtypes that the device has."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fusedml
from fusedml import distances, reducers
from fusedml.engine import ops
from fusedml.engine.pairs import tries_float64
from fusedml.losses import LOSSES, BaseLoss
from tests.calls import calls
from tests.losses.made import (
    DIMENSION,
    NAMES,
    NUM_CLASSES,
    ONE_OF_EACH_KIND,
    PAIR_LOSSES,
    make_loss,
)

# on both sides of the 800 x 800 pairs that are held whole
SIZES = (24, 810)

pytestmark = pytest.mark.filterwarnings("ignore:.*is not a distance that fusedml")


def batch(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, DIMENSION, generator=torch.Generator().manual_seed(seed))
    return x.requires_grad_(), torch.arange(n) % NUM_CLASSES


def index_tuple(n: int) -> tuple[Tensor, ...]:
    """Every pair whose numbers differ by less than 30."""
    i = torch.arange(n)
    i, j = ((i[:, None] - i).abs() % n < 30).fill_diagonal_(False).nonzero(as_tuple=True)
    is_positive = i % NUM_CLASSES == j % NUM_CLASSES
    return i[is_positive], j[is_positive], i[~is_positive], j[~is_positive]


def labels_of(name: str, n: int) -> Tensor:
    """Of nine rows a class at most where the loss has no vectors of classes: of larger ones
    positives and negatives are compared by the hundred million."""
    num_classes = NUM_CLASSES if LOSSES[name].weights_name else max(NUM_CLASSES, n // 9)
    return torch.arange(n) % num_classes


def arguments_of(name: str, kind: str, n: int) -> tuple[Any, ...]:
    """Of a call: what follows the embeddings."""
    labels = labels_of(name, n)
    if kind == "references":
        return labels, None, batch(n + 9, seed=1)[0].detach(), labels_of(name, n + 9)
    if kind == "tuple":
        return labels, index_tuple(n)
    if kind == "single losses" and LOSSES[name].weights_name is None:
        return (torch.arange(n) // 2,)  # of few classes the triplets are millions
    return (labels.float() if kind == "float labels" else labels,)


def options_of(kind: str) -> dict[str, Any]:
    return {
        "other distance": lambda: {"distance": distances.LpDistance(power=3)},
        "single losses": lambda: {"reducer": reducers.ThresholdReducer(low=0.1)},
    }.get(kind, dict)()


KINDS = ("self", "references", "tuple", "float labels", "other distance", "single losses")
CASES = [
    (name, kind)
    for name in NAMES
    for kind in KINDS
    if not (kind == "references" and name not in PAIR_LOSSES)
    and not (kind == "float labels" and LOSSES[name].weights_name)
    and not (kind == "tuple" and not LOSSES[name].takes_tuples)
]


def in_turn(cases: Iterable[Any]) -> list[tuple[Any, int]]:
    """Each case with either of the sizes, as its neighbour has the other."""
    return [(case, SIZES[i % 2]) for i, case in enumerate(cases)]


# every loss has kinds of either size, every kind losses of either
SIZED_CASES = [
    (name, kind, SIZES[(NAMES.index(name) + KINDS.index(kind)) % 2]) for name, kind in CASES
]


def step(
    loss: Callable[..., Tensor], x: Tensor, *args: Any, allow_unused: bool = False
) -> list[Tensor]:
    """Value and gradients of the embeddings and of what the loss learns.

    allow_unused: whether it may learn what the value does not depend on.
    """
    leaves = [x, *(loss.parameters() if isinstance(loss, BaseLoss) else ())]
    value = loss(x, *args)
    unused = {"allow_unused": allow_unused, "materialize_grads": allow_unused}
    return [value, *torch.autograd.grad(value, leaves, **unused)]


def assert_close(actual: list[Tensor], expected: list[Tensor], rtol: float, atol: float) -> None:
    """As torch.testing, with atol relative to the largest element of each tensor above 1: an
    element that is a sum of terms that cancel is as exact as these, not as what remains.
    """
    for a, e in zip(actual, expected, strict=True):
        scale = max(1.0, e.abs().max().item())
        torch.testing.assert_close(a, e, rtol=rtol, atol=atol * scale)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize(("name", "kind", "n"), SIZED_CASES)
def test_a_foreign_default_device(name: str, kind: str, n: int) -> None:
    loss, (x, _), args = make_loss(name, **options_of(kind)), batch(n), arguments_of(name, kind, n)
    expected = step(loss, x, *args)
    with default_device("meta"):
        actual = step(loss, x, *args)
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a, e)


@pytest.mark.parametrize("name", calls(24))
@pytest.mark.parametrize("n", SIZES)
def test_other_calls_on_a_foreign_default_device(name: str, n: int) -> None:
    call = calls(n)[name]
    expected = call.outputs()
    with default_device("meta"):
        actual = call.outputs()
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a, e)


# of what is traced, too, the sources are read below
@pytest.mark.parametrize(("name", "n"), in_turn(ONE_OF_EACH_KIND[::3]))
def test_a_foreign_default_device_when_compiled(name: str, n: int) -> None:
    torch._dynamo.reset()
    loss, x, labels = make_loss(name), batch(n)[0], labels_of(name, n)
    expected = step(loss, x, labels)
    with default_device("meta"):
        compiled = torch.compile(loss, fullgraph=True, backend="eager")
        value = compiled(x, labels)
        grads = torch.autograd.grad(value, [x, *loss.parameters()])
    torch.testing.assert_close([value, *grads], expected)


@pytest.mark.parametrize("n", SIZES)
def test_statistics_on_a_foreign_default_device(n: int) -> None:
    x, labels = batch(n)
    for others in ((), batch(n + 9, seed=1)):
        for exclude_diagonal in (True, False):
            options: dict[str, Any] = {"exclude_diagonal": exclude_diagonal}
            expected = fusedml.pair_statistics(x, labels.float(), *others, **options)
            with default_device("meta"):
                actual = fusedml.pair_statistics(x, labels.float(), *others, **options)
            for a, e in zip(actual, expected, strict=True):
                assert torch.equal(a, e)


_NAMES = (
    "arange as_tensor asarray empty eye full linspace logspace ones rand randint randn randperm "
    "scalar_tensor tensor zeros"
)
FACTORIES = {f"torch.{name}" for name in _NAMES.split()}
SOURCES = sorted(Path(fusedml.__file__).parent.rglob("*.py"))


def test_every_tensor_names_its_device() -> None:
    """The default device does not reach what is called below an operator: so read the source."""
    nameless, num_named = [], 0
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        # a module's parameters belong on the default device
        parameters = [call for call in calls if ast.unparse(call.func) == "nn.Parameter"]
        allowed = {id(node) for call in parameters for node in call.args}
        for call in calls:
            if ast.unparse(call.func) not in FACTORIES or id(call) in allowed:
                continue
            if any(keyword.arg == "device" for keyword in call.keywords):
                num_named += 1
            else:
                nameless.append((path.name, ast.unparse(call)))
    assert nameless == []
    assert num_named > 10


class WithoutFloat64(TorchDispatchMode):
    """The CPU as a device that has no float64.

    Hyper-parameters do, which stay on the host: what Python numbers become, and what is made of
    nothing else; and random numbers, which are drawn there.  Whether there is float64 is
    remembered: not what was seen outside, nor of this.
    """

    def __enter__(self):
        tries_float64.cache_clear()
        return super().__enter__()

    def __exit__(self, *error):
        tries_float64.cache_clear()
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace in ops.BACKENDS.values():
            with self:  # which sees the operations of the kernel, too
                outputs = ops.TILED_KERNELS[func.__name__.partition(".")[0]](*args)
        else:
            outputs = func(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        on_host = torch.ops.aten.lift_fresh.default, torch.ops.aten.rand.default
        is_number = func in on_host or (
            len(given) > 0 and all(x.dtype == torch.float64 for x in given)
        )
        for x in tree_leaves(outputs):
            is_wide = isinstance(x, Tensor) and x.dtype == torch.float64 and x.numel() > 0
            if is_wide and not is_number:
                raise TypeError(f"this device has no float64, which {func} was asked for")
        return outputs


@pytest.mark.parametrize(("name", "kind", "n"), SIZED_CASES)
def test_devices_without_float64(name: str, kind: str, n: int) -> None:
    loss, (x, _), args = make_loss(name, **options_of(kind)), batch(n), arguments_of(name, kind, n)
    expected = step(loss, x, *args)
    with WithoutFloat64():
        actual = step(loss, x, *args)
    assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_what_losses_record_without_float64(name: str) -> None:
    loss, (x, labels) = make_loss(name, collect_stats=True), batch(24)
    expected = loss(x, labels)
    with WithoutFloat64():
        torch.testing.assert_close(loss(x, labels), expected)


@pytest.mark.parametrize("name", calls(24))
@pytest.mark.parametrize("n", SIZES)
def test_other_calls_without_float64(name: str, n: int) -> None:
    call = calls(n)[name]
    expected = call.outputs()
    with WithoutFloat64():
        actual = call.outputs()
    assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "n"), in_turn(name for name in NAMES if LOSSES[name].hyperparameters)
)
def test_learning_a_hyperparameter_without_float64(name: str, n: int) -> None:
    x, labels = batch(n)[0], labels_of(name, n)
    loss = make_loss(name)
    for key in loss.hyperparameters:
        if getattr(loss, key) is not None:
            setattr(loss, key, torch.nn.Parameter(torch.tensor(float(getattr(loss, key)))))
    # a weight has no effect while what it weighs is switched off
    expected = step(loss, x, labels, allow_unused=True)
    assert any(grad.any() for grad in expected[2:])
    with WithoutFloat64():
        actual = step(loss, x, labels, allow_unused=True)
    assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["auto", "dense"])
@pytest.mark.parametrize("name", [name for name in NAMES if LOSSES[name].hyperparameters])
def test_hyperparameters_in_float64_without_float64(name: str, backend: str) -> None:
    """They may lie on the host, which has it; what is multiplied by them does not."""
    x, labels = batch(24)
    loss = make_loss(name, backend=backend)
    calls = [(labels,)]
    if LOSSES[name].takes_tuples:
        calls.append((labels, tuple(index[:9] for index in index_tuple(24))))
    expected = [step(loss, x, *args) for args in calls]
    for key in loss.hyperparameters:
        if isinstance(getattr(loss, key), float):
            setattr(loss, key, torch.tensor(getattr(loss, key), dtype=torch.float64))
    with WithoutFloat64():
        actual = [step(loss, x, *args) for args in calls]
    for one, other in zip(actual, expected, strict=True):
        assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_stand_in_refuses_float64() -> None:
    with WithoutFloat64():
        for make in (
            lambda: torch.zeros(2, dtype=torch.float64),
            lambda: torch.zeros(2).double(),
            lambda: torch.zeros(2).new_empty(2, dtype=torch.float64),
        ):
            with pytest.raises(TypeError, match="this device has no float64"):
                make()
