"""What a loss says of waiting for the GPU, ``waits_for_host``, against what its steps do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fusedml.engine import engines, joint_rows, ops, threshold_rows
from fusedml.engine.routes import label_order
from fusedml.engine.routes.joint_pairs import JointPairs
from fusedml.losses import DISTILLATION_LOSSES, LOSSES, TWO_TOWER_LOSSES, BaseLoss
from fusedml.memory import CrossBatchMemory
from fusedml.reducers import DivisorReducer
from tests.host_waits import DEVICE, HostWait, no_host_waits

N, D, NUM_CLASSES = 300, 64, 300
LABELS = torch.empty(N, dtype=torch.int64, device=DEVICE)


@pytest.fixture(autouse=True)
def _engines_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by the first step on a device."""
    monkeypatch.setitem(engines._found, ("auto", DEVICE), None)


def rows(width: int = D) -> Tensor:
    return torch.empty(N, width, dtype=torch.bfloat16, device=DEVICE).requires_grad_()


def make_loss(name: str, **arguments: object) -> BaseLoss:
    return LOSSES[name].of_sizes(NUM_CLASSES, D, **arguments).to(DEVICE)


def wait_of(loss: Callable[..., Tensor], *given: object, **named: object) -> HostWait | None:
    """Where forward and backward would wait for a GPU."""
    parameters = loss.parameters() if isinstance(loss, torch.nn.Module) else ()
    leaves = [*parameters, *given, *named.values()]
    try:
        with no_host_waits():
            value = loss(*given, **named)
            wanted = [x for x in leaves if isinstance(x, Tensor) and x.requires_grad]
            torch.autograd.grad(value, wanted, allow_unused=True)
    except HostWait as wait:
        return wait
    return None


@pytest.mark.parametrize("least_rows", [1, label_order.LEAST_ROWS], ids=["sorted", "as given"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_wait_as_they_say(
    name: str, least_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_order, "LEAST_ROWS", least_rows)
    wait = wait_of(make_loss(name), rows(), LABELS)
    assert (wait is not None) == LOSSES[name].waits_for_host, wait


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.takes_references])
def test_losses_of_references_wait_as_they_say(name: str) -> None:
    references = {"ref_emb": rows(), "ref_labels": LABELS.clone()}
    wait = wait_of(make_loss(name), rows(), LABELS, **references)
    assert (wait is not None) == LOSSES[name].waits_for_host, wait


@pytest.mark.parametrize("name", LOSSES)
def test_learnt_hyperparameters_wait_no_more(name: str) -> None:
    loss = make_loss(name)
    for key in loss.hyperparameters:
        if type(getattr(loss, key)) in (int, float):
            setattr(loss, key, torch.nn.Parameter(torch.empty((), device=DEVICE)))
    wait = wait_of(loss, rows(), LABELS)
    assert (wait is not None) == LOSSES[name].waits_for_host, wait


@pytest.mark.parametrize("is_learnt", [False, True], ids=["numbers", "learnt"])
@pytest.mark.parametrize("name", TWO_TOWER_LOSSES)
def test_two_towers_do_not_wait(name: str, is_learnt: bool) -> None:
    loss = TWO_TOWER_LOSSES[name]()
    arguments = dict(loss.example_arguments)
    if is_learnt:
        arguments = {key: torch.empty((), device=DEVICE).requires_grad_() for key in arguments}
    assert wait_of(loss, rows(), rows(), **arguments) is None


@pytest.mark.parametrize("name", DISTILLATION_LOSSES)
def test_distillation_does_not_wait(name: str) -> None:
    loss = DISTILLATION_LOSSES[name].of_weights(None).to(DEVICE)
    assert wait_of(loss.of_teacher, rows(), LABELS, rows(2 * D)) is None


def test_memory_and_mining_do_not_wait() -> None:
    memory = CrossBatchMemory(make_loss("MultiSimilarityLoss"), D, 1000).to(DEVICE)
    assert wait_of(memory, rows(), LABELS) is None
    assert wait_of(make_loss("MultiSimilarityLoss", mining_epsilon=0.1), rows(), LABELS) is None


def test_divisor_that_is_a_number_does_not_wait() -> None:
    given = {"losses": rows(1)[:, 0], "indices": None, "reduction_type": "element", "divisor": 3}
    loss_dict = {"loss": given}
    assert wait_of(DivisorReducer(), loss_dict, rows(), LABELS) is None


def test_operators_wait_as_their_tags_say(monkeypatch: pytest.MonkeyPatch) -> None:
    # the operator, which it otherwise chooses by the number of positives
    monkeypatch.setattr(JointPairs, "_may_be_listed", lambda *_: False)
    waits = [wait_of(make_loss(name), rows(), LABELS) for name in LOSSES]
    found = {wait.within for wait in waits if wait is not None}
    assert found == {"triplet_losses", "rank_losses", "joint_pair_losses"}
    unsafe = getattr(torch.Tag, "cudagraph_unsafe", None)
    for name in (*joint_rows.KERNELS, *threshold_rows.KERNELS):
        forward = name.replace("gradient", "losses")
        assert (forward in found) == (name in ops.WAITING)
        tags = ops.operator(name, "auto").default.tags
        assert unsafe is None or (unsafe in tags) == (name in ops.WAITING)


X = torch.empty(4, 3, device=DEVICE)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: X.sum().item(),
        X[0].tolist,
        lambda: bool((X > 0).any()),
        X.cpu,
        lambda: torch.ones(3, device="cpu").to(DEVICE),
        lambda: torch.tensor([1.0, 2.0], device=DEVICE),
        lambda: torch.as_tensor(1.0, device=DEVICE),
        lambda: X.new_tensor([1.0, 2.0]),
        lambda: X.clone().copy_(torch.ones(4, 3, device="cpu")),
        lambda: X[X > 0],
        lambda: X.clone().index_put_((X > 0,), X[0, 0]),
        X.nonzero,
        X.unique,
        lambda: torch.bincount(X[0].long()),
        lambda: torch.repeat_interleave(X[0].long()),
    ],
)
def test_watch_sees_what_waits(ask: Callable[[], object]) -> None:
    with pytest.raises(HostWait), no_host_waits():
        ask()


def test_watch_lets_pass_what_does_not() -> None:
    with no_host_waits():
        x = X * 2 + torch.tensor(3.0, dtype=torch.float64, device="cpu")
        x = torch.where(x > 0, x, 0)[torch.arange(2, device=DEVICE)].to(torch.float16)
        x.masked_fill_(x > 0, 1)
        torch.as_tensor(x, device=DEVICE)
        torch.repeat_interleave(x, X[0, :2].long(), dim=0, output_size=7)
