"""Whatever is done to the parameters and attributes of any module works on hyper-parameters.

The right values are those of the formula, written out in float64.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.utils import parametrize, prune

from fusedml import functional
from fusedml.losses import BaseLoss, MultiSimilarityLoss, NTXentLoss, ProxyAnchorLoss, SupConLoss
from tests.losses.made import make_batch

# both sides of what is computed by whole matrices
SIZES = pytest.mark.parametrize("n", [24, 804])
COMPILED = pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def batch(n: int = 24) -> tuple[Tensor, Tensor]:
    embeddings, labels = make_batch(n)
    return embeddings.detach(), labels


def sup_con(embeddings: Tensor, labels: Tensor, temperature: Tensor | float) -> Tensor:
    """Khosla et al., 2020, eq. (2): every anchor of the batch has positives and negatives."""
    x = torch.nn.functional.normalize(embeddings.double())
    logit = x @ x.T / temperature
    others = ~torch.eye(len(x), dtype=torch.bool)
    positive = (labels[:, None] == labels) & others
    lse = torch.where(others, logit, -torch.inf).logsumexp(1)
    return (lse - (logit * positive).sum(1) / positive.sum(1)).mean()


def check(loss: BaseLoss, temperature: float, n: int = 24, compiled: bool = False) -> None:
    """Value, and gradients of the tensors that require one, against the formula."""
    embeddings, labels = batch(n)
    run = torch.compile(loss, fullgraph=True, backend="aot_eager") if compiled else loss
    wanted = [p for p in loss.parameters() if p.requires_grad]
    number = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    actual, expected = run(embeddings, labels), sup_con(embeddings, labels, number)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0, check_dtype=False)
    (slope,) = torch.autograd.grad(expected, number)
    for grad in torch.autograd.grad(actual, wanted) if wanted else ():
        torch.testing.assert_close(grad.double().sum(), slope, rtol=1e-5, atol=0)


def learnt(value: float = 0.2, *shape: int) -> nn.Parameter:
    return nn.Parameter(torch.full(shape, value, dtype=torch.float64))


@COMPILED
@SIZES
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_built_under_another_default_device(device: str, n: int, compiled: bool) -> None:
    with torch.device(device):
        loss = SupConLoss(0.2)
        copies = [copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), copy.copy(loss)]
    for built in (loss.to_empty(device="cpu"), *copies):
        assert built.temperature == 0.2
        check(built, 0.2, n, compiled)


@SIZES
def test_called_under_another_default_device(n: int) -> None:
    embeddings, labels = batch(n)
    loss = SupConLoss(0.2)
    with torch.device("meta"):
        values = [
            loss(embeddings, labels),
            functional.sup_con_loss(embeddings, labels, temperature=0.2),
        ]
    for value in values:
        torch.testing.assert_close(value, sup_con(embeddings, labels, 0.2))


def test_loaded_on_another_device() -> None:
    file = io.BytesIO()
    torch.save(SupConLoss(0.2), file)
    file.seek(0)
    check(torch.load(file, map_location="meta", weights_only=False), 0.2, compiled=True)


@COMPILED
def test_parameter_built_on_the_meta_device(compiled: bool) -> None:
    with torch.device("meta"):
        loss = SupConLoss(nn.Parameter(torch.tensor(0.5, dtype=torch.float64)))
    assert loss.temperature.is_meta
    loss.to_empty(device="cpu")
    with torch.no_grad():
        loss.temperature.fill_(0.2)
    check(loss, 0.2, compiled=compiled)


def test_tensors_are_read_as_they_were_assigned() -> None:
    loss = SupConLoss()
    for value in (
        torch.tensor(0.2),
        torch.tensor([0.2], requires_grad=True),
        torch.tensor(0.2, dtype=torch.float16),
    ):
        loss.temperature = value
        assert loss.temperature is value
    for value in (learnt(), learnt(0.2, 1), nn.Buffer(torch.tensor(0.2))):
        loss.temperature = 0.1
        loss.temperature = value
        assert loss.temperature is value
        assert list(loss.state_dict()) == ["temperature"]


@COMPILED
@SIZES
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_parameters_of_one_element(shape: tuple[int, ...], n: int, compiled: bool) -> None:
    loss = SupConLoss(learnt(0.2, *shape))
    check(loss, 0.2, n, compiled)
    assert loss.temperature.shape == shape


@COMPILED
def test_frozen_and_unfrozen(compiled: bool) -> None:
    loss = SupConLoss(learnt())
    for requires_grad in (False, True):
        loss.requires_grad_(requires_grad)
        assert isinstance(loss.temperature, nn.Parameter)
        check(loss, 0.2, compiled=compiled)
        loss.temperature.requires_grad_(not requires_grad)
        check(loss, 0.2, compiled=compiled)


@COMPILED
def test_changed_in_place(compiled: bool) -> None:
    loss = SupConLoss(learnt())
    parameter = loss.temperature
    with torch.no_grad():
        loss.temperature.mul_(3)
        loss.temperature.clamp_(max=0.5)
        loss.temperature *= 2
        loss.temperature.data.div_(2)
    assert loss.temperature is parameter
    check(loss, 0.5, compiled=compiled)


def test_changes_need_no_other_graph() -> None:
    embeddings, labels = batch()
    for value in (0.2, learnt(), learnt(0.2, 1)):
        torch._dynamo.reset()
        counters.clear()
        loss = SupConLoss(value)
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        for _ in range(4):
            with torch.no_grad():
                loss.temperature *= 1.1
            expected = sup_con(embeddings, labels, loss.temperature)
            torch.testing.assert_close(compiled(embeddings, labels), expected)
        assert counters["stats"]["unique_graphs"] == 1


def test_read_built_and_assigned_in_compiled_code() -> None:
    embeddings, labels = batch()
    loss = SupConLoss()

    def read(x: Tensor, _: float) -> Tensor:
        return loss(x, labels) * loss.temperature

    def build(x: Tensor, _: float) -> Tensor:
        return SupConLoss(0.2)(x, labels)

    def assign(x: Tensor, temperature: float) -> Tensor:
        loss.temperature = temperature
        return loss(x, labels)

    for value in (0.2, 0.3):
        for function in (assign, read, build):
            compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
            actual = compiled(embeddings, value)
            torch.testing.assert_close(actual, function(embeddings, value))


class Exp(nn.Module):
    def forward(self, logarithm: Tensor) -> Tensor:
        return logarithm.exp()

    def right_inverse(self, value: Tensor) -> Tensor:
        return value.log()


@COMPILED
def test_parametrized(compiled: bool) -> None:
    loss = SupConLoss(learnt())
    parametrize.register_parametrization(loss, "temperature", Exp())
    embeddings, labels = batch()
    run = torch.compile(loss, fullgraph=True, backend="aot_eager") if compiled else loss
    logarithm = torch.tensor(0.2, dtype=torch.float64).log().requires_grad_()
    actual, expected = run(embeddings, labels), sup_con(embeddings, labels, logarithm.exp())
    torch.testing.assert_close(actual, expected)
    (parameter,) = loss.parameters()
    torch.testing.assert_close(
        torch.autograd.grad(actual, parameter), torch.autograd.grad(expected, logarithm)
    )
    other = copy.deepcopy(loss)
    loss.temperature = torch.tensor(0.3, dtype=torch.float64)
    torch.testing.assert_close(run(embeddings, labels), sup_con(embeddings, labels, 0.3))
    torch.testing.assert_close(other(embeddings, labels), expected)
    parametrize.remove_parametrizations(loss, "temperature")
    assert list(loss.state_dict()) == ["temperature"]
    check(loss, 0.3)


def test_pruned() -> None:
    loss = SupConLoss(learnt(0.2, 1))
    prune.identity(loss, "temperature")
    check(loss, 0.2)


def copied(loss: BaseLoss) -> BaseLoss:
    return copy.copy(loss)


def replicated(loss: BaseLoss) -> BaseLoss:
    """As ``torch.nn.parallel.replicate`` makes them: parameters become plain tensors."""
    replica = loss._replicate_for_data_parallel()
    for name, parameter in loss._parameters.items():
        setattr(replica, name, parameter * 1)
    return replica


@pytest.mark.parametrize("way", [copied, copy.deepcopy, replicated])
@pytest.mark.parametrize("value", [0.2, torch.tensor(0.2).double()], ids=["number", "tensor"])
def test_copies_are_their_own(way: Callable[[BaseLoss], BaseLoss], value: float | Tensor) -> None:
    loss = SupConLoss(value)
    other = way(loss)
    check(other, 0.2)
    other.temperature = 0.4
    check(other, 0.4)
    assert loss.temperature is value or loss.temperature == 0.2
    loss.temperature = 0.3
    check(loss, 0.3)
    check(other, 0.4)


@pytest.mark.parametrize("way", [copied, copy.deepcopy])
def test_copies_of_a_parameter_can_be_set(way: Callable[[BaseLoss], BaseLoss]) -> None:
    loss = SupConLoss(learnt())
    other = way(loss)
    other.temperature = 0.4
    check(other, 0.4)
    check(loss, 0.2)
    assert list(loss.state_dict()) == ["temperature"] and not other.state_dict()


def test_replicas_of_a_parameter() -> None:
    loss = SupConLoss(learnt())
    embeddings, labels = batch()
    values = [x(embeddings, labels) for x in (replicated(loss), loss)]
    torch.testing.assert_close(*(torch.autograd.grad(v, loss.temperature) for v in values))


def test_called_functionally() -> None:
    loss, (embeddings, labels) = SupConLoss(learnt(0.5)), batch()

    def value(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(loss, parameters, (embeddings, labels))

    number = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    grad = torch.func.grad(value)({"temperature": number.detach()})["temperature"]
    (expected,) = torch.autograd.grad(sup_con(embeddings, labels, number), number)
    torch.testing.assert_close(grad, expected)
    check(loss, 0.5)


@SIZES
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_moved_to_another_dtype(dtype: torch.dtype, n: int) -> None:
    """A small temperature, whose inverse overflows in float16."""
    small = float(torch.tensor(1e-5, dtype=dtype))
    for value in (learnt(1e-5), nn.Buffer(torch.tensor(1e-5))):
        loss = SupConLoss(value).to(dtype).requires_grad_(False)
        assert loss.temperature.dtype == dtype
        check(loss, small, n)
    assert SupConLoss(1e-5).to(dtype).temperature == 1e-5


def test_state() -> None:
    loss = SupConLoss(learnt())
    SupConLoss().load_state_dict({})
    other = SupConLoss(learnt(0.7))
    other.load_state_dict(loss.state_dict())
    check(other, 0.2)
    with pytest.raises(RuntimeError, match="temperature"):
        SupConLoss().load_state_dict(loss.state_dict())


def test_assigning_keeps_the_order_of_the_parameters() -> None:
    loss = ProxyAnchorLoss(6, 8, margin=learnt(0.1), alpha=learnt(32))
    before = list(loss.state_dict())
    with torch.no_grad():
        loss.margin *= 2
    loss.margin = learnt(0.3)
    assert list(loss.state_dict()) == before


def test_deleted_and_registered_anew() -> None:
    loss = NTXentLoss()
    del loss.temperature
    assert not hasattr(loss, "temperature")
    with pytest.raises(AttributeError, match="'NTXentLoss' object has no attribute 'temperature'"):
        loss.temperature  # noqa: B018
    loss.register_parameter("temperature", learnt())
    assert loss.temperature == 0.2
    del loss.temperature
    loss.register_buffer("temperature", torch.tensor(0.2))
    loss.temperature = 0.3
    assert loss.temperature == 0.3
    assert not loss.state_dict()


def test_a_parameter_is_not_lost_by_accident() -> None:
    """As in any module; and a refused value changes nothing."""
    loss = MultiSimilarityLoss(alpha=learnt(2), mining_epsilon=learnt(0.1))
    with pytest.raises(TypeError, match=r"cannot assign .* as parameter 'alpha'"):
        loss.alpha = loss.alpha.clamp(min=1)
    for value in (-1, "1", torch.ones(2)):
        with pytest.raises((TypeError, ValueError)):
            loss.alpha = value
    assert isinstance(loss.alpha, nn.Parameter)
    loss.mining_epsilon = None
    assert [name for name, _ in loss.named_parameters()] == ["alpha"]


@COMPILED
def test_a_property_of_a_subclass(compiled: bool) -> None:
    class Learnt(SupConLoss):
        def __init__(self) -> None:
            super().__init__()
            self.logarithm = nn.Parameter(torch.tensor(0.2, dtype=torch.float64).log())

        @property
        def temperature(self) -> Tensor:
            return self.logarithm.exp()

        @temperature.setter
        def temperature(self, _: float) -> None:
            pass

    loss = Learnt().requires_grad_(False)
    check(loss, 0.2, compiled=compiled)
    assert list(loss.state_dict()) == ["logarithm"]
