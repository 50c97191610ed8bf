"""What every loss of the registry must do, whatever its formula."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from torch.utils.checkpoint import checkpoint

from fusedml import losses, reducers
from tests.losses.made import (
    DIMENSION,
    NAMES,
    NUM_CLASSES,
    PAIR_LOSSES,
    gradient,
    is_differentiable_twice,
    make_batch,
    make_loss,
)

pytestmark = pytest.mark.usefixtures("whole_or_tiles")

EVERY = pytest.mark.parametrize("name", NAMES)
THEIRS = pytest.mark.parametrize("name", [name for name in NAMES if hasattr(pml_losses, name)])


@THEIRS
def test_constructor_is_theirs(name: str) -> None:
    theirs = inspect.signature(getattr(pml_losses, name).__init__).parameters
    ours = inspect.signature(losses.LOSSES[name].__init__).parameters
    for key, parameter in theirs.items():
        if parameter.kind is parameter.VAR_POSITIONAL:  # passed on to their base
            continue
        assert key in ours
        assert ours[key].default == parameter.default
    positional = [key for key, p in ours.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    expected = [key for key, p in theirs.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional[: len(expected)] == expected


@THEIRS
def test_call_is_theirs(name: str) -> None:
    theirs = inspect.signature(getattr(pml_losses, name).forward).parameters
    ours = inspect.signature(losses.LOSSES[name].forward).parameters
    # what takes a misspelt keyword says what was meant
    ours = {key: p for key, p in ours.items() if p.kind is not p.VAR_KEYWORD}
    added = [p for p in ours.values() if p.name not in theirs]
    assert [(p.name, p.default) for p in ours.values() if p not in added] == [
        (p.name, p.default) for p in theirs.values()
    ]
    # what is ours alone disturbs no call of theirs
    assert all(p.kind == p.KEYWORD_ONLY and p.default is None for p in added)


@THEIRS
def test_state_dict_is_theirs(name: str) -> None:
    needed = losses.LOSSES[name].needed_arguments(NUM_CLASSES, DIMENSION)
    ours, theirs = make_loss(name), getattr(pml_losses, name)(**needed)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }


@EVERY
def test_hyperparameters_read_as_numbers(name: str) -> None:
    loss = make_loss(name)
    parameters = inspect.signature(losses.LOSSES[name].__init__).parameters
    given = loss.needed_arguments(NUM_CLASSES, DIMENSION)
    for key in (*loss.hyperparameters, *loss.switches):
        expected = given.get(key, parameters[key].default)
        # None may stand for a number
        assert getattr(loss, key) == expected or expected is None
    learnt = {key for key, _ in loss.named_parameters()}
    assert set(loss.hyperparameters) & set(loss.state_dict()) <= learnt


@EVERY
def test_unknown_keyword(name: str) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'marginn'"):
        make_loss(name, marginn=1)


@EVERY
def test_backend(name: str) -> None:
    embeddings, labels = make_batch()
    with pytest.raises(
        ValueError, match="backend must be one of 'auto', 'cuda', 'torch', 'dense', got 'x'"
    ):
        make_loss(name, backend="x")
    with pytest.raises(ValueError, match="backend='cuda' needs embeddings on a CUDA device"):
        make_loss(name, backend="cuda")(embeddings, labels)
    torch.manual_seed(0)
    auto = make_loss(name)(embeddings, labels)
    torch.manual_seed(0)
    assert torch.equal(auto, make_loss(name, backend="torch")(embeddings, labels))


@EVERY
def test_copy_and_pickle(name: str) -> None:
    loss = make_loss(name)
    embeddings, labels = make_batch()
    expected = loss(embeddings, labels)
    assert torch.equal(copy.deepcopy(loss)(embeddings, labels), expected)
    assert torch.equal(pickle.loads(pickle.dumps(loss))(embeddings, labels), expected)


@pytest.mark.also_emulated
@EVERY
@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_rows_backpropagate(name: str, n: int) -> None:
    embeddings, _ = make_batch(n)
    value, grad = gradient(make_loss(name).double(), embeddings, torch.arange(n))
    assert value.dtype == torch.float64
    assert grad.shape == (n, DIMENSION)
    assert torch.isfinite(grad).all()
    if n < 2 and not losses.LOSSES[name].weights_name:
        assert value == 0
        assert not grad.any()


@pytest.mark.also_emulated
@EVERY
def test_empty_proxy_batch_is_zero(name: str) -> None:
    embeddings, labels = make_batch(0)
    assert make_loss(name)(embeddings, labels) == 0


@pytest.mark.also_emulated
@EVERY
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("row", [0, 13])
def test_non_finite_embeddings(name: str, value: float, row: int) -> None:
    embeddings, labels = make_batch()
    embeddings = embeddings.detach().clone()
    embeddings[row, 3] = value
    assert make_loss(name)(embeddings, labels).isnan()
    i, j = torch.where(torch.ones(20, 20) - torch.eye(20) > 0)
    positive = labels[i] == labels[j]
    pairs = (i[positive], j[positive], i[~positive], j[~positive])
    if name in PAIR_LOSSES:
        assert make_loss(name)(embeddings, None, pairs).isnan()
        elsewhere = (i != row) & (j != row)
        kept = (elsewhere[positive],) * 2 + (elsewhere[~positive],) * 2
        unlisted = tuple(x[keep] for x, keep in zip(pairs, kept, strict=True))
        assert make_loss(name)(embeddings, None, unlisted).isnan()
        finite = make_batch(seed=1)[0]
        assert make_loss(name)(finite, labels, None, embeddings, labels.clone()).isnan()


@EVERY
def test_non_contiguous_inputs(name: str) -> None:
    loss = make_loss(name).double()
    embeddings, labels = make_batch()
    strided = torch.empty(DIMENSION, 2 * len(labels), dtype=torch.float64)
    strided[:, ::2] = embeddings.detach().T
    strided = strided[:, ::2].T.requires_grad_()
    strided_labels = torch.stack([labels, labels], 1)[:, 0]
    assert not strided.is_contiguous()
    expected, actual = gradient(loss, embeddings, labels), gradient(loss, strided, strided_labels)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12)


@pytest.mark.also_emulated
@EVERY
def test_upstream_gradient(name: str) -> None:
    loss = make_loss(name).double()
    embeddings, labels = make_batch()
    _, expected = gradient(loss, embeddings, labels)
    (actual,) = torch.autograd.grad(loss(embeddings, labels) * -3.5, embeddings)
    torch.testing.assert_close(actual, -3.5 * expected, rtol=1e-12, atol=1e-12)


@pytest.mark.also_emulated
@EVERY
def test_gradcheck(name: str, whole_or_tiles: str) -> None:
    loss = make_loss(name).double()
    embeddings, labels = make_batch(9)
    if not loss.gradient_is_derivative:
        dense = make_loss(name, backend="dense").double()
        expected = gradient(dense, embeddings, labels % 3)[1]
        torch.testing.assert_close(gradient(loss, embeddings, labels % 3)[1], expected)
        return
    # the emulator takes its time: one direction of all, where the others take every coordinate
    is_slow = whole_or_tiles == "emulated"
    torch.autograd.gradcheck(lambda x: loss(x, labels % 3), embeddings, fast_mode=is_slow)


@pytest.mark.also_emulated
@EVERY
def test_second_derivative_raises_or_is_right(name: str, whole_or_tiles: str) -> None:
    embeddings, labels = make_batch()
    is_twice = is_differentiable_twice(name)
    # kernels have none; what is small, or has none yet, PyTorch computes beside them
    assert is_twice == losses.LOSSES[name].has_second_derivative or whole_or_tiles == "emulated"
    if is_twice:
        loss, x = make_loss(name).double(), embeddings[:9].detach().double().requires_grad_()
        torch.autograd.gradgradcheck(lambda x: loss(x, labels[:9] % 3), x, fast_mode=True)
        return
    (grad,) = torch.autograd.grad(
        make_loss(name)(embeddings, labels), embeddings, create_graph=True
    )
    with pytest.raises(NotImplementedError, match="can be differentiated once"):
        grad.sum().backward()


@EVERY
def test_torch_func_grad(name: str) -> None:
    loss = make_loss(name).double()
    embeddings, labels = make_batch()
    actual = torch.func.grad(lambda x: loss(x, labels))(embeddings.detach())
    torch.testing.assert_close(actual, gradient(loss, embeddings, labels)[1])


@EVERY
def test_activation_checkpointing(name: str) -> None:
    loss = make_loss(name).double()
    embeddings, labels = make_batch()
    value = checkpoint(loss, embeddings, labels, use_reentrant=False)
    (grad,) = torch.autograd.grad(value, embeddings)
    assert torch.equal(grad, gradient(loss, embeddings, labels)[1])


@pytest.mark.also_emulated
@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    loss = make_loss(name)
    embeddings, labels = make_batch(dtype=dtype)
    exact, exact_grad = gradient(
        loss.double(), embeddings.detach().double().requires_grad_(), labels
    )
    value, grad = gradient(loss.float(), embeddings, labels)
    assert value.dtype == grad.dtype == dtype
    eps = torch.finfo(dtype).eps
    # unit embeddings are rounded by eps / 2 a component; the logits' largest slope is 50 (beta)
    assert abs(value.double() - exact) <= 50 * eps * (1 + exact)
    assert (grad.double() - exact_grad).abs().max() <= 50 * eps * (1 + exact_grad.abs().max())


@pytest.mark.also_emulated
@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(name: str, dtype: torch.dtype) -> None:
    loss = make_loss(name)
    embeddings, labels = make_batch(dtype=torch.float32)
    exact, exact_grad = gradient(loss, embeddings, labels)
    with torch.autocast("cpu", dtype=dtype):
        value = loss(embeddings, labels)
        half = loss(embeddings.to(dtype), labels)
        double = loss(embeddings.double(), labels)
    assert value.dtype == half.dtype == torch.float32
    assert double.dtype == torch.float64
    (grad,) = torch.autograd.grad(value, embeddings)
    assert grad.dtype == torch.float32
    eps = torch.finfo(dtype).eps
    assert abs(value - exact) <= 50 * eps * (1 + exact)
    assert (grad - exact_grad).abs().max() <= 50 * eps * (1 + exact_grad.abs().max())
    # what autocast measures is rounded: the float32 loss is another number
    has_products = losses.LOSSES[name].matrix_shape([1] * 4, 0, NUM_CLASSES)[1] > 1
    if has_products:
        assert value != exact


@EVERY
def test_same_bits_on_two_runs(name: str) -> None:
    loss = make_loss(name)
    embeddings, labels = make_batch(200, torch.float32)
    for a, b in zip(
        gradient(loss, embeddings, labels), gradient(loss, embeddings, labels), strict=True
    ):
        assert torch.equal(a, b)


@EVERY
def test_labels_are_not_changed_and_may_be_a_view(name: str) -> None:
    embeddings, labels = make_batch()
    before = labels.clone()
    make_loss(name)(embeddings, labels[:])
    assert torch.equal(labels, before)


@EVERY
def test_reducer_is_copied_for_each_sub_loss(name: str) -> None:
    reducer = reducers.ThresholdReducer(low=0.1)
    loss = make_loss(name, reducer=reducer)
    has_several = len(loss.sub_loss_names()) > 1
    copies = loss.reducer.reducers.values() if has_several else [loss.reducer]
    for one in copies:
        assert type(one) is reducers.ThresholdReducer
        assert one is not reducer
