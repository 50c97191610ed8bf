"""Hopper's own instructions behind the operators: results, choice, and what is said where not."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fusedml.engine import autograd, engines, ops
from fusedml.engine.engines import VARIABLE
from tests.gpu.device import BACKEND, DEVICE, IS_EMULATED, on_device, operator
from tests.number_types import NUMBER_TYPES
from tests.problems import dense_statistics, in_dtype, inputs_of, make_problem, weighted_sum

LOGIT = (-2.3, 0.4, 7.1, -1.5)
HEAD = "softplus_sum", torch.tensor([2.0, 10.0], dtype=torch.float64)


def _has_hopper() -> bool:
    return IS_EMULATED or torch.cuda.get_device_capability()[0] == 9


@pytest.fixture(autouse=True)
def _engine(monkeypatch):
    if not _has_hopper():
        pytest.skip("the GPU is not of architecture sm_90")
    monkeypatch.setattr(
        engines, "_found", {(BACKEND, str(torch.ones(0, device=DEVICE).device)): None}
    )


class Calls(TorchDispatchMode):
    """The names of the operators that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.__name__.partition(".")[0])
        return func(*args, **(kwargs or {}))


def sorted_problem(n, m, d, dtype=torch.bfloat16, requires_grad=True):
    """Eight rows of a class, so that no class is in two squares."""
    problem = make_problem(n, m, 70, dtype=dtype, d=d, seed=n, requires_grad=requires_grad)
    return on_device(
        problem._replace(
            anchor_labels=torch.arange(n) // 8,
            reference_labels=None if m is None else torch.arange(m) // 8,
        )
    )


def logit():
    return torch.tensor(LOGIT, dtype=torch.float64)


# (n, m, d): squares of 256 pairs, and of 128 backward for d up to 128
@pytest.mark.parametrize(
    "name, n, m, d",
    [
        ("bfloat16", 530, None, 72),
        ("float16", 520, None, 200),
        ("bfloat16", 300, 270, 64),
    ],
)
def test_statistics_and_gradients(name, n, m, d, monkeypatch):
    monkeypatch.setenv(VARIABLE, "hopper")
    number_type = NUMBER_TYPES[name]
    problem = sorted_problem(n, m, d, number_type.dtype)
    exact_problem, plain_problem = (
        in_dtype(problem, torch.float64),
        in_dtype(problem, problem.anchors.dtype),
    )
    exact = dense_statistics(exact_problem, logit().to(DEVICE))
    plain = dense_statistics(plain_problem, logit().to(DEVICE, number_type.plain))
    with Calls() as calls:
        ours = autograd.pair_statistics(problem, logit(), backend=BACKEND)
    assert "hopper_pair_statistics" in calls.names
    for field, a, e, p in zip(ours._fields, ours, exact, plain, strict=True):
        if a.is_floating_point():
            number_type.assert_close(a, e, p, field)
        else:
            assert torch.equal(a, e), field
    weights = torch.randn(3, n, dtype=torch.float64, device=DEVICE)

    def gradients(row, of):
        return torch.autograd.grad(
            weighted_sum(row, weights.to(row[0].dtype)), of, retain_graph=True
        )

    with Calls() as calls:
        found = gradients(ours, inputs_of(problem))
    assert "hopper_pair_gradient" in calls.names
    for a, e, p in zip(
        found,
        gradients(exact, inputs_of(exact_problem)),
        gradients(plain, inputs_of(plain_problem)),
        strict=True,
    ):
        number_type.assert_close(a, e, p, "gradient")
    for a, b in zip(found, gradients(ours, inputs_of(problem)), strict=True):
        assert torch.equal(a, b)  # the same bits


def test_losses_of_rows(monkeypatch):
    problem = sorted_problem(300, None, 64)
    losses = []
    for engine in ("mma_sync", "hopper"):
        monkeypatch.setenv(VARIABLE, engine)
        with Calls() as calls:
            losses.append(autograd.row_losses(problem, logit(), *HEAD, backend=BACKEND))
        assert ("hopper_row_losses" in calls.names) == (engine == "hopper")
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"measure": "euclidean"}, "the logits are not affine in the dot product"),
        ({"extent": torch.tensor([20, 20])}, "only the device knows how many rows take part"),
    ],
)
def test_hopper_says_why_not(change, reason, monkeypatch):
    monkeypatch.setenv(VARIABLE, "hopper")
    problem = on_device(sorted_problem(40, None, 64)._replace(**change))
    with pytest.raises(RuntimeError, match=f"FUSEDML_ENGINE='hopper' cannot.*: {reason}"):
        autograd.pair_statistics(problem, logit(), backend=BACKEND)
    monkeypatch.setenv(VARIABLE, "auto")
    autograd.pair_statistics(problem._replace(labels_sorted=True), logit(), backend=BACKEND)


@pytest.mark.parametrize(
    "d, dtype, reason",
    [
        (20, torch.bfloat16, "the dimension is not a multiple of 8"),
        (64, torch.float32, "neither bfloat16 nor float16"),
    ],
)
def test_hopper_says_why_not_these_embeddings(d, dtype, reason, monkeypatch):
    monkeypatch.setenv(VARIABLE, "hopper")
    torch.set_float32_matmul_precision("highest")
    problem = sorted_problem(40, None, d, dtype)
    with pytest.raises(RuntimeError, match=reason):
        autograd.pair_statistics(problem, logit(), backend=BACKEND)


def test_hopper_has_no_gradient_of_the_logit(monkeypatch):
    monkeypatch.setenv(VARIABLE, "hopper")
    problem = sorted_problem(40, None, 64)
    row = autograd.pair_statistics(problem, logit().requires_grad_(), backend=BACKEND)
    with pytest.raises(RuntimeError, match="the gradient of the logit is wanted"):
        row.lse_negative.sum().backward()


def test_auto_falls_back_to_the_same_bits(monkeypatch):
    problem = sorted_problem(150, None, 64)._replace(labels_sorted=True)  # too few pairs
    results = []
    for engine in ("mma_sync", "auto"):
        monkeypatch.setenv(VARIABLE, engine)
        with Calls() as calls:
            row = autograd.pair_statistics(problem, logit(), backend=BACKEND)
            (grad,) = torch.autograd.grad(row.lse_negative.sum(), [problem.anchors])
        assert ("auto_pair_gradient" in calls.names) == (engine == "auto")
        results.append((*row, grad))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_auto_needs_labels_that_are_known_to_be_sorted():
    problem = sorted_problem(40, None, 64)
    with Calls() as calls:
        autograd.pair_statistics(problem, logit(), backend=BACKEND)
    assert "pair_statistics" in calls.names


def test_self_check():
    assert engines.self_check(BACKEND, DEVICE) is None


def test_a_failed_check_falls_back_with_one_warning_or_raises(monkeypatch):
    run = engines._run

    def wrong(prefix, *rest):
        statistics, gradient = run(prefix, *rest)
        return statistics, gradient + (0.1 * gradient.abs().max() if prefix else 0)

    monkeypatch.setattr(engines, "_found", {})
    monkeypatch.setattr(engines, "_CHECKED_SHAPES", ((300, 64),))
    monkeypatch.setattr(engines, "_run", wrong)
    engines._warn_once.cache_clear()
    problem = sorted_problem(150, None, 64)._replace(labels_sorted=True)
    with pytest.warns(UserWarning, match="failed their check") as warned, Calls() as calls:
        for _ in range(2):
            autograd.pair_statistics(problem, logit(), backend=BACKEND)
    assert len(warned) == 1
    assert "pair_statistics" in calls.names and "auto_pair_statistics" not in calls.names
    monkeypatch.setenv(VARIABLE, "hopper")
    with pytest.raises(RuntimeError, match=r"FUSEDML_ENGINE='hopper': .*failed their check"):
        autograd.pair_statistics(problem, logit(), backend=BACKEND)


@pytest.mark.parametrize("name", ops.ENGINE_OPERATORS)
@pytest.mark.parametrize("engine", ["auto", "hopper"])
def test_operators_are_there(engine, name):
    assert operator(f"{engine}_{name}") is not None


def test_a_compiled_graph_has_the_engine_in_it(monkeypatch):
    problem = sorted_problem(40, None, 64)
    graphs = []

    def note(module, _):
        graphs.append(module.print_readable(print_output=False))
        return module.forward

    def loss(anchors, labels, numbers):
        given = problem._replace(anchors=anchors, anchor_labels=labels)
        return autograd.row_losses(given, numbers, *HEAD, backend=BACKEND).sum()

    for engine in ("mma_sync", "hopper"):
        monkeypatch.setenv(VARIABLE, engine)
        torch._dynamo.reset()
        compiled = torch.compile(loss, backend=note, fullgraph=True)
        compiled(problem.anchors, problem.anchor_labels, logit())
        assert ("hopper_row_losses" in graphs[-1]) == (engine == "hopper")
