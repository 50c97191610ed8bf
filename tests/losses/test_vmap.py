"""torch.func.vmap over losses, and over their gradients, against a loop."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from fusedml import distances, functional, losses, reducers
from fusedml.losses import DISTILLATION_LOSSES, LOSSES, TWO_TOWER_LOSSES, BaseLoss
from tests.calls import calls
from tests.losses.made import (
    DIMENSION,
    NAMES,
    NUM_CLASSES,
    ONE_OF_EACH_KIND,
    PAIR_LOSSES,
    make_batch,
    make_loss,
    without_jumps,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*not a distance that fusedml"),
    # PyTorch 2.6 has no batching rule for count_nonzero, of reducers, and says that it is slow
    pytest.mark.filterwarnings("ignore:There is a performance drop"),
]
WAYS = pytest.mark.usefixtures("whole_or_tiles")
EVERY = pytest.mark.parametrize("name", NAMES)
N = 14
LABELS = torch.stack([torch.arange(N) % NUM_CLASSES, torch.arange(N) // 4, torch.zeros(N).long()])


def make_batches(n: int = N) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, n, DIMENSION, generator=generator, dtype=torch.float64)


def assert_as_in_a_loop(function: Callable[..., Tensor], *batches: Tensor) -> None:
    expected = torch.stack([function(*elements) for elements in zip(*batches, strict=True)])
    torch.testing.assert_close(torch.func.vmap(function)(*batches), expected)


@WAYS
@pytest.mark.also_emulated
@EVERY
@pytest.mark.parametrize("distance", [None, distances.LpDistance(p=1)], ids=["fused", "not"])
def test_values_and_gradients(name: str, distance: distances.BaseDistance | None) -> None:
    loss, x = make_loss(name, distance=distance).double(), make_batches().requires_grad_()
    expected = torch.stack([loss(*batch) for batch in zip(x, LABELS, strict=True)])
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    values = torch.func.vmap(loss)(x, LABELS)
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(torch.autograd.grad(values.sum(), x)[0], gradient)
    x = x.detach()
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(x, LABELS), gradient)

    def total(x: Tensor) -> Tensor:
        return torch.func.vmap(loss)(x, LABELS).sum()

    torch.testing.assert_close(torch.func.grad(total)(x), gradient)


@WAYS
@EVERY
def test_a_batch_of_batches(name: str) -> None:
    loss, x = make_loss(name).double(), torch.stack([make_batches(), 2 * make_batches().flip(0)])
    labels = LABELS[0]
    for function in (lambda one: loss(one, labels), torch.func.grad(lambda one: loss(one, labels))):
        expected = torch.stack([torch.stack([function(one) for one in some]) for some in x])
        torch.testing.assert_close(vmap(vmap(function))(x), expected)


def check_same_labels(name: str, n: int) -> None:
    loss, labels = make_loss(name).double(), torch.arange(n) % NUM_CLASSES
    assert_as_in_a_loop(torch.func.grad(lambda x: loss(x, labels)), make_batches(n)[:2])


@WAYS
@EVERY
def test_the_same_labels(name: str) -> None:
    check_same_labels(name, 2 * N)


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_a_large_batch_with_the_same_labels(name: str) -> None:
    """More than 800 x 800 pairs: by tiles as it is."""
    check_same_labels(name, 810)


@WAYS
@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_references_float_labels_and_tuples(name: str) -> None:
    x, rows = make_batches(), torch.arange(N)
    # the queue are rows of the first batch
    loss = make_loss(name, **without_jumps(name)).double()
    queue, queue_labels = make_batches(20)[0], torch.arange(20) % 4
    pairs = (rows, rows.roll(6), rows, rows.roll(1))
    assert_as_in_a_loop(lambda x, y: loss(x, y, None, queue, queue_labels), x, LABELS.double())
    assert_as_in_a_loop(torch.func.grad(lambda x: loss(x, None, pairs)), x)
    moved = torch.func.vmap(loss, in_dims=(1, 0))(x.transpose(0, 1), LABELS)
    torch.testing.assert_close(moved, torch.func.vmap(loss)(x, LABELS))


@WAYS
def test_mining() -> None:
    loss = make_loss("MultiSimilarityLoss", mining_epsilon=0.1).double()
    assert_as_in_a_loop(torch.func.grad(loss), make_batches(), LABELS)


@WAYS
def test_hyperparameters() -> None:
    x, temperatures = make_batches()[0], torch.tensor([0.1, 0.2, 0.5], dtype=torch.float64)

    def loss(temperature: Tensor) -> Tensor:
        return functional.sup_con_loss(x, LABELS[0], temperature=temperature)

    assert_as_in_a_loop(torch.func.grad(loss), temperatures)


@WAYS
def test_an_ensemble_of_proxies() -> None:
    loss = make_loss("ProxyAnchorLoss").double()
    generator = torch.Generator().manual_seed(1)
    proxies = torch.randn(3, NUM_CLASSES, DIMENSION, generator=generator, dtype=torch.float64)

    def run(proxies: Tensor, x: Tensor, labels: Tensor) -> Tensor:
        return torch.func.functional_call(loss, {"proxies": proxies}, (x, labels))

    assert_as_in_a_loop(torch.func.grad(run), proxies, make_batches(), LABELS)


@WAYS
@pytest.mark.parametrize("name", [name for name in NAMES if LOSSES[name].weights_name])
def test_gradients_by_batch_of_shared_vectors(name: str) -> None:
    loss, key = make_loss(name).double(), LOSSES[name].weights_name
    vectors = getattr(loss, key).detach()

    def gradient(embeddings: Tensor, labels: Tensor) -> Tensor:
        def value(vectors: Tensor) -> Tensor:
            return torch.func.functional_call(loss, {key: vectors}, (embeddings, labels))

        return torch.func.grad(value)(vectors)

    assert_as_in_a_loop(gradient, make_batches(), LABELS)


def check_gradients_of_a_batch(values: Tensor, inputs: list[Tensor]) -> None:
    """Several gradients from one backward, which uses the graph up."""
    upstream = torch.stack([torch.ones_like(values), 2 * values.detach(), -values.detach()])
    expected = [torch.autograd.grad(values, inputs, of, retain_graph=True) for of in upstream]
    found = torch.autograd.grad(values, inputs, upstream, is_grads_batched=True)
    torch.testing.assert_close(found, tuple(map(torch.stack, zip(*expected, strict=True))))


@WAYS
@EVERY
def test_gradients_of_a_batch(name: str) -> None:
    loss = make_loss(name).double()
    x, rows = make_batches()[0].requires_grad_(), torch.arange(N)
    inputs = [x, *loss.parameters()]
    check_gradients_of_a_batch(loss(x, LABELS[0]), inputs)
    if loss.takes_tuples:
        pairs = (rows, rows.roll(6), rows, rows.roll(1))
        check_gradients_of_a_batch(loss(x, LABELS[0], pairs), inputs)
    if loss.takes_references:
        queue = make_batches(20)[1].requires_grad_()
        value = loss(x, LABELS[0], None, queue, torch.arange(20) % 4)
        check_gradients_of_a_batch(value, [*inputs, queue])


@pytest.mark.parametrize("name", [name for name in NAMES if LOSSES[name].weights_name])
def test_gradients_of_a_batch_of_many_rows(name: str) -> None:
    loss, x = make_loss(name).double(), make_batches(810)[0].requires_grad_()
    check_gradients_of_a_batch(loss(x, torch.arange(810) % NUM_CLASSES), [x, *loss.parameters()])


def test_jacobian() -> None:
    x = make_batches()[0]

    def losses(x: Tensor) -> Tensor:
        return functional.sup_con_loss(x, LABELS[0], reduction="none")

    given = x.clone().requires_grad_()
    check_gradients_of_a_batch(losses(given), [given])
    rows = [torch.autograd.functional.vjp(losses, x, unit)[1] for unit in torch.eye(N).double()]
    torch.testing.assert_close(torch.func.jacrev(losses)(x), torch.stack(rows))


@WAYS
@pytest.mark.also_emulated
@EVERY
def test_nested_derivatives_are_clear_errors(name: str) -> None:
    loss: BaseLoss = make_loss(name).double()
    x = make_batches()[0]

    def slope(x: Tensor) -> Tensor:
        return torch.func.grad(loss)(x, LABELS[0]).sum()

    try:
        torch.func.grad(slope)(x)
    except NotImplementedError as error:
        assert re.search(r"can be differentiated once.*fusedml\.dense", str(error))
    else:
        pytest.skip("it is made of PyTorch's own operations")
    for transform in (torch.func.jacfwd, torch.func.hessian):
        with pytest.raises(NotImplementedError, match=r"forward-mode derivative.*fusedml\.dense"):
            transform(lambda x: loss(x, LABELS[0]))(x)


OTHERS = [
    name
    for name in calls(12)
    if name.partition(",")[0] in {**TWO_TOWER_LOSSES, **DISTILLATION_LOSSES}
]


@pytest.fixture
def _without_fallback():
    """PyTorch's own loop over the batch, which warns that it is slow, raises."""
    torch._C._functorch._set_vmap_fallback_enabled(False)
    yield
    torch._C._functorch._set_vmap_fallback_enabled(True)


@WAYS
@pytest.mark.parametrize("name", OTHERS)
def test_gradients_of_a_batch_of_other_calls(name: str) -> None:
    call = calls(12)[name]
    given = [*call.arguments.values()]
    value, inputs = call.make()(*given), [x for x in given if getattr(x, "requires_grad", False)]
    found = torch.autograd.grad(value, inputs, retain_graph=True, allow_unused=True)
    used = [x for x, grad in zip(inputs, found, strict=True) if grad is not None]
    check_gradients_of_a_batch(value, used)


@WAYS
@pytest.mark.usefixtures("_without_fallback")
@pytest.mark.parametrize("name", OTHERS)
def test_other_calls(name: str) -> None:
    call = calls(12)[name]
    first, *rest = call.arguments.values()
    loss, x = call.make(), torch.stack([first.detach(), 0.5 * first.detach().flip(0)])

    def of(x: Tensor) -> Tensor:
        return loss(x, *rest)

    assert_as_in_a_loop(of, x)
    assert_as_in_a_loop(torch.func.grad(of), x)


@pytest.mark.parametrize("transformed", [vmap, lambda loss: vmap(grad(loss))])
@pytest.mark.parametrize(
    "loss",
    [
        losses.NTXentLoss(reducer=reducers.ThresholdReducer(low=0.1)),
        losses.ContrastiveLoss(reducer=reducers.ClassWeightedReducer(torch.ones(64))),
        losses.TripletMarginLoss(backend="dense"),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_what_must_be_listed_of_labels_that_differ(loss, transformed) -> None:
    batches = [make_batch(24, seed=seed) for seed in range(2)]
    embeddings = torch.stack([x.detach() for x, _ in batches])
    labels = torch.stack([y for _, y in batches])
    name = type(loss).__name__
    with pytest.raises(NotImplementedError, match=rf"{name} lists pairs .* call it in a loop"):
        transformed(loss)(embeddings, labels)
    assert transformed(lambda x: loss(x, labels[0]))(embeddings).shape[0] == 2


@pytest.mark.parametrize("transformed", [vmap, lambda loss: vmap(grad(loss))])
def test_index_tuples_that_differ(transformed) -> None:
    embeddings = torch.randn(2, 24, 8)
    rows = torch.arange(24).repeat(2, 1)
    indices = rows, (rows + 6) % 24, rows, (rows + 1) % 24
    loss = losses.SupConLoss()
    with pytest.raises(NotImplementedError, match=r"indices_tuple must be the same .* SupConLoss"):
        transformed(lambda x, *given: loss(x, None, given))(embeddings, *indices)


def test_other_errors_stay_as_they_are() -> None:
    embeddings, labels = torch.randn(2, 24, 8), torch.zeros(2, 23)
    with pytest.raises(ValueError, match="labels"):
        vmap(losses.SupConLoss())(embeddings, labels)
